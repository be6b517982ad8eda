"""What a person should know of a folder before training on it: counted in one pass over the samples' JSON.

No picture is read but those of the contact sheet. Histograms take constant memory; what may repeat (pictures,
triplets, answers, contexts) is tallied on disk.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mimicit.errors import MimicitError
from mimicit.inspecting.rejects import RejectGroups, group_rejects
from mimicit.inspecting.shelf import Shelf
from mimicit.inspecting.tally import Repeated, Repeats, Tally
from mimicit.records import Sample

__all__ = ["Findings", "Quoted", "find_out", "least_of_class"]

_MOST_REPEATED: Final = 8
_QUOTED_CHARACTERS: Final = 200
_PROGRESS_ROWS: Final = 1000

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """Something that occurs ``count`` times: its words, and the key and row of the first sample that has it.

    ``file`` is the number of a picture among the files of that sample, where it is one.
    """

    count: int
    key: str
    row: int
    words: str
    file: int | None = None


@dataclass(kw_only=True)
class Findings:
    """Counts over the samples of a folder or shard.

    The histograms count by the lower end of the class: text lengths (characters) in powers of two, picture sides
    (pixels, the longer one) and frames of a clip likewise, context scores in tenths. ``unhelpful`` counts context
    that cannot teach: ``score of 0 or less``, ``says the query's answer to the same question``,
    ``is the query itself``. ``rejects`` is None for a single shard.
    """

    path: str
    samples: int = 0
    unreadable: int = 0
    triplets: int = 0
    characters: int = 0
    without_context: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    relations: Counter[str] = field(default_factory=Counter)
    media: Counter[str] = field(default_factory=Counter)
    context: Counter[int] = field(default_factory=Counter)
    instruction_lengths: Counter[int] = field(default_factory=Counter)
    answer_lengths: Counter[int] = field(default_factory=Counter)
    sides: Counter[int] = field(default_factory=Counter)
    frames: Counter[int] = field(default_factory=Counter)
    scores: Counter[float] = field(default_factory=Counter)
    unhelpful: Counter[str] = field(default_factory=Counter)
    pictures: Repeats = field(default_factory=Repeats)
    shared_pictures: list[Quoted] = field(default_factory=list)
    repeated_triplets: list[Quoted] = field(default_factory=list)
    distinct_triplets: int = 0
    repeated_answers: list[Quoted] = field(default_factory=list)
    distinct_answers: int = 0
    repeated_contexts: list[Quoted] = field(default_factory=list)
    rejects: RejectGroups | None = None


def find_out(shelf: Shelf, *, on_progress: Progress | None = None) -> Findings:
    """Read the JSON of every sample of ``shelf`` and count; damaged samples are counted as ``unreadable``.

    ``on_progress`` gets the samples read so far and all of them.
    """
    findings = Findings(path=str(shelf.path))
    with tempfile.TemporaryDirectory(prefix="mimicit-report-") as scratch:
        tallies = {name: Tally(Path(scratch) / name) for name in ("pictures", "triplets", "answers", "contexts")}
        for row in range(len(shelf)):
            try:
                sample = shelf.peek(row)
            except MimicitError:
                findings.unreadable += 1
                continue
            _count(findings, sample)
            for name, thing in _things(sample):
                tallies[name].add(thing, row)
            if on_progress is not None and (row + 1) % _PROGRESS_ROWS == 0:
                on_progress(row + 1, len(shelf))
        _quote(findings, shelf, {name: tally.repeats(_MOST_REPEATED) for name, tally in tallies.items()})
    if shelf.manifest is not None:
        findings.rejects = group_rejects(shelf.path, limit=3)
    return findings


def least_of_class(value: int) -> int:
    """The lower end of the class of ``value`` among 0, 1, 2, 4, 8, ..."""
    return 1 << (value.bit_length() - 1) if value else 0


def _count(findings: Findings, sample: Sample) -> None:
    findings.samples += 1
    findings.sources[sample.source] += 1
    findings.context[len(sample.context)] += 1
    findings.without_context += not sample.context
    for triplet in sample.triplets:
        findings.triplets += 1
        findings.characters += len(triplet.instruction) + len(triplet.answer)
        findings.instruction_lengths[least_of_class(len(triplet.instruction))] += 1
        findings.answer_lengths[least_of_class(len(triplet.answer))] += 1
        if triplet.relation is not None:
            findings.relations[triplet.relation] += 1
    for media in sample.media:
        findings.media[media.kind] += 1
        findings.sides[least_of_class(max(media.width, media.height))] += 1
        if media.kind == "video":
            findings.frames[least_of_class(len(media.files))] += 1
    _judge_context(findings, sample)


def _judge_context(findings: Findings, sample: Sample) -> None:
    query = sample.query
    for triplet in sample.context:
        if triplet.relation == "document":
            continue
        if triplet.score is not None:
            findings.scores[math.floor(min(max(triplet.score, -1.0), 1.0) * 10) / 10] += 1
            findings.unhelpful["score of 0 or less"] += triplet.score <= 0
        if triplet.id == query.id:
            findings.unhelpful["is the query itself"] += 1
        elif (triplet.instruction, triplet.answer) == (query.instruction, query.answer):
            findings.unhelpful["says the query's answer to the same question"] += 1


def _things(sample: Sample) -> Iterator[tuple[str, str]]:
    for checksum in dict.fromkeys(checksum for media in sample.media for checksum in media.sha256):
        yield "pictures", checksum
    yield "triplets", _triplet_of(sample)
    yield "answers", sample.query.answer
    if sample.context:
        yield "contexts", _context_of(sample)


def _triplet_of(sample: Sample) -> str:
    shown = [checksum for index in sample.query.media for checksum in sample.media[index].sha256]
    return "\0".join((sample.query.instruction, sample.query.answer, *shown))


def _context_of(sample: Sample) -> str:
    return "\0".join((sample.source, *sorted(triplet.id for triplet in sample.context)))


def _quote(findings: Findings, shelf: Shelf, repeats: dict[str, Repeats]) -> None:
    findings.pictures = repeats["pictures"]
    findings.shared_pictures = [_quoted_picture(shelf, one) for one in repeats["pictures"].most]
    findings.distinct_triplets = repeats["triplets"].distinct
    findings.distinct_answers = repeats["answers"].distinct
    words: dict[str, Callable[[Sample], str]] = {
        "triplets": lambda sample: f"{sample.query.instruction} → {sample.query.answer}",
        "answers": lambda sample: sample.query.answer,
        "contexts": lambda sample: ", ".join(triplet.id for triplet in sample.context),
    }
    findings.repeated_triplets, findings.repeated_answers, findings.repeated_contexts = (
        [_quoted(shelf, one, quote) for one in repeats[name].most] for name, quote in words.items()
    )


def _quoted(shelf: Shelf, one: Repeated, words: Callable[[Sample], str]) -> Quoted:
    sample = shelf.peek(one.row)
    text = words(sample)
    cut = text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}…"
    return Quoted(count=one.count, key=shelf.key(one.row), row=one.row, words=cut)


def _quoted_picture(shelf: Shelf, one: Repeated) -> Quoted:
    sample = shelf.peek(one.row)
    pictures = [(media.origin, checksum) for media in sample.media for checksum in media.sha256]
    file = next(place for place, (_, checksum) in enumerate(pictures) if Tally.digest(checksum) == one.digest)
    return Quoted(count=one.count, key=shelf.key(one.row), row=one.row, words=pictures[file][0], file=file)
