"""``mimicit annotate``: from pictures, captions and clips to instruction–answer pairs, by any language model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimicit.annotating.config import Limits
from mimicit.commands.groups import EXIT_FAILED, print_json
from mimicit.errors import UsageError
from mimicit.options import click_options, configured
from mimicit.pipeline import BuildConfig

if TYPE_CHECKING:
    from mimicit.annotating.batch import BatchWriter
    from mimicit.annotating.config import Prices
    from mimicit.annotating.run import Summary
    from mimicit.annotating.work import Preview


@click.command()
@click.option("--src", type=click.Path(path_type=Path), required=True, help="Folder with the raw data, as for build.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the manifest and the answers.")
@click.option("--recipe", required=True, metavar="NAME|FILE", help="Built-in recipe, or your own TOML file.")
@click.option("--model", required=True, help="Name of the model, as the server knows it.")
@click.option(
    "--base-url",
    envvar="OPENAI_BASE_URL",
    default="https://api.openai.com/v1",
    show_default=True,
    help="URL of any server that speaks the OpenAI protocol.",
)
@click.option(
    "--key-env", default="OPENAI_API_KEY", show_default=True, help="Environment variable that holds the server's key."
)
@click.option("--answers", type=click.Choice(["json", "text"]), help="Ask for JSON by a schema, or for lines of text.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only this many records, the first ones.")
@click_options(BuildConfig, only=("format", "follow_links", "allow_root"))
@click_options(Limits)
@click.option("--judge", metavar="MODEL", help="Have this model of the same server score every pair from 1 to 5.")
@click.option("--judge-least", type=click.FloatRange(1, 5), default=4.0, show_default=True, help="Lowest score kept.")
@click.option("--batch-out", type=click.Path(path_type=Path), help="Send nothing; write requests for a batch API.")
@click.option(
    "--batch-in",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Send nothing; read a file that the batch API returned. May be given several times.",
)
@click.option("--dry-run", is_flag=True, help="Send nothing; print the first request and what all would cost.")
@click.option("--report/--no-report", default=True, show_default=True, help="Write report.html with examples.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON, for programs.")
def annotate(
    src: Path,
    out: Path,
    recipe: str,
    model: str,
    base_url: str,
    key_env: str,
    answers: str | None,
    limit: int | None,
    format: str | None,
    follow_links: bool,
    allow_root: tuple[str, ...],
    judge: str | None,
    judge_least: float,
    batch_out: Path | None,
    batch_in: tuple[Path, ...],
    dry_run: bool,
    report: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Let a language model write instructions and answers about raw pictures, clips and captions.

    \b
    mimicit annotate --src raw/ --out written/ --recipe detail --model NAME --dry-run
    mimicit annotate --src raw/ --out written/ --recipe detail --model NAME --base-url http://localhost:8000/v1
    mimicit build --src written/ --config written/mimicit.toml --out shards/

    Every answer is kept in --out before anything else is done with it: whatever ends a run, the same command goes on,
    and asks nothing twice. The key of the server is read from the environment.
    """
    from mimicit.annotating.asking import Judge
    from mimicit.annotating.client import checked_base_url
    from mimicit.annotating.recipe import read_recipe
    from mimicit.annotating.run import Server, write_batch
    from mimicit.annotating.run import annotate as run
    from mimicit.annotating.work import Work, preview, refusals_named
    from mimicit.progress import progress_display
    from mimicit.sources.files.root import Root

    if allow_root and not follow_links:
        raise UsageError("--allow-root goes with --follow-links")
    if (batch_out is not None) + bool(batch_in) + dry_run > 1:
        raise UsageError("--batch-out, --batch-in and --dry-run: one of them at a time")
    written = read_recipe(recipe, answers=answers)  # type: ignore[arg-type]
    server = Server(model=model, base_url=checked_base_url(base_url), key=os.environ.get(key_env, ""))
    limits: Limits = configured(Limits, given)
    second = Judge(judge, judge_least) if judge else None
    root = Root(src, exclude=(out,), follow_links=follow_links, allow=tuple(map(Path, allow_root)))
    with (
        progress_display() as progress,
        refusals_named(out),
        Work(src, out, written, root=root, limit=limit, format=format) as work,
    ):
        if dry_run:
            _print_preview(preview(work, model, progress), limits.prices, as_json)
            return
        if batch_out is not None:
            _print_batch(write_batch(work, model, second, batch_out, progress), as_json)
            return
        summary = run(work, server, limits, progress, judge=second, batches=batch_in, report=report)
    _print(summary, out, as_json)


def _print(summary: Summary, out: Path, as_json: bool) -> None:
    counts = summary.counts
    if as_json:
        print_json(
            {
                "records": counts.jobs,
                "written": counts.written,
                "rejected": counts.rejected,
                "reasons": dict(sorted(counts.reasons.items())),
                "pairs": counts.pairs,
                "kept": counts.kept,
                "dropped": counts.dropped,
                "pair_reasons": dict(sorted(counts.pair_reasons.items())),
                "input": {"triplets": summary.triplets, "rejected": summary.dropped_input},
                "requests": summary.asked,
                "tokens": {"input": summary.spent.input_tokens, "output": summary.spent.output_tokens},
                "usd": round(summary.spent_usd, 6),
                "stopped": summary.stopped,
            }
        )
    else:
        click.echo(f"records: {counts.jobs:,} asked about = {counts.written:,} written + {counts.rejected:,} rejected")
        for reason, count in counts.reasons.most_common():
            click.echo(f"  {reason}: {count:,}")
        click.echo(f"pairs: {counts.pairs:,} = {counts.kept:,} kept + {counts.dropped:,} dropped")
        for reason, count in counts.pair_reasons.most_common():
            click.echo(f"  {reason}: {count:,}")
        cost = f", {summary.spent_usd:.2f} USD" if summary.spent_usd else ""
        click.echo(f"requests sent: {summary.asked:,}; spent so far: {summary.spent.tokens:,} tokens{cost}")
        if counts.kept:
            click.echo(f"next: mimicit build --src {out} --config {out}/mimicit.toml --out shards/")
    if summary.stopped:
        click.echo(f"mimicit: {counts.reasons['not_asked']:,} not asked about: {summary.stopped}", err=True)
    if summary.stopped or not counts.kept:
        raise SystemExit(EXIT_FAILED)


def _print_preview(found: Preview, prices: Prices, as_json: bool) -> None:
    usd = prices.of(found.cost.input_tokens, found.cost.output_tokens)
    if as_json:
        counts = {"records": found.jobs, "unfit": found.unfit, "answered": found.answered, "requests": found.requests}
        tokens = {"input": found.cost.input_tokens, "output": found.cost.output_tokens}
        print_json({**counts, "tokens": tokens, "usd": round(usd, 6), "request": found.request})
        return
    click.echo(found.request or "nothing would be asked")
    click.echo(
        f"{found.jobs:,} to ask about: {found.answered:,} are answered already, {found.unfit:,} do not fit the recipe;"
        f" {found.requests:,} requests"
    )
    cost = f", {usd:.2f} USD" if usd else ""
    click.echo(
        f"about {found.cost.input_tokens:,} tokens sent, and at most {found.cost.output_tokens:,} answered{cost}"
        " (from the first 200)"
    )


def _print_batch(written: BatchWriter, as_json: bool) -> None:
    if as_json:
        print_json({"requests": len(written), "files": [str(path) for path in written.paths]})
    elif written.paths:
        click.echo(f"{len(written):,} requests in {', '.join(map(str, written.paths))}")
        click.echo("next: hand them to the batch API, and give what comes back to the same command with --batch-in")
    else:
        click.echo("nothing is missing; the same command without --batch-out writes the manifest")
