"""Samples as a build makes them, with real pictures, and the way back: an export built again in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from mimicit.exporting import EXPORTERS
from mimicit.exporting.base import Written
from mimicit.inspecting.summary import iterate_samples
from mimicit.pipeline import build_shards
from mimicit.pipeline.mixture import MIXTURE_NAME, build_config, read_mixture
from mimicit.records import Media, Sample, sample_to_json
from mimicit.schema import canonical_json
from mimicit.shards.tar import Members
from tests.factories.assembling import Part, assemble
from tests.factories.engines import InProcess
from tests.factories.sources import jpeg
from tests.factories.strategies import IDS, TEXT

WORDS = TEXT.map(lambda text: "".join(c for c in text if c >= " " or c in "\t\n").strip()).filter(bool)
"""Texts as importers let them pass: without control characters and without white space at their ends."""
SOURCES = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,8}[a-z0-9])?", fullmatch=True)
META = st.dictionaries(
    TEXT.map("_{}".format), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT, max_size=2
)


def picture(shade: int) -> Media:
    data = jpeg(shade)
    return Media(
        kind="image",
        files=("000.jpg",),
        width=8,
        height=8,
        sha256=(hashlib.sha256(data).hexdigest(),),
        origin=f"{shade}.jpg",
        data=(data,),
    )


def clip(shades: Sequence[int], seconds: float, duration_s: float) -> Media:
    """A clip of a frame every so many ``seconds``; ``duration_s`` is not what could be reckoned from that."""
    data = tuple(map(jpeg, shades))
    times = tuple(round(number * seconds, 6) for number in range(len(shades)))
    return Media(
        kind="video",
        files=tuple(f"{number:03d}.jpg" for number in range(len(data))),
        width=8,
        height=8,
        sha256=tuple(hashlib.sha256(frame).hexdigest() for frame in data),
        origin="c.mp4",
        timestamps_s=times,
        duration_s=duration_s,
        data=data,
    )


MEDIA: dict[int, Media] = {shade: picture(shade) for shade in range(4)} | {
    4: clip((10, 11), 1.0, 2.5),
    5: clip((10, 12, 10), 0.4, 0.8),
    6: clip((13,), 1.0, 1.25),
}
ANY_MEDIA = st.lists(st.sampled_from(tuple(MEDIA)), max_size=2).map(tuple)
PICTURES = st.lists(st.sampled_from([0, 1, 2, 3]), max_size=7).map(tuple)


def make_sample(source: str, parts: Sequence[Part], meta: dict[str, Any]) -> Sample:
    """The sample that a build makes of ``parts``, with its bytes."""
    sample, shown = assemble(parts, MEDIA, id=parts[-1].id, source=source, meta=meta)
    media = tuple(replace(medium, data=MEDIA[key].data) for medium, key in zip(sample.media, shown, strict=True))
    return replace(sample, media=media)


@st.composite
def corpora(
    draw: st.DrawFn, *, shown: st.SearchStrategy[tuple[int, ...]] = ANY_MEDIA, documents: bool = True, sources: int = 2
) -> list[Sample]:
    """The samples of a build of a few sources: contexts of any kind, triplets that are context alone, documents."""
    names = sorted(draw(st.lists(SOURCES, min_size=1, max_size=sources, unique=True)))
    return [sample for name in names for sample in draw(_source(name, shown, documents))]


@st.composite
def _source(draw: st.DrawFn, source: str, shown: st.SearchStrategy[tuple[int, ...]], documents: bool) -> list[Sample]:
    ids = draw(st.lists(IDS.filter(lambda id: "\0" not in id), min_size=1, max_size=6, unique=True))
    pool = [Part(id=id, media=draw(shown), instruction=draw(WORDS), answer=draw(WORDS)) for id in ids]
    samples: list[Sample] = []
    for place, query in enumerate(pool):
        if documents and draw(st.integers(0, 5)) == 0:
            name = f"a document before {place} and longer than any id"
            texts = draw(st.lists(st.tuples(shown, WORDS), min_size=1, max_size=3))
            parts = [
                Part(id=f"{name}#{n}", media=m, instruction="", answer=t, relation="document")
                for n, (m, t) in enumerate(texts)
            ]
            parts[-1] = replace(parts[-1], id=name)
            samples.append(make_sample(source, parts, draw(META)))
        if place and draw(st.integers(0, 3)) == 0:
            continue  # context alone, where some other query takes it
        others = draw(st.lists(st.sampled_from(pool), max_size=3, unique_by=lambda part: part.id))
        context = [replace(part, relation=draw(_relation(part, query))) for part in others if part.id != query.id]
        samples.append(make_sample(source, [*context, query], draw(META)))
    return samples


def _relation(part: Part, query: Part) -> st.SearchStrategy[str]:
    """What a build could have chosen ``part`` for: the same media never by chance, others never for being the same."""
    if part.media and part.media == query.media:
        return st.sampled_from(["related", "same_media"])
    return st.sampled_from(["related", "random"])


@st.composite
def documents(draw: st.DrawFn) -> list[Sample]:
    """Interleaved documents as web pages give them: every chunk after the first shows pictures."""
    samples = []
    for name in draw(st.lists(IDS.filter(lambda id: "\0" not in id), min_size=1, max_size=4, unique=True)):
        chunks = draw(st.lists(st.tuples(PICTURES.filter(bool), WORDS), min_size=1, max_size=4))
        first = draw(WORDS.map(lambda text: [((), text)]) | st.just([]))
        parts = [
            Part(id=f"{name}#{place}", media=media, instruction="", answer=text, relation="document")
            for place, (media, text) in enumerate([*first, *chunks])
        ]
        parts[-1] = replace(parts[-1], id=name)
        # Shown by two chunks in a row, the same pictures are shown once, and then no chunk begins there.
        if all(one.media != other.media for one, other in pairwise(parts)):
            samples.append(make_sample("web", parts, {"url": "http://a.b/", **draw(META)}))
    assume(samples)
    return samples


@st.composite
def conversations(draw: st.DrawFn) -> list[Sample]:
    """Conversations as LLaVA publishes them, each turn with all turns before it, and single questions."""
    samples: list[Sample] = []
    bases = draw(st.lists(st.from_regex(r"[a-z]{1,5}", fullmatch=True), min_size=1, max_size=4, unique=True))
    for base in bases:
        count = draw(st.integers(1, 4))
        meta = draw(META)
        about: tuple[int, ...] = ()
        turns: list[Part] = []
        for number in range(count):
            about = draw(ANY_MEDIA) or about
            id = f"{base}_{number}" if count > 1 else base
            words = st.tuples(WORDS, WORDS).filter(lambda pair: "<video>" not in pair[0])
            instruction, answer = draw(words)
            turns.append(Part(id=id, media=about, instruction=instruction, answer=answer))
            context = [replace(turn, relation="conversation") for turn in turns[:-1]]
            samples.append(make_sample("llava", [*context, turns[-1]], meta))
    return samples


def write_shard(path: Path, samples: Iterable[Sample]) -> Path:
    """One shard file of ``samples``."""
    members = Members()
    for sample in samples:
        key = sample.key.encode()
        members.add(key, b".json", canonical_json(sample_to_json(sample)))
        for medium in sample.media:
            for name, data in zip(medium.files, medium.data, strict=True):
                members.add(key, f".{name}".encode(), data)
    members.end()
    path.write_bytes(members.taken())
    return path


def exported(samples: Iterable[Sample], to: str, place: Path) -> tuple[Path, Written]:
    """The folder that exporting ``samples`` gives."""
    folder, scratch = place / "folder", place / "scratch"
    folder.mkdir()
    scratch.mkdir()
    return folder, EXPORTERS[to](iter(samples), folder, scratch)


def built_again(folder: Path, out: Path, *, context: str) -> tuple[list[Sample], dict[str, Any]]:
    """All samples of a build of an export, with the context it names, and the manifest."""
    beside = folder / MIXTURE_NAME
    chosen = read_mixture(beside) if beside.exists() else {}
    config = build_config({**chosen, "shots": 16, "context": context, "size": 0, "frames": 64})
    result = build_shards(folder, out, config, engine=InProcess())
    return [sample for _, sample in iterate_samples(out)], result.manifest


def meaning(sample: Sample) -> dict[str, Any]:
    """What an exact format keeps of a sample: all but why its context was chosen and how its files were called."""
    value = sample_to_json(sample)
    for medium in value["media"]:
        medium["origin"] = ""
    for triplet in value["triplets"]:
        if triplet.get("relation") != "document":
            triplet.pop("relation", None)
        triplet.pop("score", None)
    value["data"] = [medium.data for medium in sample.media]
    return value
