"""What a model answers to the queries of some samples, next to what a model that never looks could reach.

All of it is computed from the evaluated samples: the two text baselines know the answers, so they are ceilings, and
only what lies above them was seen in a picture. The same model on other samples' pictures is a second check.
Samples are read when they are needed, one batch at a time.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple

from mimicit.errors import TrainError
from mimicit.prompt import drop_context
from mimicit.records import Sample
from otter_train.evaluation.metrics import anls, human_answers, vqa_accuracy

_LETTER: Final = re.compile(r"\(?([A-Za-z])(?:[).:]+(?:\s+(.+))?)?", re.DOTALL)


class Attempt(NamedTuple):
    """What a model made of a sample's query: its own answer, and the loss (nats) of the ``tokens`` of the true one.

    ``chosen`` is the likeliest of the sample's `choices`; None if there are none. If they are yes and no, ``yes`` is
    the probability of yes among the two: 0 to 1.
    """

    sample: Sample
    answer: str
    nats: float
    tokens: int
    chosen: str | None = None
    yes: float | None = None


AttemptEach = Callable[[Iterable[Sample]], Iterator[Attempt]]
"""Attempts each sample, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One query, what the model said and what is true.

    ``media`` are the kinds and hashes of everything shown, ``origin`` names what was shown last, ``shots`` counts the
    context triplets. ``nats`` and ``tokens`` are those of `Attempt`; ``humans`` counts the people whose answers
    ``vqa`` (0 to 1) compares with, 0 if only the true answer is known. ``chosen`` and ``yes`` are those of `Attempt`;
    ``choices`` counts what the query offers, and ``letter`` is that of the true choice, if the question lists them by
    letters. ``anls`` compares with the nearest of the known answers. ``references`` are captions of the picture by
    several people; often none.
    """

    position: int
    id: str
    source: str
    origin: str
    media: tuple[tuple[str, tuple[str, ...]], ...]
    shots: int
    question: str
    answer: str
    truth: str
    nats: float
    tokens: int
    vqa: float
    humans: int
    chosen: str | None = None
    choices: int = 0
    letter: str = ""
    yes: float | None = None
    anls: float = 0.0
    references: tuple[str, ...] = ()

    @property
    def is_right(self) -> bool:
        """True if the answer is the true one, or its letter."""
        return is_right(self.answer, self.truth, letter=self.letter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answers with at most ``shots`` context triplets, and baselines between 0 and 1.

    A baseline is None if it was not requested or cannot be computed. ``majority``: always the most frequent
    answer. ``question_only``: for each question text its most frequent answer. ``swapped``: the answers of the
    same model to the queries with the pictures of another sample; ``swapped_pictures`` is the share that is right.
    ``skipped`` counts interleaved documents, which ask nothing; ``left_out`` has a line for each sample that no prompt
    can be made of, and why.
    """

    shots: int
    answered: tuple[Answered, ...]
    skipped: int
    majority: float | None = None
    question_only: float | None = None
    swapped: tuple[Answered, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def swapped_pictures(self) -> float | None:
        """The share of right answers to queries with the pictures of another sample."""
        return sum(one.is_right for one in self.swapped) / len(self.swapped) if self.swapped else None

    @property
    def by_source(self) -> dict[str, list[Answered]]:
        """The answers of each source, sorted by its name."""
        groups: dict[str, list[Answered]] = defaultdict(list)
        for answered in self.answered:
            groups[answered.source].append(answered)
        return dict(sorted(groups.items()))

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON value."""
        return {
            "shots": self.shots,
            "skipped": self.skipped,
            "left_out": list(self.left_out),
            "baselines": {
                "majority": self.majority,
                "question_only": self.question_only,
                "swapped_pictures": self.swapped_pictures,
            },
            "answers": [{**asdict(answered), "is_right": answered.is_right} for answered in self.answered],
        }


def evaluate(
    samples: Sequence[Sample],
    attempt_each: AttemptEach,
    *,
    shots: int = 0,
    limit: int | None = None,
    baselines: bool = False,
    with_context: Callable[[Sample, int], Sample] | None = None,
    why_not: Callable[[Sample], str] = lambda sample: "",
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Ask the queries of the first ``limit`` samples with at most ``shots`` context triplets.

    These are the sample's own nearest, unless ``with_context`` gives it others. ``why_not`` returns why a sample cannot
    be shown, empty if it can; ``progress`` is called with the number answered so far. `TrainError` if there are
    queries, and none can be shown.
    """
    shown = with_context or with_shots
    count = min(limit or len(samples), len(samples))
    positions: list[int] = []
    left_out: list[str] = []

    def asked() -> Iterator[Sample]:
        for position in range(count):
            sample = samples[position]
            if sample.query.relation != "document":
                asking = shown(sample, shots)
                if fault := why_not(asking):
                    left_out.append(fault)
                    continue
                positions.append(position)
                yield asking

    answered: list[Answered] = []
    for attempt in attempt_each(asked()):
        answered.append(_answered(positions[len(answered)], attempt))
        progress(len(answered))
    if left_out and not answered:
        raise TrainError(f"none of {len(left_out):,} samples can be shown; {left_out[0]}")
    skipped = count - len(positions) - len(left_out)
    report = Report(shots=shots, answered=tuple(answered), skipped=skipped, left_out=tuple(left_out))
    if not baselines:
        return report
    pairs = other_pictures(report.answered)
    swapped = (replace(shown(samples[mine], shots), media=shown(samples[other], shots).media) for mine, other in pairs)
    attempts = zip(pairs, attempt_each(swapped), strict=True)
    truths = [one.truth for one in answered]
    return replace(
        report,
        majority=question_accuracy([""] * len(truths), truths),
        question_only=question_accuracy([one.question for one in answered], truths),
        swapped=tuple(_answered(mine, attempt) for (mine, _), attempt in attempts),
    )


def choices(sample: Sample) -> list[str]:
    """The answers that the ``choices`` of a sample's meta offer, the true one among them; often none."""
    offered: Any = sample.meta.get("choices")
    if not isinstance(offered, list) or sample.query.answer not in offered:
        return []
    return [choice for choice in offered if isinstance(choice, str) and choice.strip()]


def is_right(answer: str, truth: str, *, letter: str = "") -> bool:
    """Whether both are equal but for capitals, outer spaces and a final full stop.

    If the ``letter`` of the truth is given, it is enough ("B", "(b)"), and it may stand before the truth ("B. dog").
    """
    if _plain(answer) == _plain(truth):
        return True
    match = _LETTER.fullmatch(answer.strip()) if letter else None
    return match is not None and match[1].upper() == letter and _plain(match[2] or truth) == _plain(truth)


def question_accuracy(questions: Sequence[str], truths: Sequence[str]) -> float:
    """The accuracy of giving each question its own most frequent answer: no model that never looks does better."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question, truth in zip(questions, truths, strict=True):
        answers[question][_plain(truth)] += 1
    return sum(max(counts.values()) for counts in answers.values()) / max(1, len(truths))


def with_shots(sample: Sample, shots: int) -> Sample:
    """``sample`` with its ``shots`` nearest context triplets; the query keeps the picture it is about."""
    return drop_context(sample, max(0, len(sample.context) - shots))


def other_pictures(answered: Sequence[Answered]) -> list[tuple[int, int]]:
    """Pairs of positions: a sample, and one that shows the same kinds of media with another content.

    Samples without such a partner are left out. Sorted by content, equal media lie together; rotating the list
    by the size of the largest such block gives every sample media that are not its own.
    """
    alike: dict[tuple[str, ...], list[Answered]] = defaultdict(list)
    for one in answered:
        if one.media:
            alike[tuple(kind for kind, _ in one.media)].append(one)
    pairs: list[tuple[int, int]] = []
    for group in alike.values():
        ordered = sorted(group, key=lambda one: one.media)
        turn = max(Counter(one.media for one in ordered).values())
        if 2 * turn <= len(ordered):
            others = ordered[turn:] + ordered[:turn]
            pairs.extend((mine.position, other.position) for mine, other in zip(ordered, others, strict=True))
    return pairs


def _answered(position: int, attempt: Attempt) -> Answered:
    sample, humans = attempt.sample, human_answers(attempt.sample)
    letter = str(sample.meta.get("letter", "")) if choices(sample) else ""
    exact = float(is_right(attempt.answer, sample.query.answer, letter=letter))
    return Answered(
        position=position,
        id=sample.id,
        source=sample.source,
        origin=sample.media[-1].origin if sample.media else "",
        media=tuple((media.kind, media.sha256) for media in sample.media),
        shots=len(sample.context),
        question=sample.query.instruction,
        answer=attempt.answer,
        truth=sample.query.answer,
        nats=attempt.nats,
        tokens=attempt.tokens,
        vqa=vqa_accuracy(attempt.answer, humans) if humans else exact,
        humans=len(humans),
        chosen=attempt.chosen,
        choices=len(choices(attempt.sample)),
        letter=letter,
        yes=attempt.yes,
        anls=anls(attempt.answer, [sample.query.answer, *humans]),
        references=tuple(_references(sample)),
    )


def _references(sample: Sample) -> list[str]:
    """The captions in the ``references`` of a sample's meta; often none."""
    found: Any = sample.meta.get("references")
    return [text for text in found if isinstance(text, str) and text.strip()] if isinstance(found, list) else []


def _plain(text: str) -> str:
    return text.strip().removesuffix(".").casefold()
