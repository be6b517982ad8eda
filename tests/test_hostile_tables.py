"""Tiny files that unpack to gigabytes: no process of a build takes over 512 MB, and what is sound comes out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimicit.loading import load
from tests.factories.bombs import BOMBS, MEBIBYTE, Taken, measured, put_sound_record

MAX_PROCESS_BYTES = 512 * MEBIBYTE
MAX_CPU_SECONDS_EACH = 10  # of all processes together
REASONS: dict[str, set[str]] = {
    "parquet: a dictionary of one text": {"too_long", "too_much_memory"},
    "parquet: a dictionary of one picture": set(),
    "parquet: a page of one text": {"too_long", "too_much_memory"},
    "parquet: columns": {"malformed"},
    "parquet: fields of a column": {"malformed"},
    "parquet: related ids": {"too_long"},
    "Arrow: a dictionary": {"too_long", "too_much_memory"},
    "JSON Lines: related ids": {"too_long"},
    "JSON Lines: references": {"too_many_pictures"},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Taken, Path]]:
    """What one build took that met all of them, and its folder."""
    place = tmp_path_factory.mktemp("bombs")
    put_sound_record(place / "raw")
    for number, write in enumerate(BOMBS.values()):
        folder = place / "raw" / f"{number:02d}"
        folder.mkdir()
        write(folder)
    arguments = ("--src", str(place / "raw"), "--out", str(place / "out"), "--context", "none", "--workers", "2")
    yield measured("build", *arguments), place / "out"
    shutil.rmtree(place)


def test_a_build_of_small_files_that_unpack_to_gigabytes_is_bounded(built: tuple[Taken, Path]) -> None:
    taken, out = built
    assert taken.code == 0, taken.output
    assert taken.peak_bytes <= MAX_PROCESS_BYTES
    assert taken.cpu_seconds <= MAX_CPU_SECONDS_EACH * len(BOMBS)
    assert "a sound record" in {sample.query.answer for sample in load(out)}


@pytest.mark.parametrize("name", BOMBS)
def test_each_is_counted(built: tuple[Taken, Path], name: str) -> None:
    sources = json.loads((built[1] / "manifest.json").read_text())["sources"]
    (bomb,) = [source for source in sources if source["name"].startswith(f"{list(BOMBS).index(name):02d}")]
    reasons = REASONS.get(name, {"too_much_memory"})
    assert bomb["rejected"].keys() <= reasons and bool(bomb["rejected"]) == bool(reasons)
    assert bomb["in"] == bomb["out"] + bomb["merged"] + sum(bomb["rejected"].values())
