"""``mimicit build`` and ``mimicit publish``: from raw data to shards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from mimicit.commands.groups import nearest_path, print_json
from mimicit.errors import BuildError, SourceError, UsageError
from mimicit.interrupts import interruptible
from mimicit.options import click_options
from mimicit.pipeline import BuildConfig

if TYPE_CHECKING:
    from mimicit.pipeline.engines.scheduler import Share, WaitingStage
    from mimicit.pipeline.run import BuildResult
    from mimicit.progress import Progress

_cache_option: Final = click.option(
    "--embedding-cache",
    type=click.Path(path_type=Path),
    help="Folder that keeps the vectors of embedding models for other builds.",
)
_workers_option: Final = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="all cores",
    help="Processes to use.",
)


@click.command()
@click.option("--src", required=True, metavar="FOLDER|URL", help="Folder with the raw data, or its URL (s3://, hf://).")
@click.option("--out", required=True, metavar="FOLDER|URL", help="Folder for the shards, or its URL (s3://...).")
@click_options(BuildConfig)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    show_default="mimicit.toml in --src, if there is one",
    help="TOML file of more options and a mixture of sources.",
)
@_cache_option
@_workers_option
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="What runs the processes."
)
@click.option(
    "--ray-address", envvar="RAY_ADDRESS", show_default="one of --workers on this machine", help="Ray cluster to join."
)
@click.option(
    "--task-count", type=click.IntRange(1, 1_000_000), help="Split the build into this many tasks of a scheduler."
)
@click.option("--task-index", type=click.IntRange(min=0), help="Do the part of this task, counted from 0.")
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    show_default="in the user's cache",
    help="Folder for the local copies of a build from or to a URL.",
)
@click.option("--overwrite", is_flag=True, help="Build again where input or options have changed.")
@click.option(
    "--retry-rejects", is_flag=True, help="Try again what was rejected, repaired or given up, and count what is in now."
)
@click.option("--keep-going", is_flag=True, help="Leave out sources that are unreadable as a whole.")
@click.option("--strict", is_flag=True, help="Refuse input in which a file with data is used by no source.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
@click.pass_context
def build(
    ctx: click.Context,
    /,
    src: str,
    out: str,
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
    **values: Any,
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
    from mimicit.pipeline.engines.local import Engine, LocalEngine

    local = LocalEngine(workers) if engine == "local" else None  # first of all: its processes import meanwhile

    from mimicit.pipeline.engines.scheduler import Share
    from mimicit.pipeline.engines.tasks import build_share
    from mimicit.pipeline.remote import build_at
    from mimicit.pipeline.remote_files import is_remote, local_path
    from mimicit.pipeline.run import ExecutionOptions, run_build
    from mimicit.progress import progress_display
    from mimicit.worker import collect_seldom

    collect_seldom()
    if task_index is not None and task_count is None:
        raise UsageError("--task-index goes with --task-count")
    if task_count is not None and (retry_rejects or is_remote(src) or is_remote(out)):
        raise UsageError("--task-count: not with URLs or --retry-rejects; every task must see the same folders")
    share = None if task_index is None or task_count is None else Share(index=task_index, count=task_count)
    execution = ExecutionOptions(
        overwrite=overwrite,
        retry_rejects=retry_rejects,
        keep_going=keep_going,
        strict=strict,
        embedding_cache=embedding_cache,
        task_count=task_count,
    )

    def build_here(src: Path, out: Path, origin: Mapping[str, str] | None = None) -> BuildResult | WaitingStage:
        config = _chosen_config(ctx, values, src, config_path, progress)
        if local is not None:
            runner: Engine = local
        else:
            from mimicit.pipeline.engines.ray import RayEngine

            runner = RayEngine(workers, address=ray_address, src=src, out=out)
        if share is not None:
            return build_share(src, out, config, share, runner, progress)
        return run_build(src, out, config, runner, progress, replace(execution, origin=origin))

    try:
        with progress_display() as progress, interruptible():
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


def _chosen_config(
    ctx: click.Context, values: Mapping[str, Any], src: Path, config_path: Path | None, progress: Progress
) -> BuildConfig:
    """The options of the command line, over those of ``config_path`` or of the mixture file in ``src``."""
    from mimicit.pipeline.mixture import (
        MIXTURE_NAME,
        build_config,
        merged_media_roots,
        merged_options,
        read_mixture,
        refuse_outside,
    )

    given = {
        name: value for name, value in values.items() if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    beside = src / MIXTURE_NAME
    mixture = config_path or (beside if os.path.isfile(beside) and not os.path.islink(beside) else None)
    chosen = read_mixture(mixture) if mixture else {}
    if mixture is not None and config_path is None:
        refuse_outside({name: value for name, value in chosen.items() if name not in given}, mixture)
    merged = {
        "options": merged_options(chosen.get("options", {}), values["options"]),
        "media_root": merged_media_roots(chosen.get("media_root", {}), values["media_root"]),
    }
    config = build_config({**chosen, **given, **merged})
    if mixture is not None:
        progress.note(f"options from {mixture}")
    return config


@click.command()
@click.argument("out")
@_workers_option
@_cache_option
@click.option("--json", "as_json", is_flag=True, help="Print the manifest, or what is left to do, as JSON.")
def publish(out: str, workers: int, embedding_cache: Path | None, as_json: bool) -> None:
    """Take in what the tasks of a shared-out build have done, and go on with it.

    \b
    mimicit publish shards/

    Names the tasks that have not finished. After the tasks have encoded, it plans; after they have packed, it writes
    the index and the manifest.
    """
    from mimicit.pipeline.engines.local import LocalEngine
    from mimicit.pipeline.engines.tasks import publish_tasks
    from mimicit.progress import progress_display

    with progress_display() as progress:
        outcome = publish_tasks(Path(out), LocalEngine(workers), progress, embedding_cache=embedding_cache)
    _print_outcome(outcome, out, as_json)


def _print_outcome(outcome: BuildResult | WaitingStage, out: str, as_json: bool, share: Share | None = None) -> None:
    from dataclasses import asdict

    from mimicit.pipeline.remote_files import is_remote, local_path
    from mimicit.pipeline.run import BuildResult, build_report

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
