"""``python -m otter_train.evaluate``: how often a trained model answers as the shards do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mimicit.schema import canonical_json
from otter_train.command_line import HELP, calm_threads, errors_on_one_line

if TYPE_CHECKING:
    from otter_train.evaluation import Report

__all__ = ["main"]

_FOLDER = click.Path(path_type=Path)
_EXAMPLES = 6
_PROGRESS_EVERY = 500


@click.command(context_settings=HELP)
@click.option("--checkpoint", type=_FOLDER, required=True, help="Run folder, or one checkpoint of it.")
@click.option("--shards", type=_FOLDER, required=True, help="Shards whose queries are asked; not those of training.")
@click.option("--shots", type=click.IntRange(min=0), default=0, help="Context triplets shown before each query.")
@click.option("--baselines", is_flag=True, help="Also what a model that never looks could reach.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask only this many queries, drawn at random.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, help="Queries per forward pass.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=32, help="Longest answer, in tokens.")
@click.option("--language-model", help="Where the frozen language model lies now, if it was moved.")
@click.option("--vision-model", help="Where the frozen vision model lies now, if it was moved.")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every answer.")
def main(
    checkpoint: Path,
    shards: Path,
    shots: int,
    baselines: bool,
    limit: int | None,
    batch_size: int,
    max_new_tokens: int,
    language_model: str | None,
    vision_model: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Greedy answers to the queries of SHARDS, compared with the true ones (capitals and a final stop aside)."""
    with errors_on_one_line():
        calm_threads()
        from mimicit.loading import load
        from otter_train.evaluation import evaluate
        from otter_train.inference import answer_each, load_trained_model
        from otter_train.metrics import Console

        samples = load(shards, shuffle="full", seed=0)
        trained = load_trained_model(
            checkpoint, device=device, language_model=language_model, vision_model=vision_model
        )
        console = Console(sys.stderr)
        report = evaluate(
            samples,
            lambda asked: answer_each(trained, asked, max_new_tokens=max_new_tokens, batch_size=batch_size),
            shots=shots,
            limit=limit,
            baselines=baselines,
            progress=lambda done: console.progress(f"{done:,} answered") if done % _PROGRESS_EVERY == 0 else None,
        )
    click.echo(canonical_json(report.to_json()) if as_json else "\n".join(_lines(report)))


def _lines(report: Report) -> Iterator[str]:
    yield f"{report.accuracy:6.1%}  exact answers to {len(report.answered):,} queries with {report.shots} shots"
    if report.skipped:
        yield f"        ({report.skipped:,} interleaved documents ask nothing and were skipped)"
    if len(report.by_source) > 1:
        yield from (f"{rate:6.1%}    {source} ({count:,})" for source, (count, rate) in report.by_source.items())
    for rate, meaning in (
        (
            report.question_only,
            "ceiling of a model that never looks: the best answer per question text, from these samples",
        ),
        (report.majority, "always the most frequent answer of these samples"),
        (report.swapped_pictures, "this model when each query gets the pictures of another sample"),
    ):
        if rate is not None:
            yield f"{rate:6.1%}  {meaning}"
    for one in report.answered[:_EXAMPLES]:
        verdict = "right" if one.is_right else f"truth: {one.truth}"
        yield f"  {one.origin or 'no picture'}  {one.question!r}  ->  {one.answer!r}  ({verdict})"


if __name__ == "__main__":
    main()
