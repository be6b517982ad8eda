"""The numbers of an evaluation per number of shots and per source, with intervals: as a table, as JSON, as a plot."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from mimicit.prompt import is_caption_instruction
from mimicit.schema import canonical_json
from mimicit.shards.files import write_atomically
from otter_train.evaluation.metrics import RESAMPLES, Estimate, cider, ratio, resampled, roc_auc
from otter_train.evaluation.scores import Answered, Report, is_right

ALL: Final = "all"
"""Stands for all sources together."""

_EXAMPLES: Final = 6
_SOURCES_DRAWN: Final = 8
_HEADER: Final = "shots  {source:<{width}}  queries  context  loss                  exact                 VQA"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The scores of some answers; each estimate with its bootstrap interval.

    ``loss`` is the mean over the tokens of the true answers, in nats; ``exact`` and ``vqa`` lie between 0 and 1.
    ``context`` is the mean number of context triplets that were shown; ``with_humans`` queries have the answers of
    several people, the others count as exact or not in ``vqa``. ``choice`` is the share of right choices among the
    ``with_choices`` queries that offer some, and ``chance`` what guessing would reach there. ``anls`` lies between 0
    and 1, ``cider`` between 0 and 10: over the ``captioned`` pictures for which several answers to one question are
    known, each counted once. ``auc`` is the area under the ROC curve of the likelihood of "yes", over the ``yes_or_no``
    queries that offer that and "no".
    """

    queries: int
    with_humans: int
    context: float
    loss: Estimate
    exact: Estimate
    vqa: Estimate
    with_choices: int
    choice: Estimate
    chance: float
    anls: Estimate
    captioned: int
    cider: Estimate
    yes_or_no: int
    auc: Estimate

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(min(self.loss.value, 700.0))

    def to_json(self) -> dict[str, Any]:
        """The summary as a JSON value."""
        estimates = {"loss": self.loss, "exact": self.exact, "vqa": self.vqa, "choice": self.choice}
        estimates |= {"anls": self.anls, "cider": self.cider, "auc": self.auc}
        return {
            "queries": self.queries,
            "with_humans": self.with_humans,
            "with_choices": self.with_choices,
            "captioned": self.captioned,
            "yes_or_no": self.yes_or_no,
            "chance": self.chance,
            "context": self.context,
            "perplexity": self.perplexity,
            **{name: estimate._asdict() for name, estimate in estimates.items()},
        }


def measure(answered: Sequence[Answered], *, seed: int) -> Summary:
    """The `Summary` of ``answered``; ``seed`` decides the resamples."""
    nats = np.array([one.nats for one in answered], dtype=np.float64)
    tokens = np.array([one.tokens for one in answered], dtype=np.float64)
    exact = np.array([one.is_right for one in answered], dtype=np.float64)
    vqa = np.array([one.vqa for one in answered], dtype=np.float64)
    offering = np.array([one.choices > 0 for one in answered], dtype=np.float64)
    choice = np.array(
        [one.chosen is not None and is_right(one.chosen, one.truth) for one in answered], dtype=np.float64
    )
    near = np.array([one.anls for one in answered], dtype=np.float64)
    captions = np.array(_caption_scores(answered), dtype=np.float64)
    asked = [one for one in answered if one.yes is not None]
    scores = np.array([one.yes for one in asked], dtype=np.float64)
    is_yes = np.array([is_right(one.truth, "yes") for one in asked], dtype=np.bool_)
    ones = np.ones(len(answered))
    return Summary(
        queries=len(answered),
        with_humans=sum(one.humans > 1 for one in answered),
        context=sum(one.shots for one in answered) / max(1, len(answered)),
        loss=ratio(nats, tokens, seed=seed),
        exact=ratio(exact, ones, seed=seed),
        vqa=ratio(vqa, ones, seed=seed),
        with_choices=int(offering.sum()),
        choice=ratio(choice, offering, seed=seed),
        chance=sum(1 / one.choices for one in answered if one.choices) / max(1, int(offering.sum())),
        anls=ratio(near, ones, seed=seed),
        captioned=len(captions),
        cider=ratio(captions, np.ones(len(captions)), seed=seed),
        yes_or_no=len(scores),
        auc=resampled(len(scores), lambda drawn: roc_auc(scores[drawn], is_yes[drawn]), seed=seed)
        if len(scores)
        else Estimate(0.0, 0.0, 0.0),
    )


def _caption_scores(answered: Sequence[Answered]) -> list[float]:
    """CIDEr of the answer to each picture for which several answers to one question are known.

    The instructions that builds give to captions all count as one question.
    """
    said: dict[tuple[object, str], str] = {}
    known: dict[tuple[object, str], dict[str, None]] = defaultdict(dict)
    for one in answered:
        asked = (one.media[-1:], "" if is_caption_instruction(one.question) else one.question)
        said.setdefault(asked, one.answer)
        known[asked].update(dict.fromkeys(one.references or (one.truth,)))
    several = [asked for asked, texts in known.items() if len(texts) > 1]
    return cider([said[asked] for asked in several], [known[asked] for asked in several])


def summarise(report: Report, *, seed: int) -> dict[str, Summary]:
    """The summary of each source, after that of `ALL` of them."""
    groups: dict[str, Sequence[Answered]] = {ALL: report.answered}
    if len(report.by_source) > 1:
        groups.update(report.by_source)
    return {name: measure(group, seed=seed) for name, group in groups.items()}


def gained_by_looking(report: Report, *, seed: int) -> Estimate | None:
    """How much the loss of the true answers (nats per token) rises with another sample's pictures.

    None if that was not measured.
    """
    if not report.swapped:
        return None
    own = {one.position: one for one in report.answered}
    more = np.array([one.nats - own[one.position].nats for one in report.swapped])
    return ratio(more, np.array([one.tokens for one in report.swapped], dtype=np.float64), seed=seed)


def lines(reports: Sequence[Report], summaries: Sequence[Mapping[str, Summary]], *, seed: int) -> Iterator[str]:
    """The table for a person, the baselines to compare it with, and a few answers."""
    yield from _table(reports, summaries)
    for report, by_name in zip(reports, summaries, strict=True):
        yield from _choices(report.shots, by_name)
    for report, by_name in zip(reports, summaries, strict=True):
        yield from _texts(report.shots, by_name)
    for report in reports:
        yield from _compared(report, seed=seed)
    for one in reports[0].answered[:_EXAMPLES]:
        verdict = "right" if one.is_right else f"truth: {one.truth}"
        yield f"  {one.origin or 'no picture'}  {one.question!r}  ->  {one.answer!r}  ({verdict})"


def _table(reports: Sequence[Report], summaries: Sequence[Mapping[str, Summary]]) -> Iterator[str]:
    width = max(len(name) for summary in summaries for name in (*summary, "source"))
    yield _HEADER.format(source="source", width=width)
    for report, by_name in zip(reports, summaries, strict=True):
        for name, summary in by_name.items():
            yield (
                f"{report.shots:>5}  {name:<{width}}  {summary.queries:>7,}  {summary.context:>7.1f}  "
                f"{_with_interval(summary.loss, '.3f'):<20}  {_with_interval(summary.exact, '.1%'):<20}  "
                f"{_with_interval(summary.vqa, '.1%')}"
            )
    yield (
        f"[ ]: 95% of {RESAMPLES:,} resamples; loss: nats per token of the true answers;"
        " VQA: exact where one answer is known"
    )
    if reports[0].skipped:
        yield f"{reports[0].skipped:,} interleaved documents ask nothing and were skipped"
    for report in reports:
        if report.left_out:
            yield f"{len(report.left_out):,} left out with {report.shots} shots: {report.left_out[0]}"


def _choices(shots: int, by_name: Mapping[str, Summary]) -> Iterator[str]:
    """Lines about the right choices among the answers that queries offer."""
    for name, found in by_name.items():
        if found.with_choices:
            asked = f"{shots} shots, {name}: the likeliest choice is right, of {found.with_choices:,}"
            yield f"{found.choice.value:6.1%}  {asked} {_interval(found.choice, '.1%')}; by chance {found.chance:.1%}"
        if found.yes_or_no:
            asked = f"{shots} shots, {name}: ROC AUC × 100 of the likelihood of yes, of {found.yes_or_no:,}"
            yield f"{100 * found.auc.value:6.1f}  {asked} {_interval(found.auc.times(100), '.1f')}"


def _texts(shots: int, by_name: Mapping[str, Summary]) -> Iterator[str]:
    """Lines about how near the answers come to the true ones as texts."""
    for name, found in by_name.items():
        yield f"{found.anls.value:6.1%}  {shots} shots, {name}: ANLS {_interval(found.anls, '.1%')}"
        if found.captioned:
            of = f"{shots} shots, {name}: CIDEr × 100, of {found.captioned:,} pictures with several captions each"
            yield f"{100 * found.cider.value:6.1f}  {of} {_interval(found.cider.times(100), '.1f')}"


def _compared(report: Report, *, seed: int) -> Iterator[str]:
    """Lines about what is reached without looking, or with the pictures of another sample."""
    for rate, meaning in (
        (
            report.question_only,
            "ceiling of a model that never looks: the best answer per question text, from these samples",
        ),
        (report.majority, "always the most frequent answer of these samples"),
        (report.swapped_pictures, "this model when each query gets the pictures of another sample"),
    ):
        if rate is not None:
            yield f"{rate:6.1%}  {report.shots} shots: {meaning}"
    gained = gained_by_looking(report, seed=seed)
    if gained is not None:
        change = f"{gained.value:6.3f}  {report.shots} shots: how much that adds to its loss"
        yield f"{change} {_interval(gained, '.3f')}"


def to_json(
    reports: Sequence[Report], summaries: Sequence[Mapping[str, Summary]], *, seed: int
) -> list[dict[str, Any]]:
    """One value per number of shots: the summaries, the baselines and every answer."""
    return [
        {
            **report.to_json(),
            "gained_by_looking": gained and gained._asdict(),
            "all": by_name[ALL].to_json(),
            "by_source": {name: summary.to_json() for name, summary in by_name.items() if name != ALL},
        }
        for report, by_name in zip(reports, summaries, strict=True)
        for gained in [gained_by_looking(report, seed=seed)]
    ]


def write_report(folder: Path, value: Mapping[str, Any], text: str, plot: bytes) -> None:
    """Write ``evaluation.json``, ``evaluation.txt`` and ``evaluation.png`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "evaluation.json", [canonical_json(value), b"\n"])
    write_atomically(folder / "evaluation.txt", [text.encode(), b"\n"])
    write_atomically(folder / "evaluation.png", [plot])


def draw(reports: Sequence[Report], summaries: Sequence[Mapping[str, Summary]]) -> bytes:
    """Loss and exact answers over the number of shots as a PNG, with the intervals; the first few sources."""
    from matplotlib.figure import Figure  # a second to import, and only needed here; it draws without a screen

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shots = [report.shots for report in reports]
    for name in list(summaries[0])[:_SOURCES_DRAWN]:
        found = [summary[name] for summary in summaries]
        for axes, estimates in ((left, [one.loss for one in found]), (right, [one.exact for one in found])):
            values = [estimate.value for estimate in estimates]
            below = [max(0.0, estimate.value - estimate.low) for estimate in estimates]
            above = [max(0.0, estimate.high - estimate.value) for estimate in estimates]
            axes.errorbar(shots, values, yerr=[below, above], marker="o", capsize=3, label=name)
    left.set_ylabel("loss per answer token (nats)")
    right.set_ylabel("exact answers")
    right.set_ylim(-0.02, 1.02)
    for axes in (left, right):
        axes.set_xlabel("shots")
        axes.set_xticks(shots)
    left.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def _with_interval(estimate: Estimate, format: str) -> str:
    return f"{estimate.value:{format}} {_interval(estimate, format)}"


def _interval(estimate: Estimate, format: str) -> str:
    return f"[{estimate.low:{format}}, {estimate.high:{format}}]"
