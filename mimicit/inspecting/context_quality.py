"""How good the context of samples is: scores by relation, the pairs most and least alike, answers that it gives away.

The samples' JSON is enough: no picture is read. Of many samples a part is judged, evenly spread, so that the work is
bounded, and repeating it gives the same result.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mimicit.errors import MimicitError
from mimicit.records import Sample, Triplet

_MOST_SAMPLES: Final = 5_000
_PAIRS: Final = 6
_LEAKS: Final = 12
_LONG_ANSWER: Final = 5
"""An answer of at least this many words does not stand in the context by chance."""
_CLASSES: Final = tuple(number / 10 for number in range(-10, 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A query and one of its context triplets: ``place`` counts the triplets of the sample at ``row``, from 0.

    ``fault`` is that of `fault_of_context`.
    """

    row: int
    place: int
    relation: str
    score: float | None
    fault: str = ""


@dataclass(slots=True, kw_only=True)
class RelationQuality:
    """What context of one relation is like.

    ``same_answer`` of its ``triplets`` have the answer of their query; ``by_chance`` is the share that would if context
    were other queries of the same sources, drawn blindly. ``faults`` counts those of `fault_of_context`. ``scores``
    are counted in ``classes``, tenths by their lower end, from -1; ``mean``, ``least`` and ``most`` are None without
    any score.
    """

    relation: str
    triplets: int = 0
    same_answer: int = 0
    by_chance: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    scored: int = 0
    classes: Counter[float] = field(default_factory=Counter)
    least: float | None = None
    most: float | None = None
    total: float = 0.0

    @property
    def mean(self) -> float | None:
        """The mean score."""
        return self.total / self.scored if self.scored else None

    @property
    def histogram(self) -> list[tuple[float, int]]:
        """The classes from the lowest to the highest that have scores, those between included."""
        if not self.classes:
            return []
        low, high = min(self.classes), max(self.classes)
        return [(lower, self.classes[lower]) for lower in _CLASSES if low <= lower <= high]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextQuality:
    """What was found in ``judged`` of ``samples``; ``unreadable`` more are damaged, ``without_context`` have none.

    The relations are ordered by how often they occur. ``most_alike`` and ``least_alike`` are the pairs with the
    highest and the lowest scores; ``leaks`` the first pairs with a fault, ``leaked`` counts all of them.
    """

    samples: int
    judged: int
    unreadable: int
    without_context: int
    relations: tuple[RelationQuality, ...]
    most_alike: tuple[Pair, ...]
    least_alike: tuple[Pair, ...]
    leaks: tuple[Pair, ...]

    @property
    def triplets(self) -> int:
        """The context triplets that were judged."""
        return sum(relation.triplets for relation in self.relations)

    @property
    def leaked(self) -> int:
        """The context triplets with a fault."""
        return sum(relation.faults.total() for relation in self.relations)


def context_quality(
    peek: Callable[[int], Sample], rows: Sequence[int] | NDArray[np.int64], *, most_samples: int = _MOST_SAMPLES
) -> ContextQuality:
    """Judge the context of the samples at ``rows``, at most ``most_samples`` of them, which ``peek`` reads.

    Damaged samples are counted. The texts of interleaved documents are not context of a question and are skipped.
    """
    count = min(len(rows), most_samples)
    relations: dict[str, RelationQuality] = {}
    sources: dict[str, Counter[str]] = defaultdict(Counter)  # of a relation, the sources of its triplets
    answers: dict[str, Counter[str]] = defaultdict(Counter)  # of a source, the answers of its queries
    pairs: list[Pair] = []
    leaks: list[Pair] = []
    unreadable = without_context = 0
    for number in range(count):
        row = int(rows[number * len(rows) // count])
        try:
            sample = peek(row)
        except MimicitError:
            unreadable += 1
            continue
        answers[sample.source][_plain(sample.query.answer)] += 1
        without_context += not sample.context
        for pair in _pairs_of(sample, row):
            relation = relations.setdefault(pair.relation, RelationQuality(relation=pair.relation))
            sources[pair.relation][sample.source] += 1
            _count(relation, pair, _plain(sample.triplets[pair.place].answer) == _plain(sample.query.answer))
            if pair.score is not None:
                pairs.append(pair)
            if pair.fault and len(leaks) < _LEAKS:
                leaks.append(pair)
    chance = {source: agreement_by_chance(found) for source, found in answers.items()}
    for relation in relations.values():
        drawn = sources[relation.relation]
        relation.by_chance = sum(chance[name] * times for name, times in drawn.items()) / drawn.total()
    # Equal scores by row and place, so that the same pairs are shown again.
    pairs.sort(key=lambda pair: (-(pair.score or 0.0), pair.row, pair.place))
    alike = min(_PAIRS, len(pairs) // 2) if len(pairs) > 1 else len(pairs)
    return ContextQuality(
        samples=len(rows),
        judged=count - unreadable,
        unreadable=unreadable,
        without_context=without_context,
        relations=tuple(sorted(relations.values(), key=lambda one: (-one.triplets, one.relation))),
        most_alike=tuple(pairs[:alike]),
        least_alike=tuple(reversed(pairs[alike:][-_PAIRS:])),
        leaks=tuple(leaks),
    )


def fault_of_context(context: Triplet, query: Triplet) -> str:
    """How ``context`` gives the answer of ``query`` away, or nothing; short answers agree by chance."""
    if context.id == query.id:
        return "is the query itself"
    if (context.instruction, context.answer) == (query.instruction, query.answer):
        return "says the query's answer to the same question"
    answer = _plain(query.answer)
    if len(answer.split()) >= _LONG_ANSWER and answer in f"{_plain(context.instruction)}\n{_plain(context.answer)}":
        return "holds the query's answer word for word"
    return ""


def agreement_by_chance(sizes: Mapping[str, int]) -> float:
    """How often two different records, drawn blindly, carry the same label; ``sizes`` counts the records of each."""
    count = sum(sizes.values())
    pairs = count * (count - 1)
    return sum(size * (size - 1) for size in sizes.values()) / pairs if pairs else 0.0


def _pairs_of(sample: Sample, row: int) -> Iterable[Pair]:
    for place, triplet in enumerate(sample.context):
        if triplet.relation is not None and triplet.relation != "document":
            fault = fault_of_context(triplet, sample.query)
            yield Pair(row=row, place=place, relation=triplet.relation, score=triplet.score, fault=fault)


def _count(relation: RelationQuality, pair: Pair, same_answer: bool) -> None:
    relation.triplets += 1
    relation.same_answer += same_answer
    if pair.fault:
        relation.faults[pair.fault] += 1
    if (score := pair.score) is None:
        return
    relation.scored += 1
    relation.total += score
    relation.least = score if relation.least is None else min(relation.least, score)
    relation.most = score if relation.most is None else max(relation.most, score)
    relation.classes[_CLASSES[min(max(math.floor(score * 10), -10), 9) + 10]] += 1


_SPACE: Final = re.compile(r"\s+")


def _plain(text: str) -> str:
    """``text`` without differences that do not change an answer: capitals, extra spaces, a final full stop."""
    return _SPACE.sub(" ", text).strip().removesuffix(".").casefold()
