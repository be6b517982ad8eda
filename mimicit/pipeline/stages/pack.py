"""Pack the planned shards: each is one task that copies encoded media and JSON into a tar, checks it, and renames it.

A shard counts as packed when its piece of the index exists; the piece is written after the shard has its final name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimicit.errors import BuildError
from mimicit.pipeline.batches import batched
from mimicit.pipeline.disk import naming, scratch
from mimicit.pipeline.engines.local import Engine
from mimicit.pipeline.engines.scheduler import Share
from mimicit.pipeline.parts import ColumnFile
from mimicit.pipeline.previous import PreviousShard, adopt_shard, previous_index, previous_shards
from mimicit.pipeline.progress import Progress
from mimicit.pipeline.stages.plan import PlannedSamples, ShardPlan, planned_shards
from mimicit.pipeline.stages.stored_media import StoredMedia
from mimicit.shards.files import publish, sha256_of
from mimicit.shards.index import INDEX_SCHEMA, RELATIONS
from mimicit.shards.tar import BLOCK, END_OF_ARCHIVE, Link, PackedSample, member_span, pack_members

__all__ = ["index_piece", "pack_shards", "pack_share", "shard_name", "unpacked_shards"]

_SHARD_INFO: Final = b"mimicit.shard"
_OF_SAMPLES: Final = ("key", "id", "source", "media", "relations", "triplets", "videos", "frames", "characters")
_OF_PLACES: Final = ("offset", "size", "member_offsets", "member_sizes")
_INDEX_BATCH: Final = 2_000  # rows held before they are written


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    work: Path
    out: Path
    shard: ShardPlan
    name: str
    dedupe: bool
    previous: PreviousShard | None  # of the same content


def shard_name(number: int, count: int) -> str:
    """The file name of shard ``number`` of ``count``: zero-padded to the width of the plan, at least 3."""
    return f"shard-{number:0{max(3, len(str(count - 1)))}d}.tar"


def index_piece(work: Path, number: int) -> Path:
    """The part of the index that belongs to shard ``number``."""
    return work / "index" / f"{number:08d}.parquet"


def pack_shards(work: Path, out: Path, engine: Engine, progress: Progress, *, dedupe: bool) -> list[dict[str, Any]]:
    """Pack all shards that are not packed yet; returns the manifest's entry of every shard, in order.

    With ``dedupe``, a file that a shard holds already becomes a hard link to its first member.
    """
    shards = planned_shards(work)
    _pack_all(_unpacked(work, out, shards), len(shards), work, out, engine, progress, dedupe=dedupe)
    return [_shard_info(index_piece(work, shard.number)) for shard in shards]


def pack_share(work: Path, out: Path, engine: Engine, progress: Progress, share: Share, *, dedupe: bool) -> None:
    """Pack those shards of one share that are not packed yet."""
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
    """Pack ``shards``, which are of a plan of ``count``."""
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
    """Make one shard, and its piece of the index; whether it was there before; runs in a worker."""
    if task.previous is not None and _keep(task, task.previous):
        return True
    _write(task)
    return False


def _keep(task: _Task, previous: PreviousShard) -> bool:
    """Take over a shard of the same content, if it is still sound."""
    if not adopt_shard(previous, task.out / task.name, scratch(task.work / task.name)):
        return False
    rows = previous_index(task.work, previous)
    names = pa.array([task.name] * rows.num_rows, pa.string())
    piece = index_piece(task.work, task.shard.number)
    with (
        publish(piece, scratch(piece)) as file,
        pq.ParquetWriter(file, INDEX_SCHEMA) as index,
    ):
        index.write_table(rows.set_column(0, "shard", names).cast(INDEX_SCHEMA))
        index.add_key_value_metadata({_SHARD_INFO: orjson.dumps({**previous.info, "name": task.name})})
    return True


def _write(task: _Task) -> None:
    """Write one shard; its piece of the index gets its name after the shard has."""
    samples = PlannedSamples(task.work)
    media = StoredMedia(task.work)
    piece = index_piece(task.work, task.shard.number)
    temporary = scratch(task.work / task.name)
    digest = hashlib.sha256()
    position = 0
    held: dict[str, tuple[str, int]] | None = {} if task.dedupe else None
    try:
        with (
            naming(task.out / task.name),
            publish(piece, scratch(piece)) as piece_file,
            pq.ParquetWriter(piece_file, INDEX_SCHEMA) as index,
            publish(task.out / task.name, temporary) as file,
        ):
            for places in batched(range(task.shard.first, task.shard.last + 1), _INDEX_BATCH):
                rows = _IndexRows(task.name)
                for part, row in map(samples.at, places):
                    packed = _pack(part, row, media, position, held)
                    rows.add(part, row, packed, position)
                    chunk = b"".join(packed.chunks)
                    digest.update(chunk)
                    file.write(chunk)
                    position += packed.size
                index.write_table(rows.table())
            file.write(END_OF_ARCHIVE)
            digest.update(END_OF_ARCHIVE)
            position += len(END_OF_ARCHIVE)
            file.flush()
            if position != task.shard.bytes:
                raise BuildError(f"{temporary}: {position} bytes where the plan says {task.shard.bytes}")
            if sha256_of(temporary) != digest.hexdigest():
                raise BuildError(f"{temporary}: what was written cannot be read back; check the disk")
            info = {
                "name": task.name,
                "sha256": digest.hexdigest(),
                "bytes": position,
                "samples": task.shard.samples,
                "content": task.shard.content,
            }
            index.add_key_value_metadata({_SHARD_INFO: orjson.dumps(info)})
    finally:
        media.close()


def _pack(
    part: ColumnFile, row: int, media: StoredMedia, position: int, held: dict[str, tuple[str, int]] | None
) -> PackedSample:
    """The members of one sample, which starts at ``position`` of its shard.

    ``held`` has the member and its place in the shard of every file so far, by checksum, and receives those of this
    sample; ``None`` writes every file itself.
    """
    key = part.text("key", row)
    text = part.data("json", row)
    members: list[tuple[str, bytes | Link]] = [(f"{key}.json", text)]
    end = position + member_span(len(text))
    for number in part.integers("media", row):
        for file in media.files(number):
            name = f"{key}.{len(members) - 1:03d}.{file.extension}"
            if held is not None and file.sha256 in held:
                target, offset = held[file.sha256]
                members.append((name, Link(target=target, offset=offset - position, size=file.size)))
                end += BLOCK
                continue
            if held is not None:
                held[file.sha256] = (name, end + BLOCK)
            members.append((name, media.read(file)))
            end += member_span(file.size)
    return pack_members(members)


class _IndexRows:
    """The rows of a batch of the index: what SAMPLES have of the samples, and where they lie in the shard."""

    def __init__(self, shard: str) -> None:
        self._shard = shard
        self._samples: list[tuple[ColumnFile, int]] = []
        self._places: list[tuple[int, int, list[int], tuple[int, ...]]] = []

    def add(self, part: ColumnFile, row: int, packed: PackedSample, position: int) -> None:
        """Add the sample in ``row`` of a ``part`` of SAMPLES, which starts at ``position``."""
        self._samples.append((part, row))
        offsets = [position + offset for offset in packed.member_offsets]
        self._places.append((position, packed.size, offsets, packed.member_sizes))

    def table(self) -> pa.Table:
        """The rows as `INDEX_SCHEMA` has them."""
        samples = self._of_samples()
        counts = samples["relations"].combine_chunks().flatten().to_numpy().reshape(-1, len(RELATIONS))
        relations = pa.StructArray.from_arrays([pa.array(column) for column in counts.T], list(RELATIONS))
        places = dict(zip(_OF_PLACES, zip(*self._places, strict=True), strict=True))
        made = {
            "shard": pa.array([self._shard] * len(self._samples), pa.string()),
            "relations": relations,
            "media": pc.list_value_length(samples["media"]),
            **{name: pa.array(values, INDEX_SCHEMA.field(name).type) for name, values in places.items()},
        }
        columns = [made[name] if name in made else samples[name] for name in INDEX_SCHEMA.names]
        return pa.table(columns, names=INDEX_SCHEMA.names).cast(INDEX_SCHEMA)

    def _of_samples(self) -> pa.Table:
        """What SAMPLES have of the rows, in their order; the rows of a part are taken together."""
        by_part: dict[ColumnFile, list[int]] = {}
        for place, (part, _) in enumerate(self._samples):
            by_part.setdefault(part, []).append(place)
        taken = [
            part.table(_OF_SAMPLES).take([self._samples[place][1] for place in places])
            for part, places in by_part.items()
        ]
        order = np.argsort(np.concatenate([*by_part.values()]))
        return pa.concat_tables(taken).take(order).combine_chunks()
