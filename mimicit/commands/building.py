"""``mimicit build`` and ``mimicit publish``: from raw data to shards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from mimicit.commands.groups import nearest_path
from mimicit.commands.output import print_json
from mimicit.errors import BuildError, SourceError, UsageError

if TYPE_CHECKING:
    from mimicit.pipeline.engines.scheduler import Share, WaitingStage
    from mimicit.pipeline.run import BuildResult

__all__ = ["build", "publish"]

_TEXT_EMBEDDER_HELP: Final = (
    "For text-similar and both: hashed (no weights), open_clip:ARCHITECTURE:FILE_OR_TAG or transformers:FOLDER."
)
_IMAGE_EMBEDDER_HELP: Final = (
    "For image-similar and both: classical (no weights), open_clip:ARCHITECTURE:FILE_OR_TAG or transformers:FOLDER."
)


@click.command()
@click.option("--src", required=True, metavar="FOLDER|URL", help="Folder with the raw data; also s3://, hf://, ...")
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
    "--max-seconds",
    default=30,
    show_default=True,
    help="Of CPU time for one picture or clip, beyond what its size explains.",
)
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
@click.option("--follow-links", is_flag=True, help="Read what symbolic links lead to, in --src or --allow-root.")
@click.option("--allow-root", multiple=True, metavar="FOLDER", help="Folder outside --src that links may lead to.")
@click.option(
    "--media-root",
    "media_roots",
    multiple=True,
    metavar="OLD=NEW",
    help="Look for paths that begin with OLD in the folder NEW of --src; may be given several times.",
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
@click.option(
    "--retry-rejects", is_flag=True, help="Try anew what was rejected, mended or given up; count what is in now."
)
@click.option("--keep-going", is_flag=True, help="Leave out sources that are unreadable as a whole.")
@click.option("--strict", is_flag=True, help="Refuse input in which a file with data is used by no source.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
@click.pass_context
def build(
    ctx: click.Context,
    /,
    src: str,
    out: str,
    format_options: tuple[str, ...],
    media_roots: tuple[str, ...],
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
    strict: bool,
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
    from mimicit.pipeline import build_shards
    from mimicit.pipeline.engines.local import Engine, LocalEngine
    from mimicit.pipeline.engines.scheduler import Share
    from mimicit.pipeline.engines.tasks import build_in_tasks, build_share
    from mimicit.pipeline.mixture import (
        MIXTURE_NAME,
        build_config,
        merged_media_roots,
        merged_options,
        read_mixture,
        refuse_outside,
    )
    from mimicit.pipeline.remote import build_at
    from mimicit.pipeline.remote_files import is_remote, local_path
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

    def build_here(src: Path, out: Path, origin: Mapping[str, str] | None = None) -> BuildResult | WaitingStage:
        beside = src / MIXTURE_NAME
        mixture = config_path or (beside if os.path.isfile(beside) and not os.path.islink(beside) else None)
        chosen = read_mixture(mixture) if mixture else {}
        if mixture is not None and config_path is None:
            refuse_outside({name: value for name, value in chosen.items() if name not in given}, mixture)
        merged = {
            "options": merged_options(chosen.get("options", {}), format_options),
            "media_root": merged_media_roots(chosen.get("media_root", {}), media_roots),
        }
        config = build_config({**chosen, **given, **merged})
        if mixture is not None:
            progress.note(f"options from {mixture}")
        if engine == "ray":
            from mimicit.pipeline.engines.ray import RayEngine

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
                strict=strict,
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
            strict=strict,
            embedding_cache=embedding_cache,
            origin=origin,
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


@click.command()
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
    from mimicit.pipeline.engines.local import LocalEngine
    from mimicit.pipeline.engines.tasks import publish_tasks
    from mimicit.terminal import progress_display

    if workers < 1:
        raise UsageError(f"--workers: {workers} is too small; the least is 1")
    with progress_display() as progress:
        outcome = publish_tasks(Path(out), LocalEngine(workers), progress, embedding_cache=embedding_cache)
    _print_outcome(outcome, out, as_json)


def _print_outcome(outcome: BuildResult | WaitingStage, out: str, as_json: bool, share: Share | None = None) -> None:
    from dataclasses import asdict

    from mimicit.pipeline.remote_files import is_remote, local_path
    from mimicit.pipeline.report import build_report
    from mimicit.pipeline.run import BuildResult

    if isinstance(outcome, BuildResult):
        if as_json:
            print_json(outcome.manifest)
            return
        report = build_report(outcome, local_path(out))
        click.echo(report.replace(str(local_path(out)), out.rstrip("/")) if is_remote(out) else report)
    elif as_json:
        print_json(asdict(outcome))
    elif share is not None:
        click.echo(f"{out}: task {share.index} of {share.count} has done its share ({outcome.stage})")
    else:
        click.echo(
            f"{out}: ready to {outcome.stage}; next: the same command with each --task-index from 0 to"
            f" {outcome.count - 1}, then mimicit publish {out}"
        )
