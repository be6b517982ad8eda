"""Take a folder of shards apart, change what is in it, and write it again with every checksum and count in order.

For fuzzers and tests: what is wrong with such a folder no checksum shows.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mimicit.records import sample_from_json
from mimicit.schema import canonical_json
from mimicit.shards.files import sha256_of
from mimicit.shards.index import INDEX_NAME, INDEX_SCHEMA, RELATIONS, sample_costs
from mimicit.shards.manifest import MANIFEST_NAME
from mimicit.shards.reader import iterate_shard
from mimicit.shards.tar import Members


@dataclass
class Entry:
    """One stored sample: the name of its members, its JSON, and its files as (suffix, bytes)."""

    key: str
    value: dict[str, Any]
    files: list[tuple[str, bytes]]

    def put_picture(self, place: int, data: bytes, name: str | None = None) -> None:
        """Put ``data`` in place of a file, with its checksum."""
        self.files[place] = (name or self.files[place][0], data)
        number = 0
        for media in self.value["media"]:
            for frame in range(len(media["files"])):
                if number == place:
                    media["sha256"][frame] = hashlib.sha256(data).hexdigest()
                    media["files"][frame] = self.files[place][0]
                number += 1


@dataclass
class Shards:
    """The samples of each shard, the manifest, and the other files."""

    shards: list[list[Entry]]
    manifest: dict[str, Any]
    others: dict[str, bytes]
    names: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Write ``folder`` anew: tars, index and manifest, all of which agree, and the other files as they were."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, data in self.others.items():
            (folder / name).write_bytes(data)
        rows: list[dict[str, Any]] = []
        infos = []
        for number, entries in enumerate(self.shards):
            name = self.names[number] if self.names else f"shard-{number:03d}.tar"
            data, content = self._shard(name, entries, rows)
            (folder / name).write_bytes(data)
            info = {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            infos.append({**info, "samples": len(entries), "content": content})
        pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / INDEX_NAME)
        manifest = orjson.loads(orjson.dumps(self.manifest))
        manifest["shards"] = infos
        _recount(manifest, rows)
        (folder / MANIFEST_NAME).write_bytes(canonical_json(manifest))
        seal_files(folder)
        return folder

    def _shard(self, name: str, entries: list[Entry], rows: list[dict[str, Any]]) -> tuple[bytes, str]:
        members = Members()
        content = hashlib.sha256()
        for entry in entries:
            text = canonical_json(entry.value)
            content.update(hashlib.sha256(text).digest())
            begin = members.position
            for suffix, data in [("json", text), *entry.files]:
                members.add(entry.key.encode(), f".{suffix}".encode(), data)
            offsets, sizes = members.places()
            rows.append(
                {
                    "shard": name,
                    "key": entry.key,
                    "id": str(entry.value.get("id")),
                    "source": str(entry.value.get("source")),
                    "offset": begin,
                    "size": members.position - begin,
                    "member_offsets": offsets,
                    "member_sizes": sizes,
                    **_costs(entry),
                }
            )
        members.end()
        return members.taken(), content.hexdigest()


def read_shards(folder: Path) -> Shards:
    """The content of a sound folder."""
    manifest = orjson.loads((folder / MANIFEST_NAME).read_bytes())
    shards = [
        [
            Entry(
                key=stored.key,
                value=orjson.loads(stored.json),
                files=[
                    (name, data)
                    for media in stored.sample.media
                    for name, data in zip(media.files, media.data, strict=True)
                ],
            )
            for stored in iterate_shard(folder / info["name"])
        ]
        for info in manifest["shards"]
    ]
    others = {name: (folder / name).read_bytes() for name in manifest["files"] if name != INDEX_NAME}
    return Shards(shards, manifest, others)


def seal_files(folder: Path) -> None:
    """Put the checksums and sizes of the files that are there into the manifest."""
    manifest = orjson.loads((folder / MANIFEST_NAME).read_bytes())
    for name in manifest["files"]:
        if (folder / name).is_file():
            manifest["files"][name] = sha256_of(folder / name)
    for shard in manifest["shards"]:
        if (folder / shard["name"]).is_file():
            shard["sha256"] = sha256_of(folder / shard["name"])
            shard["bytes"] = (folder / shard["name"]).stat().st_size
    manifest["totals"]["bytes"] = sum(shard["bytes"] for shard in manifest["shards"])
    (folder / MANIFEST_NAME).write_bytes(canonical_json(manifest))


def _costs(entry: Entry) -> dict[str, Any]:
    try:
        return sample_costs(sample_from_json(entry.value))
    except (LookupError, TypeError, AttributeError):  # a value that no schema allows
        relations = dict.fromkeys(RELATIONS, 0)
        count = len(entry.files)
        return {"relations": relations, "triplets": 1, "media": count, "videos": 0, "frames": count, "characters": 0}


def _recount(manifest: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    totals = manifest["totals"]
    for name in ("triplets", "media", "frames", "characters"):
        totals[name] = sum(row[name] for row in rows)
    totals["samples"] = len(rows)
    relations: Counter[str] = Counter()
    for row in rows:
        relations.update(row["relations"])
    totals["relations"] = {name: count for name, count in relations.items() if count}
    sources = Counter(row["source"] for row in rows)
    for source in manifest["sources"]:
        source["out"] = sources[source["name"]]
        source["in"] = source["out"] + source["merged"] + sum(source["rejected"].values())
