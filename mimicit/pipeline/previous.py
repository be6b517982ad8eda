"""Reuse a finished folder when it is built anew: media that need not be encoded, shards that need not be packed.

A build that replaces a finished folder first sets it aside, inside the work folder. An encoded medium is taken from
there if its input files hold the same bytes and the options are the same, and a shard if it would hold the same
samples. Both are found by checksums, and only shards that still match theirs are used; so the new folder has the bytes
of one that was built from scratch.

``--retry-rejects`` counts how many of the records that an earlier build rejected are in now: because the input was
fixed, or because a decoder that had crashed or taken too long was tried again. Only this count needs the earlier
rejects, which are kept in the work folder until the records have been read again.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimicit.errors import ShardError
from mimicit.pipeline.config import MEDIA_LIMITS, BuildConfig, without_limits
from mimicit.pipeline.engines.local import Engine
from mimicit.pipeline.joins import insert, joins, ordered, rows_of
from mimicit.pipeline.parts import ColumnFile, batched, batches_of_rows, numbered, write_columns
from mimicit.pipeline.rejects import Rejects
from mimicit.pipeline.similarity import compares_pictures
from mimicit.pipeline.stages.importing import part_rejects
from mimicit.pipeline.stages.media_table import MEDIA_NAME, input_digest, library_versions, own_version
from mimicit.pipeline.tables import ENCODED, MEDIA_REFERENCES_NAME, MERGED_NAME, TRIPLETS_NAME
from mimicit.progress import Progress
from mimicit.schema import canonical_json
from mimicit.shards.files import sha256_of, sync_folder, write_atomically
from mimicit.shards.folders import remove_folder
from mimicit.shards.index import INDEX_NAME, iterate_index
from mimicit.shards.manifest import MANIFEST_NAME, read_manifest
from mimicit.sources.files.scanned import ScannedFiles
from mimicit.sources.format import SourceSpec

PREVIOUS_NAME: Final = "previous"
REUSED_NAME: Final = "reused.arrow"
_BATCH: Final = 2_000
_STORED: Final = pa.schema(
    [
        ("place", pa.int64()),
        ("checksums", pa.large_string()),
        ("file", pa.large_string()),
        ("offsets", pa.list_(pa.int64())),
    ]
)
_DESCRIBED: Final = pa.schema(
    [
        ("checksums", pa.large_string()),
        ("ref", pa.large_string()),
        ("content", pa.large_string()),
        ("media", pa.large_binary()),
        ("sizes", pa.list_(pa.int64())),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("bytes", pa.int64()),
        ("fingerprint", pa.large_binary()),
    ]
)
_TABLES: Final = """
CREATE TABLE stored(place BIGINT, checksums VARCHAR, file VARCHAR, offsets BIGINT[]);
CREATE TABLE described(checksums VARCHAR, ref VARCHAR, content VARCHAR, media BLOB, sizes BIGINT[],
    width BIGINT, height BIGINT, bytes BIGINT, fingerprint BLOB);
CREATE TABLE refs(number BIGINT, ref VARCHAR);
"""
_REUSED: Final = """
SELECT number, content, media, first.file, first.offsets, sizes, width, height, bytes, fingerprint,
    NULL AS reason, NULL AS detail
FROM refs JOIN described USING (ref)
JOIN (
    SELECT checksums, file, offsets FROM stored
    QUALIFY row_number() OVER (PARTITION BY checksums ORDER BY place) = 1
) AS first USING (checksums)
ORDER BY number
"""

GIVEN_UP: Final = frozenset(("decoder_died", "timeout", "too_much_memory"))
"""The reasons of rejects that another attempt at the same input may not repeat."""

_PREVIOUS_NAME: Final = "previous-rejects.parquet"
_PREVIOUS: Final = pa.schema([("source", pa.int32()), ("id", pa.large_string()), ("place", pa.large_string())])
_REJECT_TABLES: Final = """
CREATE TABLE previous(source INTEGER, id VARCHAR, place VARCHAR);
CREATE TABLE kept(source INTEGER, id VARCHAR, place VARCHAR);
"""
# A record without an id (a line that was not JSON) is recognized by its place.
_COUNT_MENDED: Final = """
SELECT count(*) FROM previous
ANTI JOIN (SELECT source, id, locator AS place FROM rejects WHERE scope = 'record') AS rejected
    USING (source, id, place)
WHERE CASE WHEN id = '' THEN (source, place) IN (SELECT (source, place) FROM kept)
    ELSE (source, id) IN (SELECT (source, id) FROM kept) END
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousShard:
    """A shard that was set aside: its file, and its entry in the previous manifest."""

    path: Path
    info: Mapping[str, Any]


def set_aside(out: Path, work: Path) -> None:
    """Move the contents of ``out`` into the work folder if it is finished; may be killed and called again."""
    previous = work / PREVIOUS_NAME
    if (out / MANIFEST_NAME).exists():
        remove_folder(previous)
        previous.mkdir()
        os.replace(out / MANIFEST_NAME, previous / MANIFEST_NAME)
        sync_folder(out)
        sync_folder(previous)
    if not (previous / MANIFEST_NAME).exists():
        return
    for path in [*out.glob("shard-*.tar"), out / INDEX_NAME, out / MEDIA_NAME]:
        if path.exists() and not (previous / path.name).exists():
            os.replace(path, previous / path.name)


def previous_shards(work: Path, *, dedupe: bool) -> dict[str, PreviousShard]:
    """The shards that were set aside and that this version can use in that layout, by their content checksum."""
    folder = work / PREVIOUS_NAME
    manifest = _manifest(folder)
    if manifest is None or manifest["config"]["dedupe"] != dedupe:
        return {}
    return {shard["content"]: PreviousShard(path=folder / shard["name"], info=shard) for shard in manifest["shards"]}


def adopt_shard(shard: PreviousShard, path: Path, temporary: Path) -> bool:
    """Link a previous shard to ``path``, or copy it if links fail; returns False if its checksum does not match."""
    if not has_checksum((shard.path, shard.info["sha256"])):
        return False
    temporary.unlink(missing_ok=True)
    try:
        os.link(shard.path, temporary)
    except OSError:  # this file system has no hard links
        shutil.copyfile(shard.path, temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)
    return True


def previous_index(work: Path, shard: PreviousShard) -> pa.Table:
    """The rows of ``shard`` in the previous index."""
    path = work / PREVIOUS_NAME / INDEX_NAME
    return pq.read_table(path, filters=pc.field("shard") == shard.info["name"])


def reuse_media(work: Path, scanned: ScannedFiles, config: BuildConfig, engine: Engine, progress: Progress) -> None:
    """Write the table of media that the previous shards hold encoded, once; the others have yet to be encoded."""
    folder = work / PREVIOUS_NAME
    manifest = _manifest(folder)
    if (work / REUSED_NAME).exists() or manifest is None or not _encodes_alike(manifest, config):
        return
    for name in (INDEX_NAME, MEDIA_NAME):  # they describe the media
        if not has_checksum((folder / name, manifest["files"].get(name, ""))):
            progress.note(f"{name} of the folder that was there is not the one of its manifest; nothing of it is used")
            return
    sound = _sound_shards(folder, manifest, engine, progress)
    with joins(work) as db:
        db.execute(_TABLES)
        insert(db, "stored", batches_of_rows(_stored_media(folder, sound), _STORED))
        insert(db, "described", batches_of_rows(_described(folder / MEDIA_NAME, scanned), _DESCRIBED))
        insert(db, "refs", numbered(work / MEDIA_REFERENCES_NAME, ["ref"]))
        write_columns(work / REUSED_NAME, ENCODED, ordered(db, _REUSED, ENCODED))
    reused = ColumnFile(work / REUSED_NAME).rows
    progress.note(f"{reused} media are taken from the shards that are there")


def damaged_previous_shards(work: Path, names: Iterable[str], engine: Engine, progress: Progress) -> list[Path]:
    """The previous shards among ``names`` (relative to the work folder) that no longer match their checksum."""
    folder = work / PREVIOUS_NAME
    manifest = _manifest(folder)
    sound = frozenset() if manifest is None else _sound_shards(folder, manifest, engine, progress)
    return [work / name for name in names if Path(name).name not in sound]


def _manifest(folder: Path) -> dict[str, Any] | None:
    """The previous manifest, if this version can use the folder."""
    try:
        manifest = read_manifest(folder)
    except ShardError:
        return None
    return manifest if manifest["mimicit_version"] == own_version() else None


def _encodes_alike(manifest: Mapping[str, Any], config: BuildConfig) -> bool:
    """Whether the same input would be encoded to the same bytes, and has fingerprints if this build needs them."""
    now = orjson.loads(orjson.dumps(config.to_json()))
    then = manifest["config"]
    looks = not compares_pictures(now) or compares_pictures(then)
    raised = all(now["media"][name] >= then["media"].get(name, 0) for name in MEDIA_LIMITS)  # what is sound stays so
    same = without_limits(now)["media"] == without_limits(then)["media"]
    return bool(raised and same and library_versions() == manifest["libraries"] and looks)


def _sound_shards(folder: Path, manifest: Mapping[str, Any], engine: Engine, progress: Progress) -> frozenset[str]:
    """The names of the shards that still match their checksum."""
    tasks = [(folder / shard["name"], shard["sha256"]) for shard in manifest["shards"]]
    results = engine.run(has_checksum, tasks, label="check previous shards", progress=progress, total=len(tasks))
    return frozenset(path.name for (path, _), sound in results if sound)


def has_checksum(task: tuple[Path, str]) -> bool:
    """Whether the file at a path has that SHA-256."""
    path, checksum = task
    try:
        return sha256_of(path) == checksum
    except OSError:  # it is missing, or not a file
        return False


def _stored_media(folder: Path, sound: frozenset[str]) -> Iterator[tuple[Any, ...]]:
    """(place, checksums of its files, shard, their offsets) of every medium of every sample in the ``sound`` shards."""
    place = 0
    for batch in batched(iterate_index(folder), _BATCH):
        for row in batch:
            if row["shard"] not in sound:
                continue
            with open(folder / row["shard"], "rb") as file:
                offsets, sizes = row["member_offsets"], row["member_sizes"]
                file.seek(offsets[0])
                value = orjson.loads(file.read(sizes[0]))
            start = 1
            for media in value["media"]:
                stop = start + len(media["files"])
                checksums = canonical_json(media["sha256"]).decode()
                yield place, checksums, f"{PREVIOUS_NAME}/{row['shard']}", offsets[start:stop]
                start = stop
                place += 1


def _described(path: Path, scanned: ScannedFiles) -> Iterator[tuple[Any, ...]]:
    """Rows of `_DESCRIBED` from the previous table, for the media whose input is unchanged."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH):
            for row in batch.to_pylist():
                if input_digest(row["ref"], scanned) == row["input"]:
                    checksums = canonical_json(orjson.loads(row["media"])["sha256"]).decode()
                    yield (checksums, *(row[name] for name in _DESCRIBED.names[1:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """``rejected`` records were rejected by the build before; ``fixed`` of them are in now."""

    rejected: int
    fixed: int


def has_reason(table: bytes, reasons: Collection[str]) -> bool:
    """Whether a ``rejects.parquet`` has a row with one of the ``reasons``; False if it is unreadable."""
    try:
        with pq.ParquetFile(io.BytesIO(table)) as file:
            batches = file.iter_batches(columns=["reason"])
            return any(not set(reasons).isdisjoint(batch.column(0).to_pylist()) for batch in batches)
    except (pa.ArrowException, OSError, ValueError):
        return False


def keep_previous_rejects(work: Path, table: bytes) -> None:
    """Keep the ``rejects.parquet`` of an earlier build for `count_retried`."""
    write_atomically(work / _PREVIOUS_NAME, [table])


def count_retried(work: Path, specs: Sequence[SourceSpec]) -> Retried | None:
    """Compare the rejects of the earlier build, if any were kept, with what is usable now."""
    path = work / _PREVIOUS_NAME
    if not path.exists():
        return None
    numbers = {spec.name: number for number, spec in enumerate(specs)}
    rejected = 0
    with joins(work) as db, pq.ParquetFile(path) as file:
        db.execute(_REJECT_TABLES)
        Rejects(db, work, part_rejects(work))  # makes the table ``rejects`` of the query below
        for batch in file.iter_batches(columns=["scope", "source", "id", "locator"]):
            rows = [row for row in batch.to_pylist() if row["scope"] == "record"]
            rejected += len(rows)
            known = [(numbers[row["source"]], row["id"], row["locator"]) for row in rows if row["source"] in numbers]
            insert(db, "previous", batches_of_rows(known, _PREVIOUS))
        for name in (TRIPLETS_NAME, MERGED_NAME):
            insert(db, "kept", ColumnFile(work / name).table(["source", "id", "place"]).to_batches())
        (counted,) = rows_of(db, _COUNT_MENDED)
    return Retried(rejected=rejected, fixed=counted[0])
