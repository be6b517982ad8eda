"""``python -m otter_train.evaluate``: how often a trained model answers as the shards do."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from mimicit.errors import UsageError
from mimicit.options import click_options, configured
from mimicit.schema import canonical_json
from mimicit.shards.folders import held_folder
from otter_train.config.command_line import HELP, Program, calm_threads, errors_on_one_line, importing, run_and_leave
from otter_train.inference import AnswerOptions, ModelOptions

_FOLDER = click.Path(path_type=Path)
_PROGRESS_EVERY = 500
_EXAMPLES_EVERY = 5_120
_MAX_SHOTS = 1000
_CONTEXTS = ("random", "image-similar", "text-similar")
_IMAGE_EMBEDDER, _TEXT_EMBEDDER = "classical", "hashed"


class _Shots(click.ParamType[tuple[int, ...]]):
    name = "numbers"

    def convert(self, value: str | tuple[int, ...], param: object, context: object) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdigit() and int(part) <= _MAX_SHOTS for part in parts):
            self.fail(f"{value!r} is no list of numbers of shots such as 0,1,2,4,8")
        return tuple(sorted({int(part) for part in parts}))


@click.command(cls=Program, context_settings=HELP)
@click.option("--checkpoint", type=_FOLDER, required=True, help="Run, checkpoint, or model of any layout.")
@click.option("--shards", required=True, help="Held-out shards (or their URL) whose queries are asked.")
@click.option("--shots", type=_Shots(), default="0", help="Context triplets before each query: 0,1,2,4,8.")
@click.option("--support", help="Shards whose samples serve as context, in place of the query's own.")
@click.option("--context", type=click.Choice(_CONTEXTS), help="How context is chosen from --support; else at random.")
@click.option("--image-embedder", default=_IMAGE_EMBEDDER, help="Embedder of --context image-similar, as in builds.")
@click.option("--text-embedder", default=_TEXT_EMBEDDER, help="Embedder of --context text-similar, as in builds.")
@click.option("--baselines", is_flag=True, help="Also report what a model that never looks at pictures could reach.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask only this many queries, drawn at random.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, help="Queries per forward pass.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=32, help="Longest answer, in tokens.")
@click.option("--beams", type=click.IntRange(min=1), default=1, help="Beams of a beam search; 1 for none.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of random context, and of the intervals.")
@click.option("--out", type=_FOLDER, help="Folder for evaluation.json, evaluation.txt and evaluation.png.")
@click_options(ModelOptions)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every answer.")
def main(
    checkpoint: Path,
    shards: str,
    shots: tuple[int, ...],
    support: str | None,
    context: Literal["random", "image-similar", "text-similar"] | None,
    image_embedder: str,
    text_embedder: str,
    baselines: bool,
    limit: int | None,
    batch_size: int,
    max_new_tokens: int,
    beams: int,
    seed: int,
    out: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Ask the queries of SHARDS, and compare greedy answers with the true ones (capitals and a final stop aside).

    \b
    python -m otter_train.evaluate --checkpoint run/ --shards held-out/ --shots 0,1,2,4,8 --out evaluation/

    With --support, a query is shown samples of another set first: at random, or those most like it by picture (RICES)
    or by text; never one with a picture of its own.

    The loss is that of the true answers. Where a sample's meta holds the answers of ten people, as that of VQAv2
    does, the VQA accuracy compares with all of them.
    """
    with errors_on_one_line(), ExitStack() as stack:
        if context is not None and support is None:
            raise UsageError("--context: says how to choose from --support; give that too")
        for option, given_one, usual, way in (
            ("--image-embedder", image_embedder, _IMAGE_EMBEDDER, "image-similar"),
            ("--text-embedder", text_embedder, _TEXT_EMBEDDER, "text-similar"),
        ):
            if given_one != usual and context != way:
                raise UsageError(f"{option}: compares only with --context {way}; give that too")
        calm_threads()
        with importing():
            from mimicit.loading import load
            from otter_train.evaluation.attempts import CachedTower, attempt_each
            from otter_train.evaluation.report import draw, lines, summarise, to_json, write_report
            from otter_train.evaluation.scores import evaluate
            from otter_train.evaluation.support_set import Support
            from otter_train.inference.answering import load_trained_model
            from otter_train.reporting.metrics import Console

        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held_folder(out, "evaluation", required=False))
        samples = load(shards, shuffle="full", seed=0)
        console = Console(sys.stderr)
        with_context = None
        if support is not None:
            with_context = Support(
                load(support),
                context or "random",
                seed=seed,
                image=image_embedder,
                text=text_embedder,
                progress=lambda done: (
                    console.progress(f"{done:,} examples read") if done % _EXAMPLES_EVERY == 0 else None
                ),
            ).with_context
        trained = load_trained_model(checkpoint, **asdict(configured(ModelOptions, given)))
        trained.model.vision = CachedTower(trained.model.vision)  # every picture is asked about several times
        options = AnswerOptions(max_new_tokens=max_new_tokens, beams=beams)
        reports = [
            evaluate(
                samples,
                lambda asked: attempt_each(trained, asked, options, batch_size=batch_size),
                shots=count,
                limit=limit,
                baselines=baselines,
                with_context=with_context,
                why_not=trained.encoder.why_not,
                progress=lambda done: console.progress(f"{done:,} answered") if done % _PROGRESS_EVERY == 0 else None,
            )
            for count in shots
        ]
        summaries = [summarise(report, seed=seed) for report in reports]
        text = "\n".join(lines(reports, summaries, seed=seed))
        asked: dict[str, Any] = {"checkpoint": str(trained.source), "step": trained.step, "shards": str(shards)}
        if support is not None:
            asked |= {"support": support, "context": context or "random"}
        value = {**asked, "seed": seed, "results": to_json(reports, summaries, seed=seed)}
        if out is not None:
            write_report(out, value, text, draw(reports, summaries))
    click.echo(canonical_json(value) if as_json else text)


if __name__ == "__main__":
    run_and_leave(main)
