"""Encode every distinct medium once, before any context is chosen.

So a picture that many samples show is decoded once, and a record whose picture is broken is rejected before it could
become context. The media are cut into units. A unit is one task: it writes their bytes to a blob in the work folder,
and a part of ENCODED that says where in the blob they are. A unit with a part is done. All parts are joined to MEDIA.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson
import pyarrow as pa

from mimicit.errors import RejectedError
from mimicit.media import EncodedMedia, MediaOptions
from mimicit.media.bounds import TIMER_SIGNALS, bounded
from mimicit.media.frames import encode_frames
from mimicit.media.image import encode_image, fingerprint
from mimicit.media.video import encode_video
from mimicit.pipeline.engines.local import Engine, OnDeath, WorkerDiedError, is_given_up
from mimicit.pipeline.engines.scheduler import Share
from mimicit.pipeline.joins import insert, joins, ordered
from mimicit.pipeline.parts import ColumnFile, batched, batches_of_rows, write_columns
from mimicit.pipeline.previous import PREVIOUS_NAME, REUSED_NAME, damaged_previous_shards
from mimicit.pipeline.stages.stored_media import damaged_blobs, writing_blob
from mimicit.pipeline.tables import ENCODED, MEDIA, MEDIA_NAME, MEDIA_REFERENCES_NAME, UNITS_NAME
from mimicit.progress import Progress, Silent
from mimicit.schema import canonical_json
from mimicit.sources.files.reading import Reader, kept_reader
from mimicit.sources.files.root import Root
from mimicit.sources.items import MediaRef, ref_from_json

_FOLDER: Final = "media"
_PARTS_PER_INSERT: Final = 64
_FILE: Final = ENCODED.get_field_index("file")
_ENCODED_COLUMNS: Final = """
    number BIGINT, content VARCHAR, media BLOB, file VARCHAR, offsets BIGINT[], sizes BIGINT[],
    width BIGINT, height BIGINT, bytes BIGINT, fingerprint BLOB, reason VARCHAR, detail VARCHAR
"""
_JOINED: Final = f"""
SELECT {", ".join(name for name in MEDIA.names if name != "same_as")}, coalesce(first.number, -1) AS same_as
FROM encoded LEFT JOIN (
    SELECT content, min(number) AS number FROM encoded WHERE content IS NOT NULL GROUP BY content
) AS first USING (content)
ORDER BY encoded.number
"""

_Row: TypeAlias = tuple[Any, ...]
"""A row of ENCODED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """The media ``numbers`` of a unit, or of a piece of it; ``name`` is the name of its files, without suffix."""

    root: Root
    work: Path
    options: MediaOptions
    compare: bool
    unit: int
    numbers: tuple[int, ...]
    name: str

    @property
    def blob(self) -> Path:
        """The file that receives the encoded media."""
        return self.work / _FOLDER / f"{self.name}.bin"


def encode_media(
    root: Root, work: Path, options: MediaOptions, engine: Engine, progress: Progress, *, compare: bool = False
) -> None:
    """Encode the media of all units that are not done; ``compare`` also stores fingerprints of pictures."""
    _run(list(_tasks(root, work, options, compare)), engine, progress)


def encode_share(
    root: Root, work: Path, options: MediaOptions, engine: Engine, progress: Progress, share: Share, *, compare: bool
) -> None:
    """As `encode_media`, for the units of one share."""
    _run([task for task in _tasks(root, work, options, compare) if share.takes(task.unit)], engine, progress)


def unfinished_units(work: Path) -> list[int]:
    """The numbers of the units that are not done."""
    return [unit for unit, _ in _units(work) if not _part(work, unit).exists()]


def forget_damaged(work: Path, engine: Engine, progress: Progress) -> None:
    """Have units encoded again if a killed build left their stored files absent, cut or changed."""
    parts_of: dict[str, list[Path]] = {}
    for part in sorted((work / _FOLDER).glob("*.arrow")):
        files = ColumnFile(part).table(["file"]).column(0).unique().to_pylist()
        for name in filter(None, files):
            parts_of.setdefault(name, []).append(part)
    previous = [name for name in parts_of if name.startswith(f"{PREVIOUS_NAME}/")]
    damaged = damaged_previous_shards(work, previous, engine, progress) if previous else []
    if damaged:
        (work / REUSED_NAME).unlink(missing_ok=True)
    own = [work / name for name in parts_of if name not in previous]
    damaged += damaged_blobs(own, engine, progress) if own else []
    if damaged:
        (work / MEDIA_NAME).unlink(missing_ok=True)  # it refers to the damaged files
    for path in sorted(damaged):
        progress.note(f"{path}: damaged or gone since it was written; its media are encoded again")
        for part in parts_of[str(path.relative_to(work))]:
            part.unlink(missing_ok=True)


def join_media(work: Path) -> None:
    """Write MEDIA from the parts of all units, once."""
    if (work / MEDIA_NAME).exists():
        return
    with joins(work) as db:
        db.execute(f"CREATE TABLE encoded({_ENCODED_COLUMNS})")
        for units in batched(_units(work), _PARTS_PER_INSERT):
            parts = [ColumnFile(_part(work, unit)).table() for unit, _ in units]
            insert(db, "encoded", pa.concat_tables(parts).combine_chunks().to_batches())
        write_columns(work / MEDIA_NAME, MEDIA, ordered(db, _JOINED, MEDIA))


def _run(tasks: Sequence[_Task], engine: Engine, progress: Progress) -> None:
    on_death = _judging(engine)
    for _ in engine.run(_encode_unit, tasks, label="encode", progress=progress, total=len(tasks), on_death=on_death):
        pass


def _units(work: Path) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(number of the unit, numbers of its media) of every unit, in order."""
    units = ColumnFile(work / UNITS_NAME)
    rows = (
        row
        for batch in units.table().to_batches()
        for row in zip(batch.column("unit").to_pylist(), batch.column("number").to_pylist(), strict=True)
    )
    for unit, members in itertools.groupby(rows, key=lambda row: row[0]):
        yield unit, tuple(number for _, number in members)


def _tasks(root: Root, work: Path, options: MediaOptions, compare: bool) -> Iterator[_Task]:
    """A task for each unit that is not done."""
    (work / _FOLDER).mkdir(exist_ok=True)
    for unit, numbers in _units(work):
        if not _part(work, unit).exists():
            yield _Task(
                root=root,
                work=work,
                options=options,
                compare=compare,
                unit=unit,
                numbers=numbers,
                name=f"{unit:08d}",
            )


def _part(work: Path, unit: int) -> Path:
    return work / _FOLDER / f"{unit:08d}.arrow"


def _encode_unit(task: _Task) -> list[int]:
    """Encode a unit and write its part of ENCODED; returns the numbers of the media not reused. Runs in a worker."""
    return _write_part(task, _encode_numbers(task))


def _write_part(task: _Task, rows: Sequence[_Row]) -> list[int]:
    write_columns(_part(task.work, task.unit), ENCODED, batches_of_rows(rows, ENCODED))
    return [row[0] for row in rows if not (row[_FILE] or "").startswith(f"{PREVIOUS_NAME}/")]


def _encode_numbers(task: _Task) -> list[_Row]:
    """Encode the media of ``task`` into its blob, except those stored by an earlier build; runs in a worker."""
    references = ColumnFile(task.work / MEDIA_REFERENCES_NAME)
    reused = _Reused(task.work)
    rows: list[_Row] = []
    file = str(task.blob.relative_to(task.work))
    with (
        kept_reader(task.root, task.blob.parent) as reader,
        writing_blob(task.blob) as blob,
        _Marker(task).writing() as note,
    ):
        for number in task.numbers:
            if (known := reused.row(number)) is not None:
                rows.append(known)
                continue
            note(number)
            try:
                with bounded(task.options):
                    ref = ref_from_json(orjson.loads(references.data("ref", number)))
                    encoded, size = _encode(ref, reader, task.options)
                    look = _look(encoded) if task.compare else None
            except RejectedError as error:
                rows.append(_rejected(number, error.reason, error.detail))
                continue
            sizes = [len(data) for data in encoded.files]
            offsets = list(itertools.accumulate(sizes, initial=blob.size))[:-1]
            for data in encoded.files:
                blob.write(data)
            original = (encoded.original_width, encoded.original_height, size)
            rows.append((number, *_described(ref, encoded), file, offsets, sizes, *original, look, None, None))
    return rows


class _Reused:
    """The media of earlier builds that `mimicit.pipeline.previous` has found, if any."""

    def __init__(self, work: Path) -> None:
        self._table = ColumnFile(work / REUSED_NAME) if (work / REUSED_NAME).exists() else None

    def row(self, number: int) -> _Row | None:
        """The row of ENCODED of a medium, or None if it must be encoded."""
        if self._table is None:
            return None
        table = self._table
        place = bisect_left(range(table.rows), number, key=lambda row: table.number("number", row))
        if place == table.rows or table.number("number", place) != number:
            return None
        return tuple(table.value(name, place) for name in ENCODED.names)


def _rejected(number: int, reason: str, detail: str) -> _Row:
    return (number, *(None,) * (len(ENCODED) - 3), reason, detail)


def _judging(engine: Engine) -> OnDeath[_Task, list[int]]:
    """What to do with a unit whose process died: encode the medium that it was at in a process of its own.

    A worker may be killed for any reason, at any medium. So the unit is cut at the medium that it was at, and a medium
    is rejected only if the process that encodes it alone dies, too, again and again.
    """

    def rows_of_pieces(task: _Task, died: WorkerDiedError, deaths: int) -> list[_Row] | None:
        if len(task.numbers) == 1:
            return [_fault(task, died)] if is_given_up(died, deaths) else None
        pieces = _cut(task, _Marker(task).read())
        results = engine.run(
            _encode_numbers, pieces, label="encode", progress=Silent(), on_death=rows_of_pieces, alone=True
        )
        return [row for _, rows in results for row in rows] if pieces else None

    def on_death(task: _Task, died: WorkerDiedError, deaths: int) -> list[int] | None:
        rows = rows_of_pieces(task, died, deaths)
        return None if rows is None else _write_part(task, rows)

    return on_death


def _cut(task: _Task, culprit: int | None) -> list[_Task]:
    """``task`` cut before and after the medium ``culprit``, up to three pieces; none if it does not hold that."""
    if culprit not in task.numbers:
        return []
    place = task.numbers.index(culprit)
    parts = (task.numbers[:place], task.numbers[place : place + 1], task.numbers[place + 1 :])
    return [replace(task, numbers=part, name=f"{task.unit:08d}-{part[0]:012d}") for part in parts if part]


def _fault(task: _Task, died: WorkerDiedError) -> _Row:
    """The row that rejects the only medium of ``task``."""
    (number,) = task.numbers
    if died.signal in TIMER_SIGNALS:
        limit = f"{task.options.max_seconds} s of CPU time and what its size explains"
        return _rejected(number, "timeout", f"decoding took more than {limit}; see --max-seconds")
    return _rejected(number, "decoder_died", f"its decoder crashed: {died}")


class _Marker:
    """A small file that says which medium a worker is at, in case its process dies."""

    def __init__(self, task: _Task) -> None:
        self._path = task.blob.with_suffix(".at")

    @contextmanager
    def writing(self) -> Iterator[Callable[[int], object]]:
        """A function that notes a medium; the file is removed when the block ends without an error."""
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
    """The medium as it is stored, and the size of its original in bytes."""
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


def _described(ref: MediaRef, encoded: EncodedMedia) -> tuple[str, bytes]:
    """The text that identifies the medium by content, and the medium as JSON."""
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
    if encoded.kind == "image":  # which has no floats, so no NaN
        return hashes[0], orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    # Clips of equal frames at different times are different clips, and a clip of one frame is not a picture.
    times = [hashes, encoded.timestamps_s, encoded.duration_s]
    return hashlib.sha256(canonical_json(times)).hexdigest(), canonical_json(value)
