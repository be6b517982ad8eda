"""What a finished folder is good for when it is built anew: media that need no decoding, shards that need no packing.

A build that replaces a finished folder first sets it aside, inside the work folder. An encoded medium is taken from
there when its input files hold the same bytes and the options are the same, and a shard when it would hold the same
samples. Both are found by checksums, and only shards that still have theirs are used; so the new folder has the bytes
of one that was built from nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimicit.build.batches import batched
from mimicit.build.catalog import Catalog
from mimicit.build.config import MEDIA_LIMITS, BuildConfig, without_limits
from mimicit.build.engine import Engine
from mimicit.build.media_table import MEDIA_NAME, input_digest, library_versions
from mimicit.build.progress import Progress
from mimicit.build.similar_options import compares_pictures
from mimicit.errors import ShardError
from mimicit.schema import canonical_json
from mimicit.shards.files import sha256_of, sync_folder
from mimicit.shards.folders import remove_folder
from mimicit.shards.index import INDEX_NAME, iterate_index
from mimicit.shards.manifest import MANIFEST_NAME, read_manifest
from mimicit.sources.scanned import ScannedFiles

__all__ = [
    "FORMER_NAME",
    "FormerShard",
    "adopt_shard",
    "damaged_former_shards",
    "former_index",
    "former_shards",
    "reuse_media",
    "set_aside",
]

FORMER_NAME: Final = "former"
_BATCH: Final = 2_000
_STAGE: Final = "reuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerShard:
    """A shard that was set aside: its file, and its entry in the former manifest."""

    path: Path
    info: Mapping[str, Any]


def set_aside(out: Path, work: Path) -> None:
    """Move the finished folder ``out``, if it is one, into the work folder; may be killed and called again."""
    former = work / FORMER_NAME
    if (out / MANIFEST_NAME).exists():
        remove_folder(former)
        former.mkdir()
        os.replace(out / MANIFEST_NAME, former / MANIFEST_NAME)
        sync_folder(out)
        sync_folder(former)
    if not (former / MANIFEST_NAME).exists():
        return
    for path in [*out.glob("shard-*.tar"), out / INDEX_NAME, out / MEDIA_NAME]:
        if path.exists() and not (former / path.name).exists():
            os.replace(path, former / path.name)


def former_shards(work: Path, *, dedupe: bool) -> dict[str, FormerShard]:
    """The shards that were set aside and can stand in this version's folders of that layout, by what they hold."""
    folder = work / FORMER_NAME
    manifest = _manifest(folder)
    if manifest is None or manifest["config"]["dedupe"] != dedupe:
        return {}
    return {shard["content"]: FormerShard(path=folder / shard["name"], info=shard) for shard in manifest["shards"]}


def adopt_shard(shard: FormerShard, path: Path, temporary: Path) -> bool:
    """Give a former shard the name ``path`` as well, if it still has its checksum; where links fail, copy it."""
    if not _is_sound((shard.path, shard.info["sha256"])):
        return False
    temporary.unlink(missing_ok=True)
    try:
        os.link(shard.path, temporary)
    except OSError:  # this file system has no hard links
        shutil.copyfile(shard.path, temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)
    return True


def former_index(work: Path, shard: FormerShard) -> pa.Table:
    """The rows of ``shard`` in the former index."""
    path = work / FORMER_NAME / INDEX_NAME
    return pq.read_table(path, filters=pc.field("shard") == shard.info["name"])


def reuse_media(
    catalog: Catalog, work: Path, scanned: ScannedFiles, config: BuildConfig, engine: Engine, progress: Progress
) -> None:
    """Note in the catalog which media lie encoded in the former shards; the others stay to be encoded."""
    folder = work / FORMER_NAME
    manifest = _manifest(folder)
    if catalog.is_done(_STAGE) or manifest is None or not _encodes_alike(manifest, config):
        return
    for name in (INDEX_NAME, MEDIA_NAME):  # they say what the media are
        if not _is_sound((folder / name, manifest["files"].get(name, ""))):
            progress.note(f"{name} of the folder that was there is not the one of its manifest; nothing of it is used")
            return
    sound = _sound_shards(folder, manifest, engine, progress)
    with catalog.transaction():
        catalog.db.execute("CREATE TEMP TABLE known(files TEXT PRIMARY KEY, file TEXT, offsets TEXT) WITHOUT ROWID")
        for files, shard, offsets in _stored_media(folder, sound):
            place = (files, f"{FORMER_NAME}/{shard}", orjson.dumps(offsets).decode())
            catalog.db.execute("INSERT OR IGNORE INTO known VALUES (?, ?, ?)", place)
        reused = sum(_reuse(catalog, scanned, row) for row in _table_rows(folder / MEDIA_NAME))
        catalog.db.execute("DROP TABLE known")
        catalog.mark_done(_STAGE)
    progress.note(f"{reused} media are taken from the shards that are there")


def damaged_former_shards(work: Path, names: Iterable[str], engine: Engine, progress: Progress) -> list[Path]:
    """Those of the former shards ``names``, relative to the work folder, that have lost their checksum."""
    folder = work / FORMER_NAME
    manifest = _manifest(folder)
    sound = frozenset() if manifest is None else _sound_shards(folder, manifest, engine, progress)
    return [work / name for name in names if Path(name).name not in sound]


def _manifest(folder: Path) -> dict[str, Any] | None:
    """The former manifest, if this version can use the folder."""
    try:
        manifest = read_manifest(folder)
    except ShardError:
        return None
    return manifest if manifest["mimicit_version"] == version("mimicit") else None


def _encodes_alike(manifest: Mapping[str, Any], config: BuildConfig) -> bool:
    """Whether the same input would be encoded to the same bytes, and as much would be known about it."""
    now = orjson.loads(orjson.dumps(config.to_json()))
    then = manifest["config"]
    looks = not compares_pictures(now) or compares_pictures(then)
    raised = all(now["media"][name] >= then["media"].get(name, 0) for name in MEDIA_LIMITS)  # what is sound stays so
    same = without_limits(now)["media"] == without_limits(then)["media"]
    return bool(raised and same and library_versions() == manifest["libraries"] and looks)


def _sound_shards(folder: Path, manifest: Mapping[str, Any], engine: Engine, progress: Progress) -> frozenset[str]:
    """The names of the shards that still have their checksum."""
    tasks = [(folder / shard["name"], shard["sha256"]) for shard in manifest["shards"]]
    results = engine.run(_is_sound, tasks, label="check former shards", progress=progress, total=len(tasks))
    return frozenset(path.name for (path, _), sound in results if sound)


def _is_sound(task: tuple[Path, str]) -> bool:
    path, checksum = task
    try:
        return sha256_of(path) == checksum
    except OSError:  # it is not there, or is no file
        return False


def _stored_media(folder: Path, sound: frozenset[str]) -> Iterator[tuple[str, str, list[int]]]:
    """(checksums of its files, shard, their offsets there) of every medium of every sample in the ``sound`` shards."""
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
                yield canonical_json(media["sha256"]).decode(), row["shard"], offsets[start:stop]
                start = stop


def _table_rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH):
            yield from batch.to_pylist()


def _reuse(catalog: Catalog, scanned: ScannedFiles, row: Mapping[str, Any]) -> bool:
    """Fill in the medium that ``row`` of the former table describes, if this build has it and it is unchanged."""
    medium = catalog.db.execute("SELECT id FROM medium WHERE ref = ? AND NOT done", (row["ref"],)).fetchone()
    if medium is None or input_digest(row["ref"], scanned) != row["input"]:
        return False
    files = canonical_json(orjson.loads(row["media"])["sha256"]).decode()
    place = catalog.db.execute("SELECT file, offsets FROM known WHERE files = ?", (files,)).fetchone()
    if place is None:
        return False
    catalog.db.execute(
        "UPDATE medium SET done = 1, content = ?, media = ?, file = ?, offsets = ?, sizes = ?,"
        " width = ?, height = ?, bytes = ?, fingerprint = ? WHERE id = ?",
        (
            *(row["content"], row["media"], *place, orjson.dumps(row["sizes"]).decode()),
            *(row["width"], row["height"], row["bytes"], row["fingerprint"], medium[0]),
        ),
    )
    return True
