"""A symbolic link where something of ours is cleared: refused by name, and what it leads to stays as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mimicit.errors import LinkError
from mimicit.exporting import export_shards
from mimicit.loading.storage.shard_files import ShardCache
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.shards.folders import empty_folder, make_folder, refuse_links, remove_folder
from tests.factories import raw as make
from tests.factories.commands import Done, mimicit
from tests.factories.engines import InProcess


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is nobody's to delete, with names that ours have."""
    folder = tmp_path / "outside"
    for name in ("photo.jpg", "build.json", "a.part", "media/x.part", "media/000000000001.bin", "folder/y", "input/z"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    make.add_manifest(folder, pictures=3, questions=1)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def build(raw: Path, out: Path, *options: str) -> Done:
    return mimicit("build", "--src", raw, "--out", out, *options)


@pytest.mark.parametrize("options", [(), ("--overwrite",), ("--retry-rejects",)])
@pytest.mark.parametrize("finished", [False, True])
def test_a_link_for_a_work_folder(
    raw: Path, tmp_path: Path, outside: Path, finished: bool, options: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if finished:
        assert build(raw, out).returncode == 0
    (out / ".mimicit-work").symlink_to(outside)
    before = contents(outside)
    done = build(raw, out, *options, "--seed", "1")
    assert done.returncode == 1
    assert f"{out / '.mimicit-work'}: is a symbolic link" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(outside) == before


@pytest.mark.parametrize("inside", ["media", "former", "index", "similar"])
def test_a_link_inside_the_work_folder_of_a_killed_build(raw: Path, tmp_path: Path, outside: Path, inside: str) -> None:
    out = tmp_path / "out"
    (out / ".mimicit-work").mkdir(parents=True)
    (out / ".mimicit-work" / inside).symlink_to(outside)
    before = contents(outside)
    with pytest.raises(LinkError, match=rf"\.mimicit-work/{inside}: is a symbolic link"):
        build_shards(raw, out, BuildConfig(), engine=InProcess(), overwrite=True)
    assert contents(outside) == before


def test_an_output_folder_may_be_reached_by_a_link(raw: Path, tmp_path: Path) -> None:
    """Whoever gives --out names the folder, and what is cleared is ours there, too."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    build_shards(raw, tmp_path / "out", BuildConfig(), engine=InProcess())
    assert (tmp_path / "disk" / "manifest.json").exists()


def test_a_link_for_the_work_of_an_export(raw: Path, tmp_path: Path, outside: Path) -> None:
    build_shards(raw, tmp_path / "shards", BuildConfig(), engine=InProcess())
    (tmp_path / ".exported.tmp").symlink_to(outside)
    before = contents(outside)
    with pytest.raises(LinkError, match=r"\.exported\.tmp"):
        export_shards(tmp_path / "shards", tmp_path / "exported", "llava")
    assert contents(outside) == before


def test_a_link_for_a_cache(tmp_path: Path, outside: Path) -> None:
    (outside / "ab.tar").write_text("mine")
    (outside / "ab.used").write_text("mine")
    (tmp_path / "mimicit-shards").symlink_to(outside)
    with pytest.raises(LinkError, match="mimicit-shards"):
        ShardCache(tmp_path, 1, [])


@pytest.mark.parametrize("name", ["input", "output"])
def test_a_link_for_the_copies_of_a_build_from_a_url(raw: Path, tmp_path: Path, outside: Path, name: str) -> None:
    pytest.importorskip("fsspec", reason="comes with the extra 'remote'")
    work = tmp_path / "work"
    work.mkdir()
    (work / name).symlink_to(outside)
    before = contents(outside)
    memory = f"memory://{tmp_path.name}"
    src, out = (f"{memory}/raw", str(tmp_path / "out")) if name == "input" else (str(raw), f"{memory}/out")
    import fsspec

    fsspec.filesystem("memory").put(str(raw) + "/", f"/{tmp_path.name}/raw", recursive=True)
    from mimicit.pipeline.remote import build_at
    from mimicit.progress import Silent

    def never(src: Path, out: Path) -> None:
        raise AssertionError("nothing is built")

    with pytest.raises(LinkError, match=name):
        build_at(src, out, never, work=work, overwrite=True, progress=Silent())
    assert contents(outside) == before


def removing(path: Path) -> None:
    remove_folder(path)


@pytest.mark.parametrize("act", [removing, empty_folder, make_folder, refuse_links])
def test_no_step_follows_a_link(tmp_path: Path, outside: Path, act: Callable[[Path], None]) -> None:
    before = contents(outside)
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(LinkError, match="link: is a symbolic link"):
        act(tmp_path / "link")
    assert contents(outside) == before


@pytest.mark.parametrize("act", [removing, empty_folder])
def test_a_link_that_is_inside_goes_alone(tmp_path: Path, outside: Path, act: Callable[[Path], None]) -> None:
    before = contents(outside)
    folder = tmp_path / "ours"
    (folder / "deep").mkdir(parents=True)
    for place in (folder, folder / "deep"):
        (place / "link").symlink_to(outside)
        (place / "file-link").symlink_to(outside / "photo.jpg")
    act(folder)
    assert contents(outside) == before
    assert not folder.exists() or not os.listdir(folder)


def test_what_is_not_there_is_removed_already(tmp_path: Path) -> None:
    remove_folder(tmp_path / "none")
    remove_folder(tmp_path / "none" / "deeper")
    refuse_links(tmp_path / "none")
    (tmp_path / "ours").write_text("a file")
    with pytest.raises(OSError, match="ours"):
        remove_folder(tmp_path / "ours")
