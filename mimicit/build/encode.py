"""Encode every distinct medium once, before any context is chosen.

So a picture that stands in many samples is decoded once, and a record whose picture is broken is known to be a reject
before it could become somebody's context (see `mimicit.build.settle`). The bytes go to blob files in the work folder,
one per task, and a finished task is not run again.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import orjson

from mimicit.build.catalog import Catalog, ref_from_json
from mimicit.build.disk import naming, scratch
from mimicit.build.engine import Engine, WorkerDiedError
from mimicit.build.filters import MediaFacts
from mimicit.build.progress import Progress, Silent
from mimicit.build.tasks import Share
from mimicit.errors import BuildError, RejectedError
from mimicit.media import EncodedMedia, MediaOptions, encode_frames, encode_image, encode_video
from mimicit.media.bounds import TIMER_SIGNALS, bounded
from mimicit.media.fingerprint import fingerprint
from mimicit.schema import canonical_json
from mimicit.shards.files import publish, write_atomically
from mimicit.sources.base import MediaRef
from mimicit.sources.reading import Reader, kept_reader
from mimicit.sources.root import Root

__all__ = ["encode_media", "encode_share", "unfinished_units"]

_TASK_COST: Final = 128  # pictures per task
_VIDEO_COST: Final = 8
_NOTE_SUFFIX: Final = ".jsonl"
_UPDATE: Final = (
    "UPDATE medium SET done = 1, content = ?, media = ?, file = ?, offsets = ?, sizes = ?,"
    " width = ?, height = ?, bytes = ?, fingerprint = ?, reason = ?, detail = ? WHERE id = ?"
)
_CPU_SECONDS_PER_MEDIUM: Final = 30  # 64 frames of a 1080p clip take 2 s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """The media of one blob file: (medium number, reference as JSON)."""

    root: Root
    work: Path
    options: MediaOptions
    compare: bool
    cpu_seconds: int  # what one medium may take
    media: tuple[tuple[int, str], ...]
    blob: str  # the file's name, relative to ``work``
    broken: Mapping[int, tuple[str, str]] = field(default_factory=dict)  # (reason, detail) of what kills a worker


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What became of one medium: ``media`` describes it as JSON, ``content`` identifies it; or why it was rejected."""

    medium: int
    content: str | None = None
    media: bytes | None = None
    offset: int = 0
    sizes: tuple[int, ...] = ()
    facts: MediaFacts | None = None
    fingerprint: bytes | None = None
    reason: str | None = None
    detail: str | None = None


def encode_media(
    catalog: Catalog,
    root: Root,
    work: Path,
    options: MediaOptions,
    engine: Engine,
    progress: Progress,
    *,
    compare: bool = False,
) -> None:
    """Encode all media that are not encoded yet, and note the results; ``compare`` also notes how pictures look."""
    (work / "media").mkdir(exist_ok=True)
    _take_notes(catalog, work)
    tasks = _tasks(catalog, root, work, options, compare)
    results = engine.run(_encode_task, tasks, label="encode", progress=progress, on_death=_without_culprit(engine))
    for task, stored in results:
        with catalog.transaction():
            catalog.db.executemany(_UPDATE, [_row(result, task.blob) for result in stored])


def unfinished_units(catalog: Catalog, root: Root, work: Path, options: MediaOptions, *, compare: bool) -> list[int]:
    """The numbers of the units that `encode_share` divides and that no task has finished yet."""
    tasks = enumerate(_tasks(catalog, root, work, options, compare))
    return [number for number, task in tasks if not _note_path(task).exists()]


def encode_share(
    root: Root, work: Path, options: MediaOptions, engine: Engine, progress: Progress, share: Share, *, compare: bool
) -> None:
    """Encode the units of one share; what becomes of them is noted beside the blobs, for `encode_media` to take in."""
    (work / "media").mkdir(exist_ok=True)
    catalog = Catalog(work, writable=False)  # nobody writes it while tasks run
    try:
        tasks = (
            task
            for number, task in enumerate(_tasks(catalog, root, work, options, compare))
            if share.takes(number) and not _note_path(task).exists()
        )
        results = engine.run(_encode_task, tasks, label="encode", progress=progress, on_death=_without_culprit(engine))
        for task, stored in results:
            write_atomically(_note_path(task), [_note(_row(result, task.blob)) for result in stored])
    finally:
        catalog.close()


def _note_path(task: _Task) -> Path:
    return _blob_path(task).with_suffix(_NOTE_SUFFIX)


def _note(row: tuple[Any, ...]) -> bytes:
    """A row of the catalog as a line of JSON; its bytes are written in hexadecimal."""
    return orjson.dumps([{"hex": value.hex()} if isinstance(value, bytes) else value for value in row]) + b"\n"


def _take_notes(catalog: Catalog, work: Path) -> None:
    """Fill in what the tasks of a batch scheduler have noted: all of it or nothing, for it shapes what is left."""
    with catalog.transaction():
        for path in sorted((work / "media").glob(f"*{_NOTE_SUFFIX}")):
            rows = map(orjson.loads, path.read_bytes().splitlines())
            catalog.db.executemany(
                _UPDATE,
                ([bytes.fromhex(value["hex"]) if isinstance(value, dict) else value for value in row] for row in rows),
            )


def _row(stored: _Stored, blob: str) -> tuple[Any, ...]:
    facts = stored.facts or (None, None, None)
    offsets = list(itertools.accumulate(stored.sizes, initial=stored.offset))[:-1]
    fault = (stored.reason, stored.detail)
    place = (blob, orjson.dumps(offsets).decode(), orjson.dumps(stored.sizes).decode())
    return (stored.content, stored.media, *place, *facts, stored.fingerprint, *fault, stored.medium)


def _tasks(catalog: Catalog, root: Root, work: Path, options: MediaOptions, compare: bool) -> Iterator[_Task]:
    """Cut the media that are left to do into tasks, in their order."""

    def task(media: list[tuple[int, str]]) -> _Task:
        blob = f"media/{media[0][0]:012d}.bin"
        return _Task(
            root=root,
            work=work,
            options=options,
            compare=compare,
            cpu_seconds=_CPU_SECONDS_PER_MEDIUM,
            media=tuple(media),
            blob=blob,
        )

    media: list[tuple[int, str]] = []
    cost = 0
    for number, ref, kind in _todo(catalog):
        media.append((number, ref))
        cost += _VIDEO_COST if kind == "video" else 1
        if cost >= _TASK_COST:
            yield task(media)
            media, cost = [], 0
    if media:
        yield task(media)


def _todo(catalog: Catalog) -> Iterator[tuple[int, str, str]]:
    """(number, reference, kind) of the media to encode; the catalog may be written to in between.

    Those in cells of tables come in the order of their places, for a table is only read forwards.
    """
    last: tuple[str, int] = ("", 0)
    while rows := catalog.db.execute(
        "SELECT id, ref, kind, cell FROM medium WHERE done = 0 AND (cell, id) > (?, ?) ORDER BY cell, id LIMIT ?",
        (*last, _TASK_COST),
    ).fetchall():
        yield from ((number, ref, kind) for number, ref, kind, _ in rows)
        last = (rows[-1][3], rows[-1][0])


def _encode_task(task: _Task) -> list[_Stored]:
    """Encode the media of one task into its blob file; runs in a worker."""
    path = _blob_path(task)
    stored: list[_Stored] = []
    with (
        naming(path),
        kept_reader(task.root, path.parent) as reader,
        publish(path, scratch(path)) as blob,
        _Marker(task).writing() as note,
    ):
        for number, text in task.media:
            if number in task.broken:
                reason, detail = task.broken[number]
                stored.append(_Stored(medium=number, reason=reason, detail=detail))
                continue
            note(number)
            try:
                with bounded(task.options, task.cpu_seconds):
                    ref = ref_from_json(orjson.loads(text))
                    encoded, size = _encode(ref, reader, task.options)
                    look = _look(encoded) if task.compare else None
            except RejectedError as error:
                stored.append(_Stored(medium=number, reason=error.reason, detail=error.detail))
                continue
            offset = blob.tell()
            blob.writelines(encoded.files)
            facts = MediaFacts(encoded.original_width, encoded.original_height, size)
            stored.append(replace(_describe(number, ref, encoded, offset), facts=facts, fingerprint=look))
    return stored


def _blob_path(task: _Task) -> Path:
    """The file that receives the media of ``task``."""
    return task.work / task.blob


def _without_culprit(engine: Engine) -> Callable[[_Task, WorkerDiedError], list[_Stored]]:
    """For a task whose process died: the medium it was at becomes a reject, and the task is run again without it."""

    def on_death(task: _Task, died: WorkerDiedError) -> list[_Stored]:
        culprit = _Marker(task).read()
        if culprit is None or culprit in task.broken:
            raise BuildError(f"{died}; run the same command again to go on") from died
        if died.signal in TIMER_SIGNALS:
            fault = ("timeout", f"decoding took more than {task.cpu_seconds} s of CPU time, or ten times that in all")
        else:
            fault = ("decoder_died", f"its decoder crashed: {died}")
        rest = replace(task, broken={**task.broken, culprit: fault})
        ((_, stored),) = engine.run(_encode_task, [rest], label="encode", progress=Silent(), on_death=on_death)
        return stored

    return on_death


class _Marker:
    """A small file that says which medium a worker is at, for the case that it does not come back."""

    def __init__(self, task: _Task) -> None:
        self._path = _blob_path(task).with_suffix(".at")

    @contextmanager
    def writing(self) -> Iterator[Callable[[int], object]]:
        """A function that notes a medium; the file goes away when the block ends without an error."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        try:
            yield lambda medium: os.pwrite(descriptor, b"%020d" % medium, 0)
        finally:
            os.close(descriptor)
        self._path.unlink(missing_ok=True)

    def read(self) -> int | None:
        noted = self._path.read_text() if self._path.exists() else ""
        return int(noted) if noted else None


def _encode(ref: MediaRef, reader: Reader, options: MediaOptions) -> tuple[EncodedMedia, int]:
    """The medium as it is stored, and the bytes of its original."""
    if ref.timestamps_s is not None:
        sizes: list[int] = []
        pictures = (_counted(reader.read(part), sizes) for part in ref.parts)
        encoded = encode_frames(pictures, ref.timestamps_s, options, duration_s=ref.duration_s)
        return encoded, sum(sizes)
    (part,) = ref.parts
    if ref.kind == "video":
        with reader.as_file(part) as path:
            return encode_video(path, options), path.stat().st_size
    data = reader.read(part)
    return encode_image(data, options), len(data)


def _counted(data: bytes, sizes: list[int]) -> bytes:
    sizes.append(len(data))
    return data


def _look(encoded: EncodedMedia) -> bytes | None:
    """The fingerprint of a picture as 8 bytes; clips are not compared by their looks."""
    bits = fingerprint(encoded.files[0]) if encoded.kind == "image" else None
    return None if bits is None else bits.to_bytes(8, "big")


def _describe(number: int, ref: MediaRef, encoded: EncodedMedia, offset: int) -> _Stored:
    hashes = [hashlib.sha256(data).hexdigest() for data in encoded.files]
    value: dict[str, Any] = {
        "kind": encoded.kind,
        "extension": encoded.extension,
        "width": encoded.width,
        "height": encoded.height,
        "sha256": hashes,
        "origin": ref.origin,
        "timestamps_s": encoded.timestamps_s,
        "duration_s": encoded.duration_s,
    }
    times = [hashes, encoded.timestamps_s, encoded.duration_s]
    return _Stored(
        medium=number,
        # Two clips of equal frames at other times are two clips, and a clip of one frame is no picture.
        content=hashes[0] if encoded.kind == "image" else hashlib.sha256(canonical_json(times)).hexdigest(),
        media=canonical_json(value),
        offset=offset,
        sizes=tuple(len(data) for data in encoded.files),
    )
