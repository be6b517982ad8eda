"""Finished folders of shards, written without a build: any sample, any number of shards, with hard links or without."""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mimicit.records import Media, Sample, Triplet, sample_to_json
from mimicit.schema import canonical_json, validate
from mimicit.shards.files import sha256_of
from mimicit.shards.index import INDEX_NAME, INDEX_SCHEMA, IndexRow, rows_to_table
from mimicit.shards.tar import BLOCK, END_OF_ARCHIVE, member_header, member_span


def picture_sample(number: int, pictures: Sequence[bytes], *, width: int = 48, height: int = 32) -> Sample:
    """One query after as many context triplets as there are further pictures."""
    media = tuple(
        Media(
            kind="image",
            files=(f"{place:03d}.jpg",),
            width=width,
            height=height,
            sha256=(hashlib.sha256(data).hexdigest(),),
            origin=f"{number}-{place}.jpg",
            data=(data,),
        )
        for place, data in enumerate(pictures)
    )
    last = max(len(media) - 1, 0)
    triplets = tuple(
        Triplet(
            id=f"t{number}-{place}",
            role="query" if place == last else "context",
            media=(place,) if media else (),
            instruction=f"What is picture {place} of {number}?",
            answer=f"thing {number}",
            relation=None if place == last else "random",
        )
        for place in range(last + 1)
    )
    return Sample(id=f"sample-{number}", source="made", media=media, triplets=triplets)


def write_shards(folder: Path, samples: Iterable[Sample], *, per_shard: int = 8, links: bool = False) -> Path:
    """A folder that `mimicit.load` reads. ``links``: media that the shard holds already become hard links."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Any]] = []
    rest = iter(samples)
    with pq.ParquetWriter(folder / INDEX_NAME, INDEX_SCHEMA) as index:
        while part := list(islice(rest, per_shard)):
            name = f"shard-{len(shards):03d}.tar"
            rows, data = _shard(name, part, links)
            (folder / name).write_bytes(data)
            table = rows_to_table(rows)
            index.write_table(table)
            digests = (hashlib.sha256(canonical_json(sample_to_json(sample))).digest() for sample in part)
            contents = hashlib.sha256(b"".join(digests))
            info = {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            shards.append({**info, "samples": len(part), "content": contents.hexdigest()})
    write_manifest(folder, shards, layout="dedupe" if links else "inline")
    return folder


def write_manifest(folder: Path, shards: Sequence[dict[str, Any]], *, layout: str = "inline") -> None:
    """The manifest of the files that lie in ``folder``."""
    counted = pq.read_table(folder / INDEX_NAME)
    sources = Counter(counted.column("source").to_pylist())
    manifest = {
        "format": "mimicit/1",
        "layout": layout,
        "mimicit_version": "0",
        "config": {},
        "input": {"fingerprint": "0" * 64, "files": 0, "bytes": 0},
        "libraries": {},
        "shards": list(shards),
        "files": {INDEX_NAME: sha256_of(folder / INDEX_NAME)},
        "sources": [
            {"name": name, "format": "", "why": "", "in": count, "out": count, "merged": 0, "rejected": {}}
            for name, count in sources.items()
        ],
        "totals": {
            "samples": sum(shard["samples"] for shard in shards),
            "bytes": sum(shard["bytes"] for shard in shards),
            "rejects": 0,
            **{name: pc.sum(counted.column(name)).as_py() for name in ("triplets", "media", "frames", "characters")},
            "relations": dict(Counter(name for row in counted.column("relations").to_pylist() for name in _each(row))),
        },
    }
    validate("manifest", manifest)
    (folder / "manifest.json").write_bytes(canonical_json(manifest))


def _each(counts: dict[str, int]) -> list[str]:
    return [name for name, count in counts.items() for _ in range(count)]


def rewrite_index(folder: Path, change: Any) -> None:
    """Put ``change(table)`` in place of the index, and its checksum into the manifest."""
    import orjson

    table: pa.Table = pq.read_table(folder / INDEX_NAME)
    pq.write_table(change(table), folder / INDEX_NAME)
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    manifest["files"][INDEX_NAME] = sha256_of(folder / INDEX_NAME)
    (folder / "manifest.json").write_bytes(canonical_json(manifest))


def _shard(name: str, samples: Sequence[Sample], links: bool) -> tuple[list[IndexRow], bytes]:
    rows: list[IndexRow] = []
    chunks: list[bytes] = []
    position = 0
    first: dict[str, tuple[str, int]] = {}  # where the bytes with a checksum lie: the member's name and offset
    for sample in samples:
        start, offsets, sizes = position, [], []
        files = [
            (f"{sample.key}.{file}", data, checksum)
            for media in sample.media
            for file, data, checksum in zip(media.files, media.data, media.sha256, strict=True)
        ]
        for member, data, checksum in [(f"{sample.key}.json", canonical_json(sample_to_json(sample)), ""), *files]:
            sizes.append(len(data))
            if links and checksum in first:  # never a JSON: it has no checksum
                target, offset = first[checksum]
                chunks.append(_link_header(member, target))
                offsets.append(offset)
                position += BLOCK
                continue
            if checksum:
                first[checksum] = (member, position + BLOCK)
            chunks += [member_header(member, len(data)), data, bytes(-len(data) % BLOCK)]
            offsets.append(position + BLOCK)
            position += member_span(len(data))
        rows.append(
            IndexRow(
                shard=name,
                key=sample.key,
                offset=start,
                size=position - start,
                member_offsets=offsets,
                member_sizes=sizes,
                sample=sample,
            )
        )
    return rows, b"".join([*chunks, END_OF_ARCHIVE])


def _link_header(name: str, target: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.LNKTYPE, target
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
