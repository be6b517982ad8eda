"""Encode every distinct medium once, before any context is chosen.

So a picture that stands in many samples is decoded once, and a record whose picture is broken is known to be a reject
before it could become somebody's context (see `mimicit.build.settle`). The bytes go to blob files in the work folder,
one per task, and a finished task is not run again.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from mimicit.build.blobs import damaged_blobs, writing_blob
from mimicit.build.catalog import Catalog, ref_from_json
from mimicit.build.engine import Engine, OnDeath, WorkerDiedError, is_given_up
from mimicit.build.filters import MediaFacts
from mimicit.build.former import FORMER_NAME, damaged_former_shards
from mimicit.build.freeze import MEDIA_NAME
from mimicit.build.progress import Progress, Silent
from mimicit.build.tasks import Share
from mimicit.errors import RejectedError
from mimicit.media import EncodedMedia, MediaOptions, encode_frames, encode_image, encode_video
from mimicit.media.bounds import TIMER_SIGNALS, bounded
from mimicit.media.fingerprint import fingerprint
from mimicit.schema import canonical_json
from mimicit.shards.files import write_atomically
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """The media of one blob file: (medium number, reference as JSON)."""

    root: Root
    work: Path
    options: MediaOptions
    compare: bool
    media: tuple[tuple[int, str], ...]
    blob: str  # the file's name, relative to ``work``


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What became of one medium: ``media`` describes it as JSON, ``content`` identifies it; or why it was rejected."""

    medium: int
    content: str | None = None
    media: bytes | None = None
    blob: str | None = None  # the file that holds it, relative to the work folder
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
    """Encode all media that are not encoded yet, and note the results; ``compare`` also notes how pictures look.

    What a killed build has left is checked, and encoded again where it is damaged.
    """
    (work / "media").mkdir(exist_ok=True)
    _take_notes(catalog, work)
    _forget_damaged(catalog, work, engine, progress)
    tasks = _tasks(catalog, root, work, options, compare)
    results = engine.run(_encode_task, tasks, label="encode", progress=progress, on_death=_judging(engine))
    for _, stored in results:
        with catalog.transaction():
            catalog.db.executemany(_UPDATE, [_row(result) for result in stored])


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
        results = engine.run(_encode_task, tasks, label="encode", progress=progress, on_death=_judging(engine))
        for task, stored in results:
            write_atomically(_note_path(task), [_note(_row(result)) for result in stored])
    finally:
        catalog.close()


def _note_path(task: _Task) -> Path:
    return _blob_path(task).with_suffix(_NOTE_SUFFIX)


def _note(row: tuple[Any, ...]) -> bytes:
    """A row of the catalog as a line of JSON; its bytes are written in hexadecimal."""
    return orjson.dumps([{"hex": value.hex()} if isinstance(value, bytes) else value for value in row]) + b"\n"


def _take_notes(catalog: Catalog, work: Path) -> None:
    """Fill in what the tasks of a batch scheduler have noted: all of it or nothing, for it shapes what is left."""
    notes = sorted((work / "media").glob(f"*{_NOTE_SUFFIX}"))
    with catalog.transaction():
        for path in notes:
            rows = map(orjson.loads, path.read_bytes().splitlines())
            catalog.db.executemany(
                _UPDATE,
                ([bytes.fromhex(value["hex"]) if isinstance(value, dict) else value for value in row] for row in rows),
            )
    for path in notes:
        path.unlink()


def _forget_damaged(catalog: Catalog, work: Path, engine: Engine, progress: Progress) -> None:
    """Let the media be encoded again whose stored files are absent, cut or changed."""
    names = [name for (name,) in catalog.db.execute("SELECT DISTINCT file FROM medium WHERE file IS NOT NULL")]
    former = [name for name in names if name.startswith(f"{FORMER_NAME}/")]
    damaged = damaged_former_shards(work, former, engine, progress) if former else []
    own = [work / name for name in names if name not in former]
    damaged += damaged_blobs(own, engine, progress) if own else []
    if damaged:
        (work / MEDIA_NAME).unlink(missing_ok=True)  # says where they lie
    for path in sorted(damaged):
        progress.note(f"{path}: damaged or gone since it was written; its media are encoded again")
    with catalog.transaction():
        for path in damaged:
            catalog.db.execute("UPDATE medium SET done = 0, file = NULL WHERE file = ?", (str(path.relative_to(work)),))


def _row(stored: _Stored) -> tuple[Any, ...]:
    facts = stored.facts or (None, None, None)
    offsets = list(itertools.accumulate(stored.sizes, initial=stored.offset))[:-1]
    fault = (stored.reason, stored.detail)
    place = (stored.blob, orjson.dumps(offsets).decode(), orjson.dumps(stored.sizes).decode())
    return (stored.content, stored.media, *place, *facts, stored.fingerprint, *fault, stored.medium)


def _tasks(catalog: Catalog, root: Root, work: Path, options: MediaOptions, compare: bool) -> Iterator[_Task]:
    """Cut the media that are left to do into tasks, in their order."""

    def task(media: list[tuple[int, str]]) -> _Task:
        return _Task(root=root, work=work, options=options, compare=compare, media=tuple(media), blob=_blob_name(media))

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


def _blob_name(media: Sequence[tuple[int, str]]) -> str:
    """The name of the blob file of these media, relative to the work folder."""
    return f"media/{media[0][0]:012d}.bin"


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
        kept_reader(task.root, path.parent) as reader,
        writing_blob(path) as blob,
        _Marker(task).writing() as note,
    ):
        for number, text in task.media:
            note(number)
            try:
                with bounded(task.options):
                    ref = ref_from_json(orjson.loads(text))
                    encoded, size = _encode(ref, reader, task.options)
                    look = _look(encoded) if task.compare else None
            except RejectedError as error:
                stored.append(_Stored(medium=number, reason=error.reason, detail=error.detail))
                continue
            offset = blob.size
            for data in encoded.files:
                blob.write(data)
            facts = MediaFacts(encoded.original_width, encoded.original_height, size)
            described = _describe(number, ref, encoded, offset)
            stored.append(replace(described, blob=task.blob, facts=facts, fingerprint=look))
    return stored


def _blob_path(task: _Task) -> Path:
    """The file that receives the media of ``task``."""
    return task.work / task.blob


def _judging(engine: Engine) -> OnDeath[_Task, list[_Stored]]:
    """For a task that ended its own process: each medium that could have done it is looked at alone.

    A worker may be killed for any reason, at any medium. So the task is cut at the medium that it was at, and only one
    that ends a process of its own, again and again, becomes a reject.
    """

    def on_death(task: _Task, died: WorkerDiedError, deaths: int) -> list[_Stored] | None:
        if len(task.media) == 1:
            return [_fault(task, died)] if is_given_up(died, deaths) else None
        pieces = _cut(task, _Marker(task).read())
        results = engine.run(_encode_task, pieces, label="encode", progress=Silent(), on_death=on_death, alone=True)
        return [stored for _, part in results for stored in part] if pieces else None

    return on_death


def _cut(task: _Task, culprit: int | None) -> list[_Task]:
    """``task`` in three: what comes before a medium, that medium, and what comes after it."""
    place = next((place for place, (number, _) in enumerate(task.media) if number == culprit), None)
    if place is None:
        return []
    parts = (task.media[:place], task.media[place : place + 1], task.media[place + 1 :])
    return [replace(task, media=part, blob=_blob_name(part)) for part in parts if part]


def _fault(task: _Task, died: WorkerDiedError) -> _Stored:
    """The reject of the only medium of ``task``."""
    ((number, _),) = task.media
    if died.signal in TIMER_SIGNALS:
        limit = f"{task.options.max_seconds} s of CPU time and what its size explains"
        return _Stored(medium=number, reason="timeout", detail=f"decoding took more than {limit}; see --max-seconds")
    return _Stored(medium=number, reason="decoder_died", detail=f"its decoder crashed: {died}")


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
