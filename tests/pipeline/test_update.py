"""Building a finished folder anew: only what changed is done again, and the bytes are those of a build from nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mimicit.errors import CorruptShardError
from mimicit.media import MediaOptions
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.parts import ColumnFile
from mimicit.pipeline.tables import MEDIA_REFERENCES_NAME
from mimicit.shards.verify import verify_folder
from tests.factories import raw as make
from tests.factories.engines import InProcess
from tests.factories.killing import check_every_call

SMALL = BuildConfig(shard_samples=8)


class Recording(InProcess):
    """An engine that remembers what it was asked to do."""

    def __init__(self) -> None:
        self.results: dict[str, list[Any]] = {}
        self.encoded: list[str] = []
        """The references of the media that were decoded."""

    def run(self, function: Callable[..., Any], tasks: Iterable[Any], *, label: str, **options: Any) -> Iterator[Any]:
        for task, result in super().run(function, tasks, label=label, **options):
            self.results.setdefault(label, []).append(result)
            if label == "encode":
                references = ColumnFile(task.work / MEDIA_REFERENCES_NAME)
                self.encoded += [references.text("ref", number) for number in result]
            yield task, result

    @property
    def kept(self) -> int:
        """How many shards were taken over."""
        return sum(self.results["pack"])


def rebuild(raw: Path, out: Path, config: BuildConfig = SMALL, **options: Any) -> Recording:
    """Build ``out`` anew, and check it against a build from nothing."""
    engine = Recording()
    assert not build_shards(raw, out, config, engine=engine, **options or {"overwrite": True}).was_finished
    fresh = out.with_name("fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    build_shards(raw, fresh, config, engine=InProcess())
    assert make.hashes(out) == make.hashes(fresh)
    assert list(verify_folder(out)) == []
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in fresh.iterdir())
    return engine


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make.add_manifest(folder / "raw", "first", pictures=12, questions=2)
    make.add_llava(folder / "raw", "llava_tiny")
    build_shards(folder / "raw", folder / "out", SMALL, engine=InProcess())
    return folder


@pytest.fixture
def built(whole: Path, tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path / "raw", tmp_path / "out"


def test_a_source_that_comes_last_costs_only_itself(built: tuple[Path, Path]) -> None:
    raw, out = built
    make.add_manifest(raw, "second", pictures=20, questions=1)
    shards = len(list(out.glob("shard-*.tar")))
    engine = rebuild(raw, out)
    assert len(engine.encoded) == 20
    assert all("second/images" in ref for ref in engine.encoded)
    assert engine.kept >= shards - 1  # the last one need not have been full


def test_a_source_that_comes_first_is_the_only_one_encoded(built: tuple[Path, Path]) -> None:
    raw, out = built
    make.add_manifest(raw, "a", pictures=5, questions=1)
    engine = rebuild(raw, out)
    assert all("a/images" in ref for ref in engine.encoded)
    assert len(engine.encoded) == 5


def test_a_changed_picture_is_encoded_again_and_no_other(built: tuple[Path, Path]) -> None:
    raw, out = built
    (raw / "first" / "images" / "3.jpg").write_bytes(make.picture(999))
    engine = rebuild(raw, out)
    assert [ref for ref in engine.encoded if "first/images/3.jpg" not in ref] == []
    assert len(engine.encoded) == 1
    assert engine.kept > 0


def test_a_mended_picture_with_retry_rejects(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    make.add_manifest(raw, "first", pictures=12, questions=2)
    whole = (raw / "first" / "images" / "7.jpg").read_bytes()
    (raw / "first" / "images" / "7.jpg").write_bytes(whole[:200])
    build_shards(raw, out, SMALL, engine=InProcess())
    (raw / "first" / "images" / "7.jpg").write_bytes(whole)
    assert len(rebuild(raw, out, retry_rejects=True).encoded) == 1


def test_other_texts_need_no_picture_again(built: tuple[Path, Path]) -> None:
    raw, out = built
    path = raw / "first" / "manifest.jsonl"
    path.write_text(path.read_text().replace("thing 0", "something"))
    assert rebuild(raw, out).encoded == []


@pytest.mark.parametrize("config", [BuildConfig(shard_samples=8, shots=1), BuildConfig(shard_samples=5, seed=3)])
def test_other_context_or_shards_need_no_picture_again(built: tuple[Path, Path], config: BuildConfig) -> None:
    assert rebuild(*built, config).encoded == []


@pytest.mark.parametrize(
    "config",
    [BuildConfig(shard_samples=8, media=MediaOptions(size=24)), BuildConfig(shard_samples=8, near_duplicates=1)],
)
def test_other_pictures_are_encoded_again(built: tuple[Path, Path], config: BuildConfig) -> None:
    assert len(rebuild(*built, config).encoded) == 16


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_shard_is_not_used_again(tmp_path: Path, damage: str) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    alone = BuildConfig(shard_samples=8, shots=0)  # every picture stands in one shard
    make.add_manifest(raw, "first", pictures=12, questions=2)
    build_shards(raw, out, alone, engine=InProcess())
    path = out / "shard-000.tar"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[3000] ^= 1
    path.write_bytes(data if damage == "flip" else data[:1000])
    if damage == "remove":
        path.unlink()
    make.add_manifest(raw, "second", pictures=2, questions=1)
    engine = rebuild(raw, out, alone)
    assert len(engine.encoded) == 4 + 2  # 8 samples ask about 4 pictures
    assert engine.kept == 2


def test_killed_while_building_anew_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    raw, first = tmp_path / "raw", tmp_path / "first"
    make.add_manifest(raw, "first", pictures=24, questions=2)
    build_shards(raw, first, SMALL, engine=InProcess())
    make.add_manifest(raw, "second", pictures=16, questions=2)
    (raw / "first" / "images" / "3.jpg").write_bytes(make.picture(999))

    def anew(out: Path) -> object:
        return build_shards(raw, out, SMALL, engine=InProcess(), overwrite=True)

    assert check_every_call(anew, tmp_path, 29, begun=first) >= 5


def test_a_folder_of_another_format_can_be_built_anew(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    make.add_manifest(raw, "first", pictures=4, questions=1)
    build_shards(raw, out, SMALL, engine=InProcess())
    (out / "manifest.json").write_text('{"format": "mimicit/0"}')
    with pytest.raises(CorruptShardError):
        build_shards(raw, out, SMALL, engine=InProcess())
    assert len(rebuild(raw, out).encoded) == 4
