"""Build shards: scan, import, resolve, encode, filter, link, choose, plan, pack, publish.

All state of an unfinished build lies in one work folder inside the output folder. Each stage records there what it has
finished, so the same command run again resumes where a killed one stopped, and ends with the same bytes.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.compute as pc

from mimicit.errors import SourceError
from mimicit.interrupts import interruptible
from mimicit.media.video import check_decord
from mimicit.pipeline.config import BuildConfig
from mimicit.pipeline.disk import reported
from mimicit.pipeline.engines.local import Engine, LocalEngine
from mimicit.pipeline.engines.scheduler import WaitingStage, wait_for_tasks
from mimicit.pipeline.joins import joins, started_once
from mimicit.pipeline.mixture import Selection, select_sources
from mimicit.pipeline.output_folder import (
    SCAN_NAME,
    begin_or_continue,
    damage_named,
    finished_manifest,
    held,
    input_root,
    previous_rejects,
    remove_work,
)
from mimicit.pipeline.parts import ColumnFile
from mimicit.pipeline.previous import Retried, count_retried, keep_previous_rejects, reuse_media
from mimicit.pipeline.rejects import Rejects
from mimicit.pipeline.similarity import compares_pictures
from mimicit.pipeline.similarity.search import find_similar
from mimicit.pipeline.stages.choosing import choose_contexts
from mimicit.pipeline.stages.encode import encode_media, forget_damaged, join_media, unfinished_units
from mimicit.pipeline.stages.filtering import filter_triplets
from mimicit.pipeline.stages.importing import import_sources, part_rejects
from mimicit.pipeline.stages.links import link_triplets
from mimicit.pipeline.stages.media_table import own_version
from mimicit.pipeline.stages.pack import forget_damaged_shards, pack_shards, unpacked_shards
from mimicit.pipeline.stages.plan import make_plan
from mimicit.pipeline.stages.publish import publish_folder
from mimicit.pipeline.stages.resolve import resolve_references
from mimicit.pipeline.stages.scan import scan_input
from mimicit.pipeline.stages.unused import (
    UNUSED_FILE,
    UNUSED_MEDIA,
    refuse_unused,
    say_unused,
    write_left_out,
    write_unused_media,
)
from mimicit.pipeline.tables import TRIPLETS_NAME
from mimicit.progress import Progress, Silent, stage
from mimicit.shards.manifest import WORK_NAME
from mimicit.sources import detect
from mimicit.sources.files.root import Root
from mimicit.sources.files.scanned import ScannedFiles
from mimicit.sources.files.search import Way

_HEADER = ("source", "format", "in", "out", "merged", "rejected")

_FOUND: Final[dict[Way, str]] = {
    "media_root": "as --media-root maps them",
    "beside": "from the folder of their records",
    "src": "from --src",
    "absolute": "by absolute paths inside --src",
    "usual_folder": "in the usual folders",
    "suffix": "by the end of their paths",
    "name": "by their name alone",
    "extension": "under another extension",
}
_NOTES: Final[dict[str, str]] = {
    "held_out": "samples whose field split says that they are for validation or test, not for training",
    "nan_as_null": "records with NaN or Infinity in a free field, which became null",
    "shown_once": "records with the same placeholders in every turn, whose media are shown once",
    "tokens_as_words": "records with <image>, <answer> or <|endofchunk|> among their words, which stay words",
    "shown_first": "records without a placeholder, whose media are shown before the first turn",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """The result of a build: its manifest, and whether the folder was finished before it began.

    ``retried`` says what became of the records that were rejected before, if ``retry_rejects`` began the folder anew.
    """

    manifest: dict[str, Any]
    was_finished: bool
    retried: Retried | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionOptions:
    """How a build is run; what its shards hold is set by `BuildConfig`. The first six are those of `build_shards`.

    With ``task_count``, the build ends before the next stage that is shared out to that number of tasks.
    """

    overwrite: bool = False
    retry_rejects: bool = False
    keep_going: bool = False
    strict: bool = False
    embedding_cache: Path | None = None
    origin: Mapping[str, str] | None = None
    task_count: int | None = None


def build_shards(
    src: Path,
    out: Path,
    config: BuildConfig,
    *,
    engine: Engine | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    retry_rejects: bool = False,
    keep_going: bool = False,
    strict: bool = False,
    embedding_cache: Path | None = None,
    origin: Mapping[str, str] | None = None,
) -> BuildResult:
    """Turn everything usable under ``src`` into a folder of shards at ``out``.

    A finished folder of the same input and configuration is left as it is; an interrupted build is resumed.
    ``overwrite`` begins anew if input or configuration changed, ``retry_rejects`` if the input alone did (it was fixed)
    or another attempt may reject less, and counts the earlier rejects that are in now; both reuse what is still the
    same. ``keep_going`` leaves out unreadable sources, and ``strict`` refuses input with data that no source uses.
    ``embedding_cache`` is a folder where the vectors of models are kept for other builds. ``origin`` (``url`` and
    ``commit``) is where ``src`` was fetched from, for the manifest.
    Raises `SourceError` (input), `ChangedInputError` and `BuildError` (output folder, disk).
    """
    execution = ExecutionOptions(
        overwrite=overwrite,
        retry_rejects=retry_rejects,
        keep_going=keep_going,
        strict=strict,
        embedding_cache=embedding_cache,
        origin=origin,
    )
    result = run_build(src, out, config, engine or LocalEngine(os.cpu_count() or 1), progress or Silent(), execution)
    assert isinstance(result, BuildResult)  # only a build with a task count returns a WaitingStage
    return result


def run_build(
    src: Path, out: Path, config: BuildConfig, engine: Engine, progress: Progress, execution: ExecutionOptions
) -> BuildResult | WaitingStage:
    """As `build_shards`, with the options of ``execution``; returns the `WaitingStage` if one waits for tasks."""
    root = input_root(src, out, config)
    out = out.absolute()  # workers may have another working folder
    try:
        with reported(out, out / WORK_NAME), held(out):
            return _build(root, out, config, engine, progress, execution)
    finally:
        engine.close()


def _build(
    root: Root, out: Path, config: BuildConfig, engine: Engine, progress: Progress, execution: ExecutionOptions
) -> BuildResult | WaitingStage:
    work = out / WORK_NAME
    noting, noted = root.noting()
    with stage("detect", progress):
        selection = _selected(noting, config, progress, strict=execution.strict)
    sources = {path for spec in selection.specs for path in (*spec.files, *spec.beside)}
    scan = scan_input(root, out / SCAN_NAME, noted, sources, engine, progress, keep_going=execution.keep_going)
    state = {"config": config.to_json(), "input": scan.fingerprint, "mimicit_version": own_version()}
    previous = previous_rejects(out, state) if execution.retry_rejects else None
    finished = finished_manifest(out, state, overwrite=execution.overwrite or previous is not None)
    if finished is not None:
        (out / SCAN_NAME).unlink()
        remove_work(work)
        return BuildResult(manifest=finished, was_finished=True)
    if config.media.video_reader == "decord":
        check_decord()  # here, before any work, rather than at the first clip
    is_continued = begin_or_continue(work, state, progress, overwrite=execution.overwrite)
    if previous is not None:
        keep_previous_rejects(work, previous)
    scanned = ScannedFiles(out / SCAN_NAME)
    root = root.compared(scanned)  # from here on, what is read is compared with what was hashed
    specs, rules = selection.specs, selection.rules
    task_count = execution.task_count
    with closing(scanned), damage_named(work, is_continued=is_continued), interruptible(), started_once(work):
        write_left_out(work, root, selection)
        import_sources(work, root, specs, rules, engine, progress, keep_going=execution.keep_going)
        with stage("resolve", progress):
            resolve_references(work, specs)
        forget_damaged(work, engine, progress)
        forget_damaged_shards(work, out, engine, progress)
        reuse_media(work, scanned, config, engine, progress)
        if task_count is not None and (missing := unfinished_units(work)):
            return wait_for_tasks(work, "encode", missing, count=task_count, src=root.folder, config=config)
        compare = compares_pictures(config.to_json())
        encode_media(root, work, config.media, engine, progress, compare=compare)
        join_media(work)
        with stage("filter", progress):
            filter_triplets(work, rules, config, progress)
        write_unused_media(work, selection, scanned)
        _refuse_nothing(work, root)
        with stage("link", progress):
            link_triplets(work)
        retried = count_retried(work, specs)
        find_similar(work, rules, config.similar, engine, progress, cache=execution.embedding_cache)
        choose_contexts(work, rules, config.similar.guards, config.seed, engine, progress)
        with stage("plan", progress):
            make_plan(work, config)
        if task_count is not None and (missing := unpacked_shards(work, out)):
            return wait_for_tasks(work, "pack", missing, count=task_count, src=root.folder, config=config)
        shards = pack_shards(work, out, engine, progress, dedupe=config.dedupe)
        with stage("publish", progress):
            manifest = publish_folder(work, out, config, specs, scan, scanned, shards, origin=execution.origin)
    (out / SCAN_NAME).unlink()
    remove_work(work)
    return BuildResult(manifest=manifest, was_finished=False, retried=retried)


def _selected(root: Root, config: BuildConfig, progress: Progress, *, strict: bool) -> Selection:
    selection = select_sources(config, functools.cache(lambda format: detect(root, format=format)))
    if strict:
        refuse_unused(root, selection)
    say_unused(root, selection, progress)
    links = root.links_advice(selection.skipped)
    if not selection.specs:
        if links:
            raise SourceError(f"{root.folder}: nothing to build from; {links}")
        raise SourceError(
            f"{root.folder}: nothing to build from; put a manifest.jsonl or .csv, a published data set, or pictures"
            " with .txt files of the same name there"
        )
    if links:
        progress.note(links)
    for spec in selection.specs:
        progress.note(f"{spec.name}: {spec.format} ({spec.why})")
    for spec in selection.left_out:
        progress.note(f"{spec.name}: left out, for the mixture does not list {spec.files[0]}")
    return selection


def _refuse_nothing(work: Path, root: Root) -> None:
    """`SourceError` if there is no query; it says what became of the records."""
    if any(pc.any(batch.column("is_query")).as_py() for _, batch in ColumnFile(work / TRIPLETS_NAME).batches()):
        return
    with joins(work) as db:
        lost = Rejects(db, work, part_rejects(work)).lost(besides=(UNUSED_FILE, UNUSED_MEDIA, "unusable_file"))
    if lost is None:
        raise SourceError(f"{root.folder}: its sources hold no record")
    media = f". Of their pictures and clips were left out: {lost.media}" if lost.media else ""
    raise SourceError(
        f"{root.folder}: no record is left: {lost.records} records were rejected ({lost.counts}); the first is"
        f" {lost.locator} ({lost.reason}: {lost.detail}){media}"
    )


def build_report(result: BuildResult, out: Path) -> str:
    """The report as text."""
    manifest = result.manifest
    totals = manifest["totals"]
    if result.was_finished:
        return f"{out}: already finished from this input with these options; nothing to do"
    rows = [_HEADER, *(_row(source) for source in manifest["sources"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(_cell(row, column, widths) for column in range(len(_HEADER))).rstrip() for row in rows]
    for source in manifest["sources"]:
        for reason, count in sorted(source["rejected"].items()):
            lines.append(f"  {source['name']}: {count:,} rejected as {reason}")
        if found := source.get("found", {}):
            counts = ", ".join(f"{found[way]:,} {words}" for way, words in _FOUND.items() if way in found)
            lines.append(f"  {source['name']}: media found: {counts}")
        for kind, note in sorted(source.get("notes", {}).items()):
            lines.append(f"  {source['name']}: {note['count']:,} {_NOTES.get(kind, kind)}; first {note['first']}")
    lines.append(
        f"{totals['samples']:,} samples, {totals['triplets']:,} triplets, {totals['media']:,} media in"
        f" {len(manifest['shards'])} shard(s), {totals['bytes']:,} bytes: {out}"
    )
    if result.retried is not None:
        lines.append(f"{result.retried.fixed:,} of {result.retried.rejected:,} former rejects are now in")
    if totals["rejects"]:
        lines.append(f"{totals['rejects']:,} rejects; for the reasons: mimicit rejects {out}")
    given = manifest["input"]
    for count, what, reason in (
        (given["unused"], "file(s) were not used by any source", UNUSED_FILE),
        (given["unused_media"], "picture(s) and clip(s) are shown by no record", UNUSED_MEDIA),
    ):
        if count:
            lines.append(f"{count:,} {what}; for their names: mimicit rejects {out} --reason {reason}")
    lines.append(f"next: mimicit inspect {out}")
    return "\n".join(lines)


def _row(source: dict[str, Any]) -> tuple[str, ...]:
    counts = (source["in"], source["out"], source["merged"], sum(source["rejected"].values()))
    return (source["name"], source["format"], *(f"{count:,}" for count in counts))


def _cell(row: tuple[str, ...], column: int, widths: list[int]) -> str:
    return row[column].ljust(widths[column]) if column < 2 else row[column].rjust(widths[column])
