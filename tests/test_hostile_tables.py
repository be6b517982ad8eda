"""Tiny files that unpack to gigabytes: no process of a build takes over 512 MB for one, and what is sound comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mimicit.loading import load
from tests.factories.bombs import BOMBS, MEBIBYTE, measured, put_sound_record

MAX_PROCESS_BYTES = 512 * MEBIBYTE
MAX_CPU_SECONDS = 30  # of all processes together
REASONS: dict[str, set[str]] = {
    "parquet: a dictionary of one text": {"too_long", "too_much_memory"},
    "parquet: a dictionary of one picture": set(),
    "parquet: a page of one text": {"too_long", "too_much_memory"},
    "parquet: columns": {"malformed"},
    "parquet: related ids": {"too_long"},
    "Arrow: a dictionary": {"too_long", "too_much_memory"},
    "JSON Lines: related ids": {"too_long"},
    "JSON Lines: references": {"too_many_pictures"},
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_unpacks_to_gigabytes_is_counted_and_bounded(tmp_path: Path, name: str) -> None:
    src, out = tmp_path / "raw", tmp_path / "out"
    (src / "bomb").mkdir(parents=True)
    put_sound_record(src)
    BOMBS[name](src / "bomb")
    taken = measured("build", "--src", str(src), "--out", str(out), "--context", "none", "--workers", "2")
    assert taken.code == 0, taken.output
    assert taken.peak_bytes <= MAX_PROCESS_BYTES and taken.cpu_seconds <= MAX_CPU_SECONDS
    sources = {source["name"]: source for source in json.loads((out / "manifest.json").read_text())["sources"]}
    assert sources.pop("sound")["out"] == 1
    ((_, bomb),) = sources.items()
    reasons = REASONS.get(name, {"too_much_memory"})
    assert bomb["rejected"].keys() <= reasons and bool(bomb["rejected"]) == bool(reasons)
    assert bomb["in"] == bomb["out"] + bomb["merged"] + sum(bomb["rejected"].values())
    assert "a sound record" in {sample.query.answer for sample in load(out)}
