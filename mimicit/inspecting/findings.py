"""What a person should know about a folder before training on it, counted in one pass over the samples' JSON.

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
from mimicit.inspecting.context_quality import fault_of_context
from mimicit.inspecting.digest_counts import DigestCounts, Repeated, Repeats
from mimicit.inspecting.rejects import RejectGroups, group_rejects
from mimicit.inspecting.stored_samples import StoredSamples
from mimicit.records import Sample

_MOST_REPEATED: Final = 8
_QUOTED_CHARACTERS: Final = 200
_PROGRESS_ROWS: Final = 1000

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """Something that occurs ``count`` times: its words, and the key and row of the first sample that has it.

    ``file`` is its number among the files of that sample, if it is a picture.
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
    that cannot teach: ``score of 0 or less``, and the faults of `fault_of_context`. ``rejects`` is None for a single
    shard.
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


def find_out(stored: StoredSamples, *, on_progress: Progress | None = None) -> Findings:
    """Read the JSON of every sample of ``stored`` and count; damaged samples are counted as ``unreadable``.

    ``on_progress`` gets the samples read so far and all of them.
    """
    findings = Findings(path=str(stored.path))
    with tempfile.TemporaryDirectory(prefix="mimicit-report-") as scratch:
        counts = {name: DigestCounts(Path(scratch) / name) for name in ("pictures", "triplets", "answers", "contexts")}
        for row in range(len(stored)):
            try:
                sample = stored.peek(row)
            except MimicitError:
                findings.unreadable += 1
                continue
            _count(findings, sample)
            for name, thing in _things(sample):
                counts[name].add(thing, row)
            if on_progress is not None and (row + 1) % _PROGRESS_ROWS == 0:
                on_progress(row + 1, len(stored))
        _quote(findings, stored, {name: one.repeats(_MOST_REPEATED) for name, one in counts.items()})
    if stored.manifest is not None:
        findings.rejects = group_rejects(stored.path, limit=3)
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
        if fault := fault_of_context(triplet, query):
            findings.unhelpful[fault] += 1


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


def _quote(findings: Findings, stored: StoredSamples, repeats: dict[str, Repeats]) -> None:
    findings.pictures = repeats["pictures"]
    findings.shared_pictures = [_quoted_picture(stored, one) for one in repeats["pictures"].most]
    findings.distinct_triplets = repeats["triplets"].distinct
    findings.distinct_answers = repeats["answers"].distinct
    words: dict[str, Callable[[Sample], str]] = {
        "triplets": lambda sample: f"{sample.query.instruction} → {sample.query.answer}",
        "answers": lambda sample: sample.query.answer,
        "contexts": lambda sample: ", ".join(triplet.id for triplet in sample.context),
    }
    findings.repeated_triplets, findings.repeated_answers, findings.repeated_contexts = (
        [_quoted(stored, one, quote) for one in repeats[name].most] for name, quote in words.items()
    )


def _quoted(stored: StoredSamples, one: Repeated, words: Callable[[Sample], str]) -> Quoted:
    sample = stored.peek(one.row)
    text = words(sample)
    cut = text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}…"
    return Quoted(count=one.count, key=stored.key(one.row), row=one.row, words=cut)


def _quoted_picture(stored: StoredSamples, one: Repeated) -> Quoted:
    sample = stored.peek(one.row)
    pictures = [(media.origin, checksum) for media in sample.media for checksum in media.sha256]
    file = next(place for place, (_, checksum) in enumerate(pictures) if DigestCounts.digest(checksum) == one.digest)
    return Quoted(count=one.count, key=stored.key(one.row), row=one.row, words=pictures[file][0], file=file)


_FEW: Final = 10
"""With fewer samples than this, a share says nothing."""

_SHARE_OF_ONE_ANSWER: Final = 0.2
_SHARE_OF_ONE_SOURCE: Final = 0.8
_SHARE_OF_ONE_CONTEXT: Final = 0.05
_SHARE_WITHOUT_CONTEXT: Final = 0.5
_SHARE_OF_UNHELPFUL: Final = 0.1
_SHARE_OF_REPEATED_TRIPLETS: Final = 0.05
_SHARE_OF_REJECTS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Warned:
    """What was found, and what may come of it or fix it."""

    what: str
    why: str


def warnings_of(findings: Findings) -> list[Warned]:
    """The warnings; for a folder of fewer than `_FEW` samples, only those about damage."""
    found = []
    if findings.unreadable:
        found.append(Warned(f"{findings.unreadable:,} samples cannot be read", "mimicit verify says what is wrong"))
    if findings.samples >= _FEW:
        found += [*_about_answers(findings), *_about_context(findings), *_about_sources(findings)]
    return found


def _about_answers(findings: Findings) -> Iterator[Warned]:
    if findings.repeated_answers:
        first = findings.repeated_answers[0]
        share = first.count / findings.samples
        if share >= _SHARE_OF_ONE_ANSWER:
            yield Warned(
                f"{share:.0%} of the queries have the answer “{first.words}”",
                "a model may learn to say it without looking; compare its accuracy with this share",
            )
    repeated = 1 - findings.distinct_triplets / findings.samples
    if repeated >= _SHARE_OF_REPEATED_TRIPLETS:
        yield Warned(
            f"{repeated:.0%} of the queries repeat another: the same pictures, instruction and answer",
            "they weigh more than the others in training, and leak from training into evaluation",
        )


def _about_context(findings: Findings) -> Iterator[Warned]:
    share = findings.without_context / findings.samples
    if share >= _SHARE_WITHOUT_CONTEXT:
        yield Warned(f"{share:.0%} of the samples have no context", "build with --shots and --context for some")
    context = findings.triplets - findings.samples
    for what, count in findings.unhelpful.most_common():
        if context and count / context >= _SHARE_OF_UNHELPFUL:
            yield Warned(
                f"{count / context:.0%} of the context triplets: {what}",
                "such context teaches nothing, or gives the answer away; see --min-score and --context",
            )
    if findings.repeated_contexts:
        first = findings.repeated_contexts[0]
        share = first.count / findings.samples
        if share >= _SHARE_OF_ONE_CONTEXT and first.count > _FEW:
            yield Warned(
                f"{first.count:,} queries ({share:.0%}) share one context: {first.words}",
                "a model learns to ignore context that never changes",
            )


def _about_sources(findings: Findings) -> Iterator[Warned]:
    name, count = findings.sources.most_common(1)[0]
    share = count / findings.samples
    if len(findings.sources) > 1 and share >= _SHARE_OF_ONE_SOURCE:
        yield Warned(
            f"{share:.0%} of the samples are of the source {name}",
            "a mixture with weights, or --limit, balances the sources",
        )
    if findings.rejects is not None:
        lost = sum(group.count for group in findings.rejects.groups if group.scope == "record")
        if lost / (lost + findings.samples) >= _SHARE_OF_REJECTS:
            yield Warned(
                f"{lost:,} records were left out, {lost / (lost + findings.samples):.0%} of all",
                "the table of rejects below says why",
            )
