"""``mimicit verify``, ``index`` and ``export``: shards that come from elsewhere, or go there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimicit.commands.groups import EXIT_FAILED, ExistingPath, print_json

if TYPE_CHECKING:
    from mimicit.hub.card import Layout


class _ExportFormat(click.Choice[str]):
    """One of ours, or of an installed package, which is asked only for a name that is not ours."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from mimicit import plugins

        if value not in self.choices and value in plugins.added_names(plugins.EXPORTERS):
            return str(value)
        return super().convert(value, param, ctx)


@click.command()
@click.argument("path", type=ExistingPath())
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def verify(path: Path, as_json: bool) -> None:
    """Check every checksum, member, reference and schema; exit 1 with findings.

    \b
    mimicit verify shards/
    mimicit verify shards/shard-000.tar
    """
    from dataclasses import asdict

    from mimicit.errors import ShardError
    from mimicit.inspecting.summary import printable
    from mimicit.shards.verify import verify_folder, verify_shard

    if not path.exists():
        raise ShardError(f"{path}: no such file or folder")
    count = 0
    findings = []
    for finding in verify_folder(path) if path.is_dir() else verify_shard(path):
        count += 1
        if as_json:
            findings.append(asdict(finding))
        else:
            click.echo(printable(f"{finding.file}: {f'{finding.key}: ' if finding.key else ''}{finding.fault}"))
    if as_json:
        print_json({"path": str(path), "findings": findings})
    else:
        click.echo(f"{path}: {count} finding(s)" if count else f"{path}: sound")
    sys.exit(EXIT_FAILED if count else 0)


@click.command()
@click.argument("path", type=ExistingPath())
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def index(path: Path, as_json: bool) -> None:
    """Index a folder of tars that others made, so that mimicit loads them where they lie.

    \b
    mimicit index laion-part/

    Pictures with texts, as img2dataset and WebDataset write them. The tars are only read; index.parquet,
    rejects.parquet and manifest.json are written beside them.
    """
    from dataclasses import asdict

    from mimicit.pipeline.foreign import index_folder

    report = index_folder(path)
    if as_json:
        print_json(asdict(report))
        return
    click.echo(f"{path}: {report.samples:,} samples in {report.shards:,} shards")
    for reason, count in report.rejected.most_common():
        click.echo(f"  left out: {reason} ({count:,}); see mimicit rejects {path}")


@click.command()
@click.argument("path", type=ExistingPath())
@click.option(
    "--to",
    required=True,
    type=_ExportFormat(["datasets", "files", "hub", "llava", "mimicit", "mmc4"]),
    help="Format to write. files: a manifest beside its pictures, to build again; hub: a data set online.",
)
@click.option(
    "--out",
    required=True,
    metavar="FOLDER|URL",
    help="New or empty folder; with --to hub: hf://datasets/ORG/NAME[@BRANCH].",
)
@click.option(
    "--as",
    "layout",
    type=click.Choice(["parquet", "shards"]),
    help="With --to hub: upload tables [default], or the tars as they are.",
)
@click.option("--private", is_flag=True, help="With --to hub: make a new data set private.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def export(path: Path, to: str, out: str, layout: Layout | None, private: bool, as_json: bool) -> None:
    """Write the samples of a shard or a folder of shards in a format that other tools read.

    \b
    mimicit export shards/ --to files --out raw-again/
    mimicit export shards/ --to datasets --out table/
    mimicit export shards/ --to hub --out hf://datasets/ORG/NAME

    Only datasets and hub hold all of a sample; what the other formats cannot hold is counted.
    """
    from dataclasses import asdict

    from mimicit.errors import UsageError
    from mimicit.exporting import export_shards
    from mimicit.progress import progress_display

    if (to == "hub") != out.startswith("hf://"):
        raise UsageError(f"--out {out}: --to hub goes with hf://datasets/ORG/NAME, any other format with a folder")
    if to == "hub":
        _push(path, out, layout or "parquet", private, as_json)
        return
    if layout is not None or private:
        raise UsageError("--as and --private go with --to hub")
    with progress_display() as progress:
        report = export_shards(
            path, Path(out), to, on_progress=lambda samples: progress.update("export", samples, None)
        )
    if as_json:
        print_json(asdict(report))
        return
    click.echo(f"{report.samples:,} samples as {report.records:,} records with {report.media:,} media files: {out}")
    for what, count in report.lost.items():
        click.echo(f"  not in {to}: {what} ({count:,})")


def _push(path: Path, out: str, layout: Layout, private: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from mimicit.hub.push import push_to_hub, quiet
    from mimicit.progress import progress_display

    quiet()
    with progress_display() as progress:
        report = push_to_hub(
            path,
            out,
            layout=layout,
            private=private,
            on_progress=lambda done, total: progress.update("export", done, total),
        )
    if as_json:
        print_json(asdict(report))
        return
    click.echo(
        f"{report.samples:,} samples as {report.files:,} files ({report.layout}), {report.sent:,} of them sent now"
    )
    click.echo(f"hf://datasets/{report.repo}@{report.commit}")
