"""A build by the tasks of a batch scheduler, such as a Slurm array; the bytes are those of a build by one process.

::

    mimicit build OPTIONS --task-count 64                     # reads the input; the media are ready to be encoded
    mimicit build OPTIONS --task-count 64 --task-index 0..63  # each encodes its share
    mimicit publish OUT                                       # plans; the shards are ready to be packed
    mimicit build OPTIONS --task-count 64 --task-index 0..63  # each packs its share
    mimicit publish OUT                                       # the index, and the manifest last

``--src`` and ``--out`` lie on a file system that all machines share. A task may be run again, or on another machine;
the next single step names the tasks that did not finish. A build without ``--task-count`` continues from what is done.
"""

from __future__ import annotations

from pathlib import Path

from mimicit.errors import UsageError
from mimicit.pipeline.config import BuildConfig
from mimicit.pipeline.disk import reported
from mimicit.pipeline.engines.local import Engine
from mimicit.pipeline.engines.scheduler import Share, WaitingStage, config_from_json, read_waiting
from mimicit.pipeline.output_folder import SCAN_NAME, check_options, held, input_root
from mimicit.pipeline.run import BuildResult, ExecutionOptions, run_build
from mimicit.pipeline.similarity import compares_pictures
from mimicit.pipeline.stages.encode import encode_share
from mimicit.pipeline.stages.pack import pack_share
from mimicit.progress import Progress
from mimicit.shards.manifest import MANIFEST_NAME, WORK_NAME, read_manifest
from mimicit.sources.files.scanned import ScannedFiles


def build_share(
    src: Path, out: Path, config: BuildConfig, share: Share, engine: Engine, progress: Progress
) -> WaitingStage:
    """Do one share of the stage that waits; does nothing the second time. Returns the stage that waited.

    `BuildError` if no stage waits, `UsageError` if it waits for another number of tasks.
    """
    out = out.absolute()
    work = out / WORK_NAME
    try:
        waiting = read_waiting(work)
        if waiting.count != share.count:
            raise UsageError(f"--task-count: {share.count}, but {out} was made ready for {waiting.count} tasks")
        check_options(work, config)
        with reported(out, work), held(out, shared=True):
            if waiting.stage == "encode":
                root = input_root(src, out, config).compared(ScannedFiles(out / SCAN_NAME))
                compare = compares_pictures(config.to_json())
                encode_share(root, work, config.media, engine, progress, share, compare=compare)
            else:
                pack_share(work, out, engine, progress, share, dedupe=config.dedupe)
    finally:
        engine.close()
    return waiting


def publish_tasks(
    out: Path, engine: Engine, progress: Progress, *, embedding_cache: Path | None = None
) -> BuildResult | WaitingStage:
    """Collect what all tasks have done, and build up to the next stage that waits for tasks, or to the end.

    Input and options are those with which the build was begun. `BuildError` names the tasks that have not finished.
    """
    if (out / MANIFEST_NAME).exists():
        return BuildResult(manifest=read_manifest(out), was_finished=True)
    waiting = read_waiting(out / WORK_NAME)
    execution = ExecutionOptions(embedding_cache=embedding_cache, task_count=waiting.count)
    return run_build(Path(waiting.src), out, config_from_json(waiting.config), engine, progress, execution)
