"""Pack the planned shards: each is one task that copies encoded media and JSON into a tar, checks it, and renames it.

A shard counts as packed when its piece of the index exists; the piece is written after the shard has its final name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimicit.errors import BuildError
from mimicit.pipeline.disk import naming, scratch
from mimicit.pipeline.engines.local import Engine
from mimicit.pipeline.engines.scheduler import Share
from mimicit.pipeline.previous import PreviousShard, adopt_shard, has_checksum, previous_index, previous_shards
from mimicit.pipeline.ragged import Numbers, list_array
from mimicit.pipeline.stages.plan import PlannedSamples, ShardPlan, planned_shards
from mimicit.pipeline.stages.stored_media import StoredMedia
from mimicit.progress import Progress
from mimicit.shards.files import publish
from mimicit.shards.index import index_schema
from mimicit.shards.tar import BLOCK, Members

_SHARD_INFO: Final = b"mimicit.shard"
_OF_SAMPLES: Final = ("key", "id", "source", "media", "relations", "triplets", "videos", "frames", "characters")
_INDEX_BATCH: Final = 2_000  # rows held before they are written
_WRITE_BYTES: Final = 256 << 10  # small enough that the allocator uses the same memory again


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    work: Path
    out: Path
    shard: ShardPlan
    name: str
    dedupe: bool
    previous: PreviousShard | None  # a shard of an earlier build with the same content


def shard_name(number: int, count: int) -> str:
    """The file name of shard ``number`` of ``count``: zero-padded to the width of the plan, at least 3."""
    return f"shard-{number:0{max(3, len(str(count - 1)))}d}.tar"


def index_piece(work: Path, number: int) -> Path:
    """The part of the index that belongs to shard ``number``."""
    return work / "index" / f"{number:08d}.parquet"


def forget_damaged_shards(work: Path, out: Path, engine: Engine, progress: Progress) -> None:
    """Have shards packed again if they are not as a killed build has written them."""
    pieces: dict[Path, tuple[Path, str]] = {}
    for piece in sorted((work / "index").glob("*.parquet")):
        info = _shard_info(piece)
        pieces[piece] = out / info["name"], info["sha256"]
    if not pieces:
        return
    tasks = list(pieces.values())
    results = dict(engine.run(has_checksum, tasks, label="check shards", progress=progress, total=len(tasks)))
    for piece, task in pieces.items():
        if not results[task]:
            progress.note(f"{task[0]}: damaged or gone since it was written; it is packed again")
            piece.unlink()


def pack_shards(work: Path, out: Path, engine: Engine, progress: Progress, *, dedupe: bool) -> list[dict[str, Any]]:
    """Pack all shards that are not packed yet; returns the manifest's entry of every shard, in order.

    With ``dedupe``, a file that the shard already holds becomes a hard link to the member that holds it.
    """
    shards = planned_shards(work)
    _pack_all(_unpacked(work, out, shards), len(shards), work, out, engine, progress, dedupe=dedupe)
    return [_shard_info(index_piece(work, shard.number)) for shard in shards]


def pack_share(work: Path, out: Path, engine: Engine, progress: Progress, share: Share, *, dedupe: bool) -> None:
    """Pack the shards of one share that are not packed yet."""
    shards = planned_shards(work)
    todo = [shard for shard in _unpacked(work, out, shards) if share.takes(shard.number)]
    _pack_all(todo, len(shards), work, out, engine, progress, dedupe=dedupe)


def unpacked_shards(work: Path, out: Path) -> list[int]:
    """The numbers of the shards that are not packed yet."""
    return [shard.number for shard in _unpacked(work, out, planned_shards(work))]


def _unpacked(work: Path, out: Path, shards: Sequence[ShardPlan]) -> list[ShardPlan]:
    count = len(shards)
    return [shard for shard in shards if not _is_packed(work, out, shard, shard_name(shard.number, count))]


def _pack_all(
    shards: Sequence[ShardPlan],
    count: int,
    work: Path,
    out: Path,
    engine: Engine,
    progress: Progress,
    *,
    dedupe: bool,
) -> None:
    """Pack ``shards``, of the ``count`` shards of the plan."""
    (work / "index").mkdir(exist_ok=True)
    previous = previous_shards(work, dedupe=dedupe)
    tasks = [
        _Task(
            work=work,
            out=out,
            shard=shard,
            name=shard_name(shard.number, count),
            dedupe=dedupe,
            previous=previous.get(shard.content),
        )
        for shard in shards
    ]
    kept = sum(kept for _, kept in engine.run(_pack_task, tasks, label="pack", progress=progress, total=len(tasks)))
    if kept:
        progress.note(f"{kept} of {count} shards are those that were there")


def _is_packed(work: Path, out: Path, shard: ShardPlan, name: str) -> bool:
    path, piece = out / name, index_piece(work, shard.number)
    return piece.exists() and path.exists() and path.stat().st_size == _shard_info(piece)["bytes"]


def _shard_info(piece: Path) -> dict[str, Any]:
    metadata = pq.read_metadata(piece).metadata
    info: dict[str, Any] = orjson.loads(metadata[_SHARD_INFO])
    return info


def _pack_task(task: _Task) -> bool:
    """Make one shard and its piece of the index; returns whether an earlier build had it. Runs in a worker."""
    if task.previous is not None and _keep(task, task.previous):
        return True
    _write(task)
    return False


def _keep(task: _Task, previous: PreviousShard) -> bool:
    """Adopt an earlier build's shard of the same content; returns False if it is no longer sound."""
    if not adopt_shard(previous, task.out / task.name, scratch(task.work / task.name)):
        return False
    rows = previous_index(task.work, previous)
    schema = index_schema(PlannedSamples(task.work).relations)
    counted = pa.chunked_array([_counting(chunk, schema) for chunk in rows["relations"].chunks])
    rows = rows.set_column(rows.column_names.index("relations"), "relations", counted)
    names = pa.array([task.name] * rows.num_rows, pa.string())
    piece = index_piece(task.work, task.shard.number)
    with (
        publish(piece, scratch(piece)) as file,
        pq.ParquetWriter(file, schema) as index,
    ):
        index.write_table(rows.set_column(0, "shard", names).cast(schema))
        index.add_key_value_metadata({_SHARD_INFO: orjson.dumps({**previous.info, "name": task.name})})
    return True


def _counting(counts: pa.StructArray, schema: pa.Schema) -> pa.StructArray:
    """``counts`` of relations in the columns of ``schema``: 0 for relations that were not counted."""
    names = [field.name for field in schema.field("relations").type]
    known = {field.name for field in counts.type}
    none = pa.repeat(pa.scalar(0, pa.int32()), len(counts))
    return pa.StructArray.from_arrays([counts.field(name) if name in known else none for name in names], names)


def _write(task: _Task) -> None:
    """Write one shard; its piece of the index appears after it."""
    samples = PlannedSamples(task.work)
    piece = index_piece(task.work, task.shard.number)
    temporary = scratch(task.work / task.name)
    first, end = task.shard.first, task.shard.last + 1
    with (
        closing(StoredMedia(task.work)) as media,
        naming(task.out / task.name),
        publish(piece, scratch(piece)) as piece_file,
        pq.ParquetWriter(piece_file, index_schema(samples.relations)) as index,
        publish(task.out / task.name, temporary) as file,
        open(temporary, "rb", buffering=0) as written,
    ):
        shard = _Shard(file, written, media, dedupe=task.dedupe)
        for rows in samples.batches(_OF_SAMPLES, first, end, _INDEX_BATCH):
            begins = [shard.add(*sample) for sample in _to_add(rows, samples.json(first, first + rows.num_rows))]
            index.write_table(_index_rows(task.name, rows, np.array([*begins, shard.position]), *shard.places()))
            first += rows.num_rows
        shard.end()
        if shard.position != task.shard.bytes:
            raise BuildError(f"{temporary}: {shard.position} bytes where the plan says {task.shard.bytes}")
        info = {
            "name": task.name,
            "sha256": shard.sha256.hexdigest(),
            "bytes": shard.position,
            "samples": task.shard.samples,
            "content": task.shard.content,
        }
        index.add_key_value_metadata({_SHARD_INFO: orjson.dumps(info)})


class _Shard:
    """A shard that is written to ``file``, and read back from ``written``; ``dedupe`` as in `pack_shards`."""

    def __init__(self, file: BinaryIO, written: BinaryIO, media: StoredMedia, *, dedupe: bool) -> None:
        self.sha256 = hashlib.sha256()
        self._file = file
        self._written = written
        self._media = media
        self._members = Members()
        self._held: dict[str, tuple[str, int]] | None = {} if dedupe else None  # by checksum: a member and its place

    @property
    def position(self) -> int:
        """The size so far, in bytes."""
        return self._members.position

    def add(self, key: bytes, text: memoryview, media: Sequence[int]) -> int:
        """Add a sample with the JSON ``text`` and the files of its ``media``; returns its offset in bytes."""
        members, held = self._members, self._held
        begin = members.position
        members.add(key, b".json", text)
        place = 0
        for number in media:
            for file in self._media.files(number):
                suffix = _suffix(place, file.extension)
                place += 1
                if held is not None:
                    name = f"{key.decode()}{suffix.decode()}"
                    if file.sha256 in held:
                        members.link(name, *held[file.sha256], file.size)
                        continue
                    held[file.sha256] = (name, members.position + BLOCK)
                members.add(key, suffix, self._media.read(file))
                if members.waiting > _WRITE_BYTES:
                    self._write()
        return begin

    def places(self) -> tuple[list[int], list[int]]:
        """The offsets and sizes of the members that were added since the last call."""
        return self._members.places()

    def end(self) -> None:
        """Write what is left, and the end of the archive."""
        self._members.end()
        self._write()

    def _write(self) -> None:
        """Write what was added, and read it back."""
        chunk = self._members.taken()
        self.sha256.update(chunk)
        self._file.write(chunk)
        self._file.flush()
        if self._written.read(len(chunk)) != chunk:
            raise BuildError(f"{self._written.name}: what was written cannot be read back; check the disk")


@cache
def _suffix(place: int, extension: str) -> bytes:
    return f".{place:03d}.{extension}".encode()


def _to_add(rows: pa.RecordBatch, texts: Iterable[memoryview]) -> Iterator[tuple[bytes, memoryview, list[int]]]:
    """The key, the JSON and the media of each sample."""
    keys = rows.column("key").cast(pa.large_binary()).to_numpy(zero_copy_only=False).tolist()
    lists = rows.column("media")
    ends, numbers = lists.offsets.to_numpy().tolist(), lists.values.to_numpy().tolist()
    media = (numbers[first:end] for first, end in pairwise(ends))
    return zip(keys, texts, media, strict=True)


def _index_rows(
    shard: str, rows: pa.RecordBatch, bounds: Numbers, offsets: Sequence[int], sizes: Sequence[int]
) -> pa.Table:
    """The rows of the index for samples cut at ``bounds``, with the ``offsets`` and ``sizes`` of their members."""
    counts = 1 + rows.column("frames").to_numpy()
    schema = index_schema(rows.column("relations").type)
    made = {
        "shard": pa.repeat(shard, rows.num_rows),
        "offset": bounds[:-1],
        "size": np.diff(bounds),
        "member_offsets": list_array(pa.array(offsets, pa.int64()), counts),
        "member_sizes": list_array(pa.array(sizes, pa.int64()), counts),
        "media": pc.list_value_length(rows.column("media")),
    }
    columns = [made[name] if name in made else rows.column(name) for name in schema.names]
    return pa.table(columns, names=schema.names).cast(schema)
