"""``mimicit inspect``, ``view``, ``rejects`` and ``compare``: what is in the shards, and what is not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import click

from mimicit.commands.groups import EXIT_FAILED, ExistingPath, print_json
from mimicit.errors import UsageError
from mimicit.records import Sample


@click.command()
@click.argument("path", type=ExistingPath())
@click.option("--sample", "wanted", metavar="KEY", help="Print one sample in full, by key or id.")
@click.option("--png", type=click.Path(path_type=Path), help="File for the pictures of --sample [default: KEY.png].")
@click.option("--html", type=click.Path(path_type=Path), help="Write a report as a single HTML file.")
@click.option(
    "--pictures/--no-pictures",
    default=None,
    help="Show pictures in the terminal, as coloured blocks where it draws no others [default: where it can].",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def inspect(
    path: Path, wanted: str | None, png: Path | None, html: Path | None, pictures: bool | None, as_json: bool
) -> None:
    """Show what is inside a shard or a folder of shards.

    \b
    mimicit inspect shards/shard-000.tar
    mimicit inspect shards/ --sample 000000033471-8c7e... --png look.png
    mimicit inspect shards/ --html report.html
    """
    if pictures and (html is not None or as_json):
        raise UsageError("--pictures is about the terminal; it does not go with --html or --json")
    if html is not None:
        if wanted is not None or png is not None:
            raise UsageError("--html is about all samples; it does not go with --sample or --png")
        _report(path, html, as_json)
        return

    from mimicit.inspecting.summary import find_sample, iterate_samples, sample_text, summarise, summary_text

    if wanted is None:
        if png is not None:
            raise UsageError("--png goes with --sample")
        summary = summarise(path)
        if as_json:
            print_json(summary.to_json())
        else:
            click.echo(summary_text(summary))
            _show_pictures((sample for _, sample in iterate_samples(path)), pictures, most=len(summary.previews))
        return

    from mimicit.inspecting.pictures import write_sheet
    from mimicit.inspecting.stored_samples import origins_of
    from mimicit.prompt import render
    from mimicit.records import sample_to_json

    sample = find_sample(path, wanted)
    target = png or Path(f"{sample.key}.png")
    if sample.media:
        write_sheet(sample, target)
    origins = origins_of(path, sample.media)
    if as_json:
        shown = {"prompt": render(sample), "png": str(target) if sample.media else None, "origins": origins}
        print_json({**sample_to_json(sample), **shown})
    else:
        click.echo(sample_text(sample, origins))
        _show_pictures([sample], pictures)
        click.echo(f"\npictures: {target}" if sample.media else "\nno pictures")


def _show_pictures(samples: Iterable[Sample], wanted: bool | None, most: int = 1) -> None:
    """Print the pictures of the first ``most`` samples if they are ``wanted``; by default, where they can be seen."""
    from mimicit.inspecting.pictures import graphics_of_terminal, sample_blocks, shows_blocks

    if wanted is False or (wanted is None and os.environ.get("NO_COLOR")):
        return
    graphics = graphics_of_terminal()
    if graphics is None and not wanted and not shows_blocks(sys.stdout):
        return
    columns = shutil.get_terminal_size().columns
    for sample in islice(samples, most):
        if not sample.media:
            continue
        click.echo(f"\npictures of sample {sample.key}")
        if graphics is None:
            click.echo(sample_blocks(sample, columns), color=True)
        else:
            graphics.show(sample, columns)


def _report(path: Path, html: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from mimicit.inspecting.findings import warnings_of
    from mimicit.inspecting.report import write_report
    from mimicit.inspecting.summary import printable
    from mimicit.progress import progress_display

    with progress_display() as progress:
        findings = write_report(path, html, on_progress=lambda done, total: progress.update("read", done, total))
    warnings = warnings_of(findings)
    if as_json:
        print_json({"html": str(html), "samples": findings.samples, "warnings": [asdict(one) for one in warnings]})
        return
    for warning in warnings:
        click.echo(printable(f"{warning.what}: {warning.why}"))
    click.echo(f"{findings.samples:,} samples, {len(warnings)} warning(s): {html}")


@click.command()
@click.argument("path", type=ExistingPath())
@click.option(
    "--by",
    type=click.Choice(["reason", "source", "file"]),
    default="reason",
    show_default=True,
    help="How to group the rejects.",
)
@click.option("--source", default=None, help="Show rejects of this source only.")
@click.option("--reason", default=None, help="Show rejects with this reason only.")
@click.option("--limit", type=click.IntRange(min=0), default=3, show_default=True, help="Rejects to show per group.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def rejects(path: Path, by: Any, source: str | None, reason: str | None, limit: int, as_json: bool) -> None:
    """Say why records, media and references were left out of a folder of shards.

    \b
    mimicit rejects shards/
    mimicit rejects shards/ --by file --reason missing_file --limit 10
    """
    from mimicit.inspecting.rejects import group_rejects, rejects_text

    groups = group_rejects(path, by=by, source=source, reason=reason, limit=limit)
    if as_json:
        print_json(groups.to_json())
    else:
        click.echo(rejects_text(groups))


@click.command()
@click.argument("a", type=ExistingPath())
@click.argument("b", type=ExistingPath())
@click.option("--limit", type=click.IntRange(min=0), default=10, show_default=True, help="Samples listed per kind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def compare(a: Path, b: Path, limit: int, as_json: bool) -> None:
    """Say what differs between two builds; exit 1 where anything does.

    \b
    mimicit compare shards-old/ shards-new/

    Configuration, counts, and the samples that are lost, gained or changed.
    """
    from mimicit.inspecting.compare import compare_folders, comparison_text
    from mimicit.progress import progress_display

    with progress_display() as progress:
        comparison = compare_folders(
            a, b, limit=limit, on_progress=lambda done, total: progress.update("compare", done, total)
        )
    if as_json:
        print_json(comparison.to_json())
    else:
        click.echo(comparison_text(comparison))
    sys.exit(0 if comparison.equal else EXIT_FAILED)


@click.command()
@click.argument("path", type=ExistingPath())
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need the token.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8765, show_default=True, help="Port; 0: a free one.")
def view(path: Path, host: str, port: int) -> None:
    """Look through the samples of a folder of shards in a browser.

    \b
    mimicit view shards/
    mimicit view shards/ --host 0.0.0.0 --port 9000

    Beyond this machine the page asks for the token that is printed with its address. Ctrl-C ends it.
    """
    from mimicit.viewing import serve

    serve(path, host=host, port=port, announce=click.echo)
