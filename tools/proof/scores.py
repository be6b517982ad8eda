"""From the evaluations of several runs to one table: mean over the runs, their spread, and the baselines.

Pure: takes the JSON that ``python -m otter_train.evaluate --out`` writes, gives lines of Markdown.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

SHAPES: Final = ("circle", "rectangle", "triangle")
KINDS: Final = ("colour", "shape", "colour, yes or no", "shape, yes or no")
"""The kinds of questions of easy-vqa."""

# Student's t for 95%, by degrees of freedom: few runs say little about their spread.
_T95: Final = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}


class Score(NamedTuple):
    """A mean over runs and half the width of its 95% interval (Student's t); NaN where there is one run only."""

    mean: float
    margin: float


def kind_of(question: str, truth: str) -> str:
    """The one of `KINDS` that an easy-vqa question belongs to."""
    if truth not in ("yes", "no"):  # "what color is the circle?" asks for no shape
        return "shape" if truth in SHAPES else "colour"
    about = "shape" if any(shape in question for shape in SHAPES) else "colour"
    return f"{about}, yes or no"


def by_kind(answers: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The share of right answers of each kind of question."""
    right: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        right[kind_of(answer["question"], answer["truth"])].append(answer["is_right"])
    return {kind: sum(right[kind]) / len(right[kind]) for kind in KINDS if right[kind]}


def across(values: Sequence[float]) -> Score:
    """The `Score` of one number per run; `ValueError` where there is none."""
    if not values:
        raise ValueError("no run has been evaluated")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Score(mean, math.nan)
    factor = _T95.get(len(values) - 1, 1.96)
    return Score(mean, factor * statistics.stdev(values) / math.sqrt(len(values)))


def interval(estimate: Mapping[str, float], format: str) -> str:
    """An estimate of an evaluation with its 95% interval, in the given ``format``."""
    return f"{estimate['value']:{format}} [{estimate['low']:{format}}, {estimate['high']:{format}}]"


def table(evaluations: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """Lines of Markdown from the evaluation of each seed, asked without context, with ``--baselines``."""
    results = {seed: value["results"][0] for seed, value in sorted(evaluations.items())}
    kinds = {seed: by_kind(result["answers"]) for seed, result in results.items()}
    rows: list[tuple[str, list[float]]] = [
        ("**all questions**", [result["all"]["exact"]["value"] for result in results.values()])
    ]
    present = [kind for kind in KINDS if any(kind in found for found in kinds.values())]
    rows += [(f"of them: {kind}", [found[kind] for found in kinds.values()]) for kind in present]
    baselines = {
        "always the most frequent answer": "majority",
        "the best answer per question text (a ceiling without looking)": "question_only",
        "the same models, each question with another picture": "swapped_pictures",
    }
    for words, name in baselines.items():
        rows.append((words, [result["baselines"][name] for result in results.values()]))
    yield f"| right answers | mean of {len(results)} seeds ± 95% | {' | '.join(f'seed {seed}' for seed in results)} |"
    yield f"| --- | --- |{' --- |' * len(results)}"
    for words, values in rows:
        score = across(values)
        margin = "" if math.isnan(score.margin) else f" ± {score.margin:.1%}"
        yield f"| {words} | {score.mean:.1%}{margin} | {' | '.join(f'{value:.1%}' for value in values)} |"
