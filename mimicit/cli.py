"""The command line: parse, one call, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mimicit.command_groups import ExistingPath, TaskGroup, nearest_path
from mimicit.errors import BuildError, MimicitError, SourceError, UsageError

if TYPE_CHECKING:
    from mimicit.build.run import BuildResult
    from mimicit.build.tasks import Handover, Share
    from mimicit.records import Sample

__all__ = ["main"]

_EXIT_FAILED = 1
_EXIT_USAGE = 2
_TEXT_EMBEDDER_HELP = (
    "For text-similar and both: hashed (no weights), open_clip:ARCHITECTURE:FILE_OR_TAG or transformers:FOLDER."
)
_IMAGE_EMBEDDER_HELP = (
    "For image-similar and both: classical (no weights), open_clip:ARCHITECTURE:FILE_OR_TAG or transformers:FOLDER."
)


class _Group(TaskGroup):
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


_TASKS = {
    "Build": {
        "build": "mimicit build --src raw/ --out shards/",
        "publish": "mimicit publish shards/",
        "index": "mimicit index laion-part/",
    },
    "Look": {
        "inspect": "mimicit inspect shards/shard-000.tar",
        "view": "mimicit view shards/",
        "rejects": "mimicit rejects shards/",
        "compare": "mimicit compare old/ new/",
    },
    "Check and take elsewhere": {
        "verify": "mimicit verify shards/",
        "export": "mimicit export shards/ --to files --out x/",
    },
}


@click.group(
    cls=_Group,
    tasks=_TASKS,
    epilog="mimicit COMMAND --help has the options and more examples. python -m otter_train --help is about training."
    " Exit codes: 0 fine, 1 findings or a failed job, 2 wrong usage.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="mimicit")
def main() -> None:
    """Build, inspect and verify multi-modal in-context instruction data."""


@main.command()
@click.option("--src", required=True, metavar="FOLDER|URL", help="Folder with the raw data; also s3://, gs://, ...")
@click.option("--out", required=True, metavar="FOLDER|URL", help="Folder for the shards; also s3://, gs://, ...")
@click.option("--shots", default=2, show_default=True, help="Context triplets per sample, at most.")
@click.option(
    "--context",
    default="auto",
    show_default=True,
    help="Strategies in order: related, conversation, same-media, random, text-similar, image-similar, both;"
    " or auto, none.",
)
@click.option("--seed", default=0, show_default=True, help="Changes which context and queries are drawn.")
@click.option("--frames", default=8, show_default=True, help="Frames per clip, evenly spaced.")
@click.option("--size", default=336, show_default=True, help="Longest side of a picture in pixels; 0 keeps all.")
@click.option("--image-format", type=click.Choice(["jpg", "png", "webp"]), default="jpg", show_default=True)
@click.option("--quality", default=90, show_default=True, help="Of JPEG and WebP, 1 to 100.")
@click.option("--max-pixels", default=100_000_000, show_default=True, help="Refuse larger pictures unread.")
@click.option(
    "--video-reader",
    type=click.Choice(["av", "decord"]),
    default="av",
    show_default=True,
    help="Of plain clips; decord keeps damaged ones, as players do.",
)
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
@click.option("--text-embedder", default="hashed", show_default=True, metavar="NAME[:SOURCE]", help=_TEXT_EMBEDDER_HELP)
@click.option(
    "--image-embedder", default="classical", show_default=True, metavar="NAME[:SOURCE]", help=_IMAGE_EMBEDDER_HELP
)
@click.option(
    "--similar-text",
    type=click.Choice(["instruction", "all"]),
    default="instruction",
    show_default=True,
    help="Compare texts by the instruction, or by instruction and answer (for captions).",
)
@click.option("--min-score", default=-1.0, show_default=True, help="Least similarity of such context, a cosine.")
@click.option("--allow-same-media", is_flag=True, help="Such context may show the query's picture.")
@click.option("--allow-same-answer", is_flag=True, help="Such context may give the same answer to the same question.")
@click.option(
    "--embedding-cache",
    type=click.Path(path_type=Path),
    help="Folder that keeps the vectors of models for other builds.",
)
@click.option(
    "--option",
    "format_options",
    multiple=True,
    metavar="FORMAT.NAME=VALUE",
    help="An option of one format, such as mmc4.min_similarity=0.2; may be given several times.",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="More options and a mixture of sources [default: mimicit.toml in --src, if there is one].",
)
@click.option("--workers", default=os.cpu_count() or 1, show_default="all cores", help="Processes.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="What runs it.")
@click.option("--ray-address", envvar="RAY_ADDRESS", help="Cluster to join [default: one of --workers here].")
@click.option("--task-count", type=click.IntRange(min=1), help="Share the build out to so many tasks of a scheduler.")
@click.option("--task-index", type=click.IntRange(min=0), help="Do the share of this task, from 0.")
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    help="Where a build from or to a URL keeps its copies [default: in the user's cache].",
)
@click.option("--overwrite", is_flag=True, help="Build anew where input or options have changed.")
@click.option("--retry-rejects", is_flag=True, help="Build anew where the input was mended; count what is in now.")
@click.option("--keep-going", is_flag=True, help="Leave out sources that are unreadable as a whole.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
@click.pass_context
def build(
    ctx: click.Context,
    /,
    src: str,
    out: str,
    format_options: tuple[str, ...],
    embedding_cache: Path | None,
    config_path: Path | None,
    workers: int,
    engine: str,
    ray_address: str | None,
    task_count: int | None,
    task_index: int | None,
    work: Path | None,
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
    mimicit build --src s3://bucket/raw --out s3://bucket/shards --engine ray --ray-address auto

    Options given here win over those of mimicit.toml, and those of one of its sources win over both.
    Run again after an interruption, the same command goes on where it stopped.

    For a batch scheduler: with --task-count alone it makes the work ready; the same command with each --task-index
    does it, on any machine; mimicit publish goes on. This is done twice, to encode and to pack.
    """
    from mimicit.build import build_shards
    from mimicit.build.engine import Engine, LocalEngine
    from mimicit.build.mixture import MIXTURE_NAME, build_config, merged_options, read_mixture
    from mimicit.build.remote import build_at
    from mimicit.build.remote_files import is_remote, local_path
    from mimicit.build.shares import build_in_tasks, build_share
    from mimicit.build.tasks import Share
    from mimicit.terminal import progress_display

    if task_index is not None and task_count is None:
        raise UsageError("--task-index goes with --task-count")
    if task_count is not None and (retry_rejects or is_remote(src) or is_remote(out)):
        raise UsageError("--task-count: not with URLs or --retry-rejects; every task must see the same folders")
    share = None if task_index is None or task_count is None else Share(index=task_index, count=task_count)
    if workers < 1:
        raise UsageError(f"--workers: {workers} is too small; the least is 1")
    given = {
        name.removesuffix("_"): value
        for name, value in options.items()
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }

    def build_here(src: Path, out: Path) -> BuildResult | Handover:
        beside = src / MIXTURE_NAME
        mixture = config_path or (beside if os.path.isfile(beside) and not os.path.islink(beside) else None)
        chosen = read_mixture(mixture) if mixture else {}
        config = build_config({**chosen, **given, "options": merged_options(chosen.get("options", {}), format_options)})
        if mixture is not None:
            progress.note(f"options from {mixture}")
        if engine == "ray":
            from mimicit.build.engine_ray import RayEngine

            runner: Engine = RayEngine(workers, address=ray_address, src=src, out=out)
        else:
            runner = LocalEngine(workers)
        if share is not None:
            return build_share(src, out, config, share, runner, progress)
        if task_count is not None:
            return build_in_tasks(
                src,
                out,
                config,
                task_count,
                runner,
                progress,
                overwrite=overwrite,
                keep_going=keep_going,
                embedding_cache=embedding_cache,
            )
        return build_shards(
            src,
            out,
            config,
            engine=runner,
            progress=progress,
            overwrite=overwrite,
            retry_rejects=retry_rejects,
            keep_going=keep_going,
            embedding_cache=embedding_cache,
        )

    try:
        with progress_display() as progress:
            result = build_at(src, out, build_here, work=work, overwrite=overwrite, progress=progress)
    except SourceError as error:
        missing = not is_remote(src) and not os.path.exists(local_path(src))
        hint = nearest_path(local_path(src)) if missing else ""
        raise (SourceError(f"{src}: no such folder{hint}") if hint else error) from None
    except KeyboardInterrupt:
        raise BuildError(
            f"interrupted; what is done is kept in {out}, and the same command goes on from there"
        ) from None
    _print_outcome(result, out, as_json, share)


def _print_outcome(outcome: BuildResult | Handover, out: str, as_json: bool, share: Share | None = None) -> None:
    from dataclasses import asdict

    from mimicit.build.remote_files import is_remote, local_path
    from mimicit.build.report import build_report
    from mimicit.build.run import BuildResult

    if isinstance(outcome, BuildResult):
        if as_json:
            _print_json(outcome.manifest)
            return
        report = build_report(outcome, local_path(out))
        click.echo(report.replace(str(local_path(out)), out.rstrip("/")) if is_remote(out) else report)
    elif as_json:
        _print_json(asdict(outcome))
    elif share is not None:
        click.echo(f"{out}: task {share.index} of {share.count} has done its share ({outcome.stage})")
    else:
        click.echo(
            f"{out}: ready to {outcome.stage}; next: the same command with each --task-index from 0 to"
            f" {outcome.count - 1}, then mimicit publish {out}"
        )


@main.command()
@click.argument("out")
@click.option("--workers", default=os.cpu_count() or 1, show_default="all cores", help="Processes.")
@click.option(
    "--embedding-cache",
    type=click.Path(path_type=Path),
    help="Folder that keeps the vectors of models for other builds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest, or what is to be done next.")
def publish(out: str, workers: int, embedding_cache: Path | None, as_json: bool) -> None:
    """Take in what the tasks of a shared-out build have done, and go on with it.

    \b
    mimicit publish shards/

    Names the tasks that have not finished. After the tasks have encoded, it plans; after they have packed, it writes
    the index and the manifest.
    """
    from mimicit.build.engine import LocalEngine
    from mimicit.build.shares import publish_tasks
    from mimicit.terminal import progress_display

    if workers < 1:
        raise UsageError(f"--workers: {workers} is too small; the least is 1")
    with progress_display() as progress:
        outcome = publish_tasks(Path(out), LocalEngine(workers), progress, embedding_cache=embedding_cache)
    _print_outcome(outcome, out, as_json)


@main.command()
@click.argument("path", type=ExistingPath())
@click.option("--sample", "wanted", metavar="KEY", help="Print one sample in full, by key or id.")
@click.option("--png", type=click.Path(path_type=Path), help="Where --sample writes its pictures [default: KEY.png].")
@click.option("--html", type=click.Path(path_type=Path), help="Write a report to look at, as one HTML file.")
@click.option(
    "--pictures/--no-pictures",
    default=None,
    help="Show pictures in the terminal as coloured blocks [default: where it says it has 24-bit colour].",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
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

    from mimicit.inspecting.summary import find_sample, iterate_samples, summarise
    from mimicit.inspecting.text import sample_text, summary_text

    if wanted is None:
        if png is not None:
            raise UsageError("--png goes with --sample")
        summary = summarise(path)
        if as_json:
            _print_json(summary.to_json())
        else:
            click.echo(summary_text(summary))
            _show_pictures((sample for _, sample in iterate_samples(path)), pictures, most=len(summary.previews))
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
        _show_pictures([sample], pictures)
        click.echo(f"\npictures: {target}" if sample.media else "\nno pictures")


def _show_pictures(samples: Iterable[Sample], wanted: bool | None, most: int = 1) -> None:
    """Print the pictures of the first ``most`` samples if they are ``wanted``; by default, where they can be seen."""
    from mimicit.inspecting.blocks import sample_blocks, shows_blocks

    if not (shows_blocks(sys.stdout) if wanted is None else wanted):
        return
    columns = shutil.get_terminal_size().columns
    for sample in islice(samples, most):
        blocks = sample_blocks(sample, columns)
        if blocks:
            click.echo(f"\npictures of sample {sample.key}\n{blocks}", color=True)


def _report(path: Path, html: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from mimicit.inspecting.report import write_report
    from mimicit.inspecting.text import printable
    from mimicit.inspecting.warnings import warnings_of
    from mimicit.terminal import progress_display

    with progress_display() as progress:
        findings = write_report(path, html, on_progress=lambda done, total: progress.update("read", done, total))
    warnings = warnings_of(findings)
    if as_json:
        _print_json({"html": str(html), "samples": findings.samples, "warnings": [asdict(one) for one in warnings]})
        return
    for warning in warnings:
        click.echo(printable(f"{warning.what}: {warning.why}"))
    click.echo(f"{findings.samples:,} samples, {len(warnings)} warning(s): {html}")


@main.command()
@click.argument("path", type=ExistingPath())
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
@click.argument("path", type=ExistingPath())
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def index(path: Path, as_json: bool) -> None:
    """Index a folder of tars that others made, so that mimicit loads them where they lie.

    \b
    mimicit index laion-part/

    Pictures with texts, as img2dataset and WebDataset write them. The tars are only read; index.parquet,
    rejects.parquet and manifest.json are written beside them.
    """
    from dataclasses import asdict

    from mimicit.build.foreign import index_folder

    report = index_folder(path)
    if as_json:
        _print_json(asdict(report))
        return
    click.echo(f"{path}: {report.samples:,} samples in {report.shards:,} shards")
    for reason, count in report.rejected.most_common():
        click.echo(f"  left out: {reason} ({count:,}); see mimicit rejects {path}")


@main.command()
@click.argument("path", type=ExistingPath())
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
@click.argument("path", type=ExistingPath())
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


@main.command()
@click.argument("a", type=ExistingPath())
@click.argument("b", type=ExistingPath())
@click.option("--limit", type=click.IntRange(min=0), default=10, show_default=True, help="Samples listed of each kind.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def compare(a: Path, b: Path, limit: int, as_json: bool) -> None:
    """Say what differs between two builds; exit 1 where anything does.

    \b
    mimicit compare shards-old/ shards-new/

    Configuration, counts, and the samples that are lost, gained or changed.
    """
    from mimicit.inspecting.compare import compare_folders
    from mimicit.inspecting.compare_text import comparison_text
    from mimicit.terminal import progress_display

    with progress_display() as progress:
        comparison = compare_folders(
            a, b, limit=limit, on_progress=lambda done, total: progress.update("compare", done, total)
        )
    if as_json:
        _print_json(comparison.to_json())
    else:
        click.echo(comparison_text(comparison))
    sys.exit(0 if comparison.equal else _EXIT_FAILED)


@main.command()
@click.argument("path", type=ExistingPath())
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; others need the token.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8765, show_default=True, help="0 for a free one.")
def view(path: Path, host: str, port: int) -> None:
    """Look through the samples of a folder of shards in a browser.

    \b
    mimicit view shards/
    mimicit view shards/ --host 0.0.0.0 --port 9000

    Beyond this machine the page asks for the token that is printed with its address. Ctrl-C ends it.
    """
    from mimicit.viewing.serve import serve

    serve(path, host=host, port=port, announce=click.echo)


def _print_json(value: Any) -> None:
    import orjson

    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
