"""Folders to look at, the viewer as a process, and Chromium where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimicit.pipeline import BuildConfig, build_shards
from mimicit.shards.files import sha256_of
from mimicit.shards.index import read_index
from tests.factories import raw as make
from tests.factories.engines import InProcess

SCRIPT = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
RIGHT_TO_LEFT = "‮שלום مرحبا abc"
LONG_LINE = "x" * 100_000

BROWSER_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


def hostile_folder(root: Path) -> Path:
    """Shards of every kind of source, with texts that would act on a careless page, and one reject."""
    make.make_raw(root / "raw")
    folder = root / "raw" / "hostile"
    (folder / "images").mkdir(parents=True)
    for number in range(3):
        (folder / "images" / f"{number}.jpg").write_bytes(make.picture(number, 64, 48))
    make.write_manifest(
        folder,
        [
            {"id": SCRIPT, "instruction": SCRIPT, "answer": SCRIPT, "media": "images/0.jpg"},
            {
                "id": "right",
                "instruction": RIGHT_TO_LEFT,
                "answer": RIGHT_TO_LEFT,
                "media": "images/1.jpg",
                "meta": {"model": SCRIPT, "recipe": "detail"},
            },
            {"id": "long", "instruction": "What is long?", "answer": LONG_LINE, "media": "images/2.jpg"},
            {"id": SCRIPT + "2", "instruction": "Where?", "answer": "Gone", "media": f"images/{SCRIPT[:9]}.jpg"},
        ],
    )
    return built(root / "raw", root / "shards")


def built(src: Path, out: Path, **options: Any) -> Path:
    """Shards of ``src`` in ``out``."""
    build_shards(src, out, BuildConfig(**options), engine=InProcess())
    return out


def many_rejects(folder: Path, target: Path, rows: int) -> Path:
    """``folder`` with a table of so many rejects, two in three of them missing files, in place of its own."""
    shutil.copytree(folder, target)
    kinds = [("missing_file", "'{}.jpg' is gone"), ("missing_file", SCRIPT), ("empty_answer", "the answer is empty")]
    pq.write_table(
        pa.table(
            {
                "scope": ["record"] * rows,
                "reason": [kinds[number % 3][0] for number in range(rows)],
                "source": ["own"] * rows,
                "locator": [f"own/manifest.jsonl:{number + 1}" for number in range(rows)],
                "id": [f"id {number}" for number in range(rows)],
                "detail": [kinds[number % 3][1].format(number) for number in range(rows)],
            }
        ),
        target / "rejects.parquet",
    )
    return target


def many_rows(folder: Path, target: Path, rows: int) -> Path:
    """A folder whose index says that the samples of ``folder`` lie in its shard again and again, under other keys."""
    target.mkdir()
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    (shard,) = manifest["shards"]
    shutil.copy(folder / shard["name"], target / shard["name"])
    shutil.copy(folder / "rejects.parquet", target / "rejects.parquet")
    table = read_index(folder)
    table = table.take(pa.array(np.arange(rows) % len(table)))
    keys = pa.array([f"key-{number:07d}" for number in range(rows)])
    ids = pa.array([f"id {number}" for number in range(rows)])
    table = table.set_column(table.schema.get_field_index("key"), "key", keys)
    table = table.set_column(table.schema.get_field_index("id"), "id", ids)
    pq.write_table(table, target / "index.parquet")
    more = rows - shard["samples"]
    shard["samples"] = manifest["totals"]["samples"] = rows
    manifest["sources"][0]["in"] += more
    manifest["sources"][0]["out"] += more
    manifest["files"]["index.parquet"] = sha256_of(target / "index.parquet")
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


@contextmanager
def running_viewer(
    folder: Path, *arguments: str, cache: Path | None = None, program: Sequence[str] = ("-m", "mimicit")
) -> Iterator[str]:
    """The address of ``mimicit view`` over ``folder`` at a free port."""
    environment = {**os.environ, **({"MIMICIT_CACHE": str(cache)} if cache else {})}
    command = [sys.executable, *program, "view", str(folder), "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip().removeprefix(f"{folder}: ")
        finally:
            process.terminate()


@contextmanager
def chromium(folder: Path, **options: Any) -> Iterator[Any]:
    """A context of Playwright over Debian's Chromium, its profile in ``folder``; skips where either is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="comes with the extra 'dev'")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(folder), executable_path=path, headless=True, args=list(BROWSER_FLAGS), **options
        )
        try:
            yield context
        finally:
            context.close()


def axe_script() -> str:
    """The source of axe-core; skips where it is missing."""
    package = pytest.importorskip("axe_playwright_python", reason="comes with the extra 'dev'")
    return (Path(package.__path__[0]) / "axe.min.js").read_text()
