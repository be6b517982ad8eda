"""Context from another source of the mixture: only from there, nothing that gives an answer away, the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimicit.embedding.registry import image_embedder
from mimicit.embedding.vectors import cosines, quantise
from mimicit.errors import UsageError
from mimicit.loading import load
from mimicit.media.image import distance, fingerprint
from mimicit.pipeline import BuildConfig
from mimicit.pipeline.config import SourceOptions
from mimicit.pipeline.similarity import search
from mimicit.pipeline.similarity.tables import plain_text
from mimicit.records import Sample
from tests.factories import raw as make
from tests.factories.builds import add_rows, build, row
from tests.factories.media import recompressed

ASKED, OTHERS = 8, 24
CONTEXTS = ("auto", "random", "image-similar", "text-similar", "both", "image-similar,random")


def config(asked: str = "random", other: str = "support", **support: Any) -> BuildConfig:
    sources = (
        SourceOptions(path="asked", name="asked", context=asked, context_from=other, shots=4),
        SourceOptions(path="support", name="support", **{"context": "none", **support}),
    )
    return BuildConfig(sources=sources)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``support/`` holds every record of ``asked/`` as it is, under a new question, and recompressed; and others."""
    folder = tmp_path_factory.mktemp("planted")
    asked, support = [], []
    pictures = {f"{number}.jpg": make.picture(number, 96, 72) for number in range(ASKED)}
    copies = {**pictures, **{f"small-{name}": recompressed(data) for name, data in pictures.items()}}
    for number in range(ASKED):
        said = {"instruction": f"Where is cat {number}?", "answer": f"The cat sits beside door {number}."}
        asked.append(row(f"{number}", f"{number}.jpg", **said))
        support.append(row(f"{number}", f"{number}.jpg", **said))
        support.append(row(f"{number}-small", f"small-{number}.jpg", instruction="What is it?", answer="It is a cat."))
        support.append(row(f"{number}-said", f"other-{number}.jpg", **said))
    for number in range(OTHERS):
        copies[f"other-{number}.jpg"] = make.picture(500 + number, 96, 72)
        said = {"instruction": f"Where is dog {number} of {number // 3}?", "answer": f"under tree {number}"}
        support.append(row(f"other-{number}", f"other-{number}.jpg", **said))
    add_rows(folder / "asked", pictures, asked)
    add_rows(folder / "support", copies, support)
    return folder


def shown(sample: Sample, place: int) -> set[str]:
    return {digest for number in sample.triplets[place].media for digest in sample.media[number].sha256}


def samples(out: Path, source: str) -> list[Sample]:
    """Those of one source; ids are the same in both."""
    return [sample for sample in load(out) if sample.source == source]


@pytest.mark.parametrize("context", CONTEXTS)
def test_no_query_sees_its_own_picture_or_answer(planted: Path, tmp_path: Path, context: str) -> None:
    build(planted, tmp_path / "out", config(context))
    files = {path.name: path.read_bytes() for path in (planted / "support").glob("*.jpg")}
    asked = samples(tmp_path / "out", "asked")
    assert len(asked) == ASKED
    for sample in asked:
        last = len(sample.triplets) - 1
        assert 3 <= last <= 4
        for place, triplet in enumerate(sample.triplets[:-1]):
            assert triplet.id.startswith("support/")
            assert shown(sample, place).isdisjoint(shown(sample, last))
            assert plain_text(triplet.answer) != plain_text(sample.query.answer)
            mine, theirs = (
                fingerprint(files[sample.media[sample.triplets[number].media[0]].origin.rpartition("/")[2]])
                for number in (last, place)
            )
            assert mine is not None and theirs is not None and distance(mine, theirs) > 3
    relations = {triplet.relation for sample in asked for triplet in sample.context}
    if "," not in context:
        assert relations == {{"auto": "random", "both": "both_similar"}.get(context, context.replace("-", "_"))}
    others = samples(tmp_path / "out", "support")
    assert len(others) == 3 * ASKED + OTHERS and not any(sample.context for sample in others)


def test_the_most_alike_are_those_of_brute_force(planted: Path, tmp_path: Path) -> None:
    build(planted, tmp_path / "out", config("image-similar"))
    stored = {one.media[0].sha256[0]: one.media[0].data[0] for one in samples(tmp_path / "out", "support")}
    looks = {digest: fingerprint(data) or 0 for digest, data in stored.items()}
    embedder = image_embedder("classical")
    for sample in samples(tmp_path / "out", "asked"):
        mine = sample.media[-1].data[0]
        vectors = quantise(embedder.embed([mine, *stored.values()]))
        scores = cosines(vectors[:1], vectors[1:])[0].tolist()
        expected: list[float] = []
        seen = [fingerprint(mine) or 0]
        for score, digest in sorted(zip(scores, stored, strict=True), reverse=True):
            if all(distance(look, looks[digest]) > 3 for look in seen):
                expected.append(round(score, 4))
                seen.append(looks[digest])
        assert [triplet.score for triplet in reversed(sample.context)] == expected[:4]


def test_workers_and_the_way_of_searching_change_no_byte(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config("image-similar,text-similar,both,random")
    one = build(planted, tmp_path / "one", settings, workers=1)
    build(planted, tmp_path / "two", settings, workers=2)
    assert make.hashes(tmp_path / "one") == make.hashes(tmp_path / "two")
    monkeypatch.setattr(search, "_EXACT_ROWS", 20)
    monkeypatch.setattr(search, "cell_count", lambda rows: 8)
    cells = build(planted, tmp_path / "cells", settings)
    assert cells.samples == one.samples


@pytest.mark.parametrize("stage", ["embed pictures", "compare texts", "choose"])
def test_a_build_that_was_stopped_goes_on(planted: Path, tmp_path: Path, stage: str) -> None:
    settings = config("image-similar,text-similar,random")
    build(planted, tmp_path / "whole", settings)

    class Stop:
        def update(self, at: str, done: int, total: int | None) -> None:
            if at == stage:
                raise KeyboardInterrupt

        def note(self, message: str) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        build(planted, tmp_path / "out", settings, progress=Stop())
    build(planted, tmp_path / "out", settings)
    assert make.hashes(tmp_path / "out") == make.hashes(tmp_path / "whole")


def test_both_may_lend_to_each_other_and_a_lender_need_not_ask(planted: Path, tmp_path: Path) -> None:
    build(planted, tmp_path / "lent", config(limit=0))
    assert len(samples(tmp_path / "lent", "asked")) == ASKED == len(load(tmp_path / "lent"))
    build(planted, tmp_path / "both", config("both", context="text-similar", context_from="asked"))
    both = load(tmp_path / "both")
    prefixes = {(sample.source, triplet.id.partition("/")[0]) for sample in both for triplet in sample.context}
    assert prefixes == {("asked", "support"), ("support", "asked")}


def test_a_lender_that_is_there_changes_no_other_source(planted: Path, tmp_path: Path) -> None:
    """Its own samples are those of a build without a borrower."""
    support = SourceOptions(path="support", name="support", context="both")
    build(planted, tmp_path / "alone", BuildConfig(sources=(support,)))
    build(planted, tmp_path / "beside", config("image-similar", context="both"))
    alone, beside = (
        {one.id: one.triplets for one in samples(tmp_path / name, "support")} for name in ("alone", "beside")
    )
    assert alone == beside and len(alone) == 3 * ASKED + OTHERS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config(other="suport"), r"source 'asked': context_from = 'suport' is no other source; did you mean support"),
        (config(other="asked"), "context_from = 'asked' is no other source"),
        (config("random,same-media"), "context 'same-media' is found in its own source alone"),
    ],
)
def test_what_cannot_be_is_refused(planted: Path, tmp_path: Path, settings: BuildConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(planted, tmp_path / "out", settings)


def test_folders_of_before_are_told_to_be_finished() -> None:
    """What is not asked for is not in the options that a folder stores."""
    stored = BuildConfig(sources=(SourceOptions(path="a"), SourceOptions(path="b", context_from="a"))).to_json()
    assert [source.get("context_from") for source in stored["sources"]] == [None, "a"]
    assert "context_from" not in stored["sources"][0]
