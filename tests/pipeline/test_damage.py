"""What an interrupted build has left may be damaged before it goes on: it is named, and the next build begins anew."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mimicit.errors import BuildError, LinkError
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.progress import Silent
from tests.factories import raw as make
from tests.factories.engines import InProcess

CONFIG = BuildConfig(shard_bytes=20_000)


class Interrupted(Silent):
    def update(self, stage: str, done: int, total: int | None) -> None:
        if stage == "publish":
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``raw``, ``whole`` and a build that was interrupted after its last shard."""
    place = tmp_path_factory.mktemp("damage")
    make.add_manifest(place / "raw", pictures=4, questions=1)
    build_shards(place / "raw", place / "whole", CONFIG, engine=InProcess())
    with pytest.raises(KeyboardInterrupt):
        build_shards(place / "raw", place / "half", CONFIG, engine=InProcess(), progress=Interrupted())
    return place


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def without_footer(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-200] + b"\xff" * 190 + data[-10:])


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, cut) for name in ("import/00000000.json", "triplets.arrow", "plan.json", "index/00000000.parquet")),
        ("media-references.arrow", Path.unlink),
        ("merged.arrow", without_footer),
    ],
)
def test_a_damaged_table_is_named_and_the_build_begins_anew(
    place: Path, tmp_path: Path, name: str, fault: Callable[[Path], None]
) -> None:
    out = shutil.copytree(place / "half", tmp_path / "out")
    fault(out / ".mimicit-work" / name)
    with pytest.raises(BuildError, match=r"\.mimicit-work: what an interrupted build has left there is damaged"):
        build_shards(place / "raw", out, CONFIG, engine=InProcess())
    build_shards(place / "raw", out, CONFIG, engine=InProcess())
    assert make.hashes(out) == make.hashes(place / "whole")


def test_a_damaged_shard_is_packed_again(place: Path, tmp_path: Path) -> None:
    """A bit that flips leaves the size as it was."""
    out = shutil.copytree(place / "half", tmp_path / "out")
    data = bytearray((out / "shard-000.tar").read_bytes())
    data[700] ^= 1
    (out / "shard-000.tar").write_bytes(data)
    build_shards(place / "raw", out, CONFIG, engine=InProcess())
    assert make.hashes(out) == make.hashes(place / "whole")


def test_a_fifo_in_the_work_folder_is_named(place: Path, tmp_path: Path) -> None:
    out = shutil.copytree(place / "half", tmp_path / "out")
    (out / ".mimicit-work" / "plan.json").unlink()
    os.mkfifo(out / ".mimicit-work" / "plan.json")
    with pytest.raises(LinkError, match=r"plan\.json: is no regular file"):
        build_shards(place / "raw", out, CONFIG, engine=InProcess())


def test_what_is_whole_goes_on(place: Path, tmp_path: Path) -> None:
    out = shutil.copytree(place / "half", tmp_path / "out")
    build_shards(place / "raw", out, CONFIG, engine=InProcess())
    assert make.hashes(out) == make.hashes(place / "whole")
