"""The command line: parse, one call, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from mimicit.errors import BuildError, MimicitError, UsageError

__all__ = ["main"]

_EXIT_FAILED = 1
_EXIT_USAGE = 2


class _Group(click.Group):
    """Commands that end with one line and an exit code whatever goes wrong on purpose."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            _fail(str(error), _EXIT_USAGE)
        except MimicitError as error:
            _fail(str(error), _EXIT_FAILED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output went away
            sys.exit(_EXIT_FAILED)


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    click.echo(f"mimicit: {line}", err=True)
    sys.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mimicit")
def main() -> None:
    """Build, inspect and verify multi-modal in-context instruction data.

    \b
    mimicit build --src raw/ --out shards/     raw files or published data sets to shards
    mimicit inspect shards/shard-000.tar       what is inside
    mimicit verify shards/                     every checksum, every reference
    mimicit rejects shards/                    what was left out, and why
    mimicit export shards/ --to files --out x/ samples in another format

    Exit codes: 0 fine, 1 findings or a failed job, 2 wrong usage.
    """


@main.command()
@click.option("--src", required=True, type=click.Path(path_type=Path), help="Folder with the raw data.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the shards.")
@click.option("--shots", default=2, show_default=True, help="Context triplets per sample, at most.")
@click.option(
    "--context",
    default="auto",
    show_default=True,
    help="Strategies in order: related, conversation, same-media, random; or auto, none.",
)
@click.option("--seed", default=0, show_default=True, help="Changes which context and queries are drawn.")
@click.option("--frames", default=8, show_default=True, help="Frames per clip, evenly spaced.")
@click.option("--size", default=336, show_default=True, help="Longest side of a picture in pixels; 0 keeps all.")
@click.option("--image-format", type=click.Choice(["jpg", "png", "webp"]), default="jpg", show_default=True)
@click.option("--quality", default=90, show_default=True, help="Of JPEG and WebP, 1 to 100.")
@click.option("--max-pixels", default=100_000_000, show_default=True, help="Refuse larger pictures unread.")
@click.option("--format", "format_", default=None, help="Read every text and table file as this format.")
@click.option("--license", "license_", default="unknown", show_default=True, help="Stated in the dataset card.")
@click.option("--shard-size", default=512, show_default=True, help="MiB per shard, at most.")
@click.option("--shard-samples", default=100_000, show_default=True, help="Samples per shard, at most.")
@click.option("--dedupe", is_flag=True, help="Hold each file once per shard, and hard links for the rest.")
@click.option("--limit", type=int, help="Queries drawn from each source, at most; the others are context only.")
@click.option("--min-side", default=0, show_default=True, help="Leave out pictures with a shorter side, in pixels.")
@click.option(
    "--max-aspect",
    default=0.0,
    help="Leave out pictures whose longer side is more than so many times the shorter; 0 keeps all.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="More options and a mixture of sources [default: mimicit.toml in --src, if there is one].",
)
@click.option("--workers", default=os.cpu_count() or 1, show_default="all cores", help="Processes.")
@click.option("--overwrite", is_flag=True, help="Build anew where input or options have changed.")
@click.option("--retry-rejects", is_flag=True, help="Build anew where the input was mended; count what is in now.")
@click.option("--keep-going", is_flag=True, help="Leave out sources that are unreadable as a whole.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
@click.pass_context
def build(
    ctx: click.Context,
    /,
    src: Path,
    out: Path,
    config_path: Path | None,
    workers: int,
    overwrite: bool,
    retry_rejects: bool,
    keep_going: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn raw files or published data sets into shards.

    \b
    mimicit build --src raw/ --out shards/
    mimicit build --src raw/ --out shards/ --shots 4 --context related,random --size 224
    mimicit build --src raw/ --out shards/ --config mimicit.toml

    Options given here win over those of mimicit.toml, and those of one of its sources win over both.
    Run again after an interruption, the same command goes on where it stopped.
    """
    from mimicit.build import build_shards
    from mimicit.build.engine import LocalEngine
    from mimicit.build.mixture import MIXTURE_NAME, build_config, read_mixture
    from mimicit.build.report import build_report
    from mimicit.terminal import progress_display

    beside = src / MIXTURE_NAME
    if config_path is None and beside.is_file() and not beside.is_symlink():
        config_path = beside
    given = {
        name.removesuffix("_"): value
        for name, value in options.items()
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    config = build_config({**(read_mixture(config_path) if config_path else {}), **given})
    if workers < 1:
        raise UsageError(f"--workers: {workers} is too small; the least is 1")
    try:
        with progress_display() as progress:
            if config_path is not None:
                progress.note(f"options from {config_path}")
            result = build_shards(
                src,
                out,
                config,
                engine=LocalEngine(workers),
                progress=progress,
                overwrite=overwrite,
                retry_rejects=retry_rejects,
                keep_going=keep_going,
            )
    except KeyboardInterrupt:
        raise BuildError(
            f"interrupted; what is done is kept in {out}, and the same command goes on from there"
        ) from None
    if as_json:
        _print_json(result.manifest)
    else:
        click.echo(build_report(result, out))


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--sample", "wanted", metavar="KEY", help="Print one sample in full, by key or id.")
@click.option("--png", type=click.Path(path_type=Path), help="Where --sample writes its pictures [default: KEY.png].")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def inspect(path: Path, wanted: str | None, png: Path | None, as_json: bool) -> None:
    """Show what is inside a shard or a folder of shards.

    \b
    mimicit inspect shards/shard-000.tar
    mimicit inspect shards/ --sample 000000033471-8c7e... --png look.png
    """
    from mimicit.inspecting.summary import find_sample, summarise
    from mimicit.inspecting.text import sample_text, summary_text

    if wanted is None:
        if png is not None:
            raise UsageError("--png goes with --sample")
        summary = summarise(path)
        if as_json:
            _print_json(summary.to_json())
        else:
            click.echo(summary_text(summary))
        return

    from mimicit.inspecting.sheet import write_sheet
    from mimicit.prompt import render
    from mimicit.records import sample_to_json

    sample = find_sample(path, wanted)
    target = png or Path(f"{sample.key}.png")
    if sample.media:
        write_sheet(sample, target)
    if as_json:
        _print_json({**sample_to_json(sample), "prompt": render(sample), "png": str(target) if sample.media else None})
    else:
        click.echo(sample_text(sample))
        click.echo(f"\npictures: {target}" if sample.media else "\nno pictures")


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def verify(path: Path, as_json: bool) -> None:
    """Check every checksum, member, reference and schema; exit 1 with findings.

    \b
    mimicit verify shards/
    mimicit verify shards/shard-000.tar
    """
    from dataclasses import asdict

    from mimicit.errors import ShardError
    from mimicit.inspecting.text import printable
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
        _print_json({"path": str(path), "findings": findings})
    else:
        click.echo(f"{path}: {count} finding(s)" if count else f"{path}: sound")
    sys.exit(_EXIT_FAILED if count else 0)


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    type=click.Choice(["datasets", "files", "llava", "mimicit", "mmc4"]),
    help="datasets: parquet; files: a manifest with pictures beside it, to build again.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New or empty folder to write.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def export(path: Path, to: str, out: Path, as_json: bool) -> None:
    """Write the samples of a shard or a folder of shards in a format that other tools read.

    \b
    mimicit export shards/ --to files --out raw-again/
    mimicit export shards/ --to datasets --out table/

    Only datasets holds all of a sample; what the other formats cannot hold is counted.
    """
    from dataclasses import asdict

    from mimicit.exporting import export_shards
    from mimicit.terminal import progress_display

    with progress_display() as progress:
        report = export_shards(path, out, to, on_progress=lambda samples: progress.update("export", samples, None))
    if as_json:
        _print_json(asdict(report))
        return
    click.echo(f"{report.samples:,} samples as {report.records:,} records with {report.media:,} media files: {out}")
    for what, count in report.lost.items():
        click.echo(f"  not in {to}: {what} ({count:,})")


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--by", type=click.Choice(["reason", "source", "file"]), default="reason", show_default=True)
@click.option("--source", default=None, help="Only of this source.")
@click.option("--reason", default=None, help="Only of this reason.")
@click.option("--limit", type=click.IntRange(min=0), default=3, show_default=True, help="Rejects shown of each group.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def rejects(path: Path, by: Any, source: str | None, reason: str | None, limit: int, as_json: bool) -> None:
    """Say why records, media and references were left out of a folder of shards.

    \b
    mimicit rejects shards/
    mimicit rejects shards/ --by file --reason missing_file --limit 10
    """
    from mimicit.inspecting.rejects import group_rejects, rejects_text

    groups = group_rejects(path, by=by, source=source, reason=reason, limit=limit)
    if as_json:
        _print_json(groups.to_json())
    else:
        click.echo(rejects_text(groups))


def _print_json(value: Any) -> None:
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
