"""A small build with its outcome, after the checks that hold for every build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from mimicit.loading import load
from mimicit.pipeline import BuildConfig, BuildResult, build_shards
from mimicit.pipeline.engines.local import LocalEngine
from mimicit.records import Sample
from mimicit.schema import validate
from mimicit.shards.verify import verify_folder
from tests.factories import raw as make
from tests.factories.engines import InProcess


class Built(NamedTuple):
    result: BuildResult
    sources: dict[str, dict[str, Any]]  # rows of the manifest, by name
    rejects: list[dict[str, Any]]  # without the files that nobody uses
    unused: list[str]  # those files
    samples: dict[str, Sample]  # by id


def build(src: Path, out: Path, config: BuildConfig, *, workers: int = 1, **options: Any) -> Built:
    result = build_shards(
        src, out, config, **{"engine": InProcess() if workers == 1 else LocalEngine(workers), **options}
    )
    rejects: list[dict[str, Any]] = pq.read_table(out / "rejects.parquet").to_pylist()
    for reject in rejects:
        validate("reject", reject)
        assert reject["detail"]
    assert list(verify_folder(out)) == []
    sources = {source["name"]: source for source in result.manifest["sources"]}
    for name, source in sources.items():
        assert source["in"] == source["out"] + source["merged"] + sum(source["rejected"].values()), name
        mine = [reject for reject in rejects if reject["source"] == name and reject["scope"] == "record"]
        assert len(mine) == sum(source["rejected"].values()), name
    samples = list(load(out))
    assert len(samples) == sum(source["out"] for source in sources.values())
    unused = [reject["locator"] for reject in rejects if reject["reason"].startswith("unused_")]
    rejects = [reject for reject in rejects if not reject["reason"].startswith("unused_")]
    return Built(result, sources, rejects, unused, {sample.id: sample for sample in samples})


def add_rows(folder: Path, pictures: Mapping[str, bytes], rows: list[dict[str, Any]]) -> None:
    """A manifest of ``rows`` beside ``pictures``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    make.write_manifest(folder, rows)


def row(id: str, media: str | None = None, **fields: Any) -> dict[str, Any]:
    value = {"id": id, "instruction": f"What is {id}?", "answer": f"It is {id}.", **fields}
    return value if media is None else {**value, "media": media}
