"""What is inside a shard or a folder of shards, as one plain value that prints as JSON or text; samples as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final

from mimicit.errors import ShardError
from mimicit.prompt import render
from mimicit.records import Sample
from mimicit.shards.index import iterate_index
from mimicit.shards.manifest import read_manifest
from mimicit.shards.reader import StoredSample, iterate_indexed, iterate_shard

_BAR = 40
_LENGTH_CLASSES: Final = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_PREVIEWS: Final = 3
_PREVIEW_CHARACTERS: Final = 2000


def printable(text: str) -> str:
    """``text`` without control characters, which could drive a terminal; line breaks and tabs stay."""
    return "".join(c if c in "\n\t" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def summary_text(summary: Summary) -> str:
    """The summary as lines: totals, then counts with bars, then the first prompts."""
    lines = [
        f"{summary.path}",
        f"  {summary.samples:,} samples, {summary.triplets:,} triplets, {summary.media.total():,} media"
        f" in {summary.files.total():,} files, {summary.bytes:,} bytes in {summary.shards} shard(s)",
    ]
    if summary.manifest is not None and summary.manifest["totals"]["rejects"]:
        lines.append(f"  {summary.manifest['totals']['rejects']:,} rejects (mimicit rejects says why)")
    lines += _block("source", top(summary.sources, 8))
    lines += _block("media", summary.media.most_common())
    lines += _block("size in pixels", top(summary.sizes, 6))
    lines += _block("context relation", summary.relations.most_common())
    lines += _block("context triplets", ((str(n), summary.context[n]) for n in sorted(summary.context)))
    classes = sorted(summary.text_lengths)
    lines += _block(
        "characters per triplet", ((f"{least:,} and more", summary.text_lengths[least]) for least in classes)
    )
    for key, prompt in summary.previews:
        lines += ["", f"sample {key}", *(f"  {line}" for line in printable(prompt).splitlines())]
    return "\n".join(lines)


def sample_text(sample: Sample, origins: Sequence[Sequence[str]] = ()) -> str:
    """One sample in full: its media, with all ``origins`` of each if they are known, its triplets and its prompt."""
    lines = [f"key     {sample.key}", f"id      {sample.id}", f"source  {sample.source}"]
    for number, media in enumerate(sample.media):
        times = f", at {', '.join(f'{t:g}' for t in media.timestamps_s)} s" if media.timestamps_s else ""
        frames = f", {len(media.files)} frames of {media.duration_s:g} s" if media.duration_s is not None else ""
        lines.append(f"media[{number}]  {media.kind} {media.width}x{media.height}{frames}{times}  {media.origin}")
        lines += [f"  also from  {origin}" for origin in (origins[number][1:] if origins else ())]
    for triplet in sample.triplets:
        why = (
            f" ({triplet.relation}{'' if triplet.score is None else f', {triplet.score:.3f}'})"
            if triplet.relation
            else ""
        )
        shown = f", shows media {list(triplet.media)}" if triplet.media else ""
        lines += ["", f"{triplet.role}{why} {triplet.id}{shown}"]
        lines += [f"  instruction: {triplet.instruction}", f"  answer:      {triplet.answer}"]
    lines += ["", "prompt", f"  {render(sample)}"]
    if sample.meta:
        lines += ["", f"meta  {dict(sample.meta)}"]
    return printable("\n".join(lines))


def _block(title: str, rows: Iterable[tuple[str, int]]) -> Iterator[str]:
    counted = list(rows)
    if not counted:
        return
    most = max(count for _, count in counted)
    width = max(len(name) for name, _ in counted)
    yield ""
    yield title
    for name, count in counted:
        yield f"  {printable(name):<{width}}  {count:>10,}  {'#' * (_BAR * count // most)}".rstrip()


@dataclass(kw_only=True)
class Summary:
    """Counts over samples.

    ``sizes`` counts pictures and frames by ``WIDTHxHEIGHT``; ``text_lengths`` counts triplets by the lower end of the
    class of their characters; ``previews`` are the first prompts with their keys.
    """

    path: str
    shards: int
    bytes: int
    samples: int = 0
    triplets: int = 0
    characters: int = 0
    media: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    relations: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    context: Counter[int] = field(default_factory=Counter)
    text_lengths: Counter[int] = field(default_factory=Counter)
    previews: list[tuple[str, str]] = field(default_factory=list)
    manifest: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The summary as a JSON object with string keys, classes in order."""
        return {
            "path": self.path,
            "shards": self.shards,
            "bytes": self.bytes,
            "samples": self.samples,
            "triplets": self.triplets,
            "characters": self.characters,
            "media": dict(sorted(self.media.items())),
            "files": dict(sorted(self.files.items())),
            "sizes": dict(self.sizes.most_common()),
            "relations": dict(self.relations.most_common()),
            "sources": dict(self.sources.most_common()),
            "context": {str(count): self.context[count] for count in sorted(self.context)},
            "text_lengths": {str(least): self.text_lengths[least] for least in sorted(self.text_lengths)},
            "previews": [{"key": key, "prompt": prompt} for key, prompt in self.previews],
            "rejects": self.manifest["totals"]["rejects"] if self.manifest else None,
        }


def summarise(path: Path) -> Summary:
    """Read all samples of a shard file or a folder of shards and count them, one sample in memory at a time."""
    shards = _shards(path)
    summary = Summary(path=str(path), shards=len(shards), bytes=sum(shard.stat().st_size for shard in shards))
    summary.manifest = read_manifest(path) if path.is_dir() else None
    for key, sample in iterate_samples(path):
        _count(summary, key, sample)
    return summary


def iterate_samples(path: Path) -> Iterator[tuple[str, Sample]]:
    """(key, sample) of a shard file, or of all shards of a folder in order."""
    for stored in _stored(path):
        yield stored.key, stored.sample


def find_sample(path: Path, wanted: str) -> Sample:
    """The sample whose key or id is ``wanted``; `ShardError` suggests keys that look alike."""
    similar: list[str] = []
    for key, sample in iterate_samples(path):
        if wanted in (key, sample.id):
            return sample
        if wanted.lower() in key or wanted in sample.id:
            similar.append(key)
    hint = f"; similar: {', '.join(islice(similar, 3))}" if similar else ""
    raise ShardError(f"{path}: no sample has the key or id {wanted!r}{hint}")


def _stored(path: Path) -> Iterator[StoredSample]:
    if path.is_dir() and read_manifest(path)["layout"] == "foreign":
        for name, rows in groupby(iterate_index(path), key=lambda row: str(row["shard"])):
            yield from iterate_indexed(path / name, rows)
        return
    for shard in _shards(path):
        yield from iterate_shard(shard)


def _shards(path: Path) -> list[Path]:
    if path.is_dir():
        return [path / shard["name"] for shard in read_manifest(path)["shards"]]
    if not path.is_file():
        raise ShardError(f"{path}: no such file; give a shard-*.tar or a folder that mimicit build has written")
    return [path]


def _count(summary: Summary, key: str, sample: Sample) -> None:
    summary.samples += 1
    summary.sources[sample.source] += 1
    summary.context[len(sample.context)] += 1
    for triplet in sample.triplets:
        characters = len(triplet.instruction) + len(triplet.answer)
        summary.triplets += 1
        summary.characters += characters
        summary.text_lengths[_class(characters)] += 1
        if triplet.relation is not None:
            summary.relations[triplet.relation] += 1
    for media in sample.media:
        summary.media[media.kind] += 1
        summary.files.update(name.rpartition(".")[2] for name in media.files)
        summary.sizes[f"{media.width}x{media.height}"] += len(media.files)
    if len(summary.previews) < _PREVIEWS:
        summary.previews.append((key, render(sample)[:_PREVIEW_CHARACTERS]))


def _class(characters: int) -> int:
    return max(least for least in _LENGTH_CLASSES if least <= characters)


def top(counts: Counter[str], most: int) -> Iterable[tuple[str, int]]:
    """The ``most`` largest counts, and the sum of the rest as ``N others``."""
    ranked = counts.most_common()
    yield from ranked[:most]
    if len(ranked) > most:
        yield f"{len(ranked) - most} others", sum(count for _, count in ranked[most:])
