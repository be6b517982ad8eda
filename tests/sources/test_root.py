from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.files.root import Root
from tests.factories.sources import put


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``raw`` with a few files, beside a secret that links inside it point to."""
    place = tmp_path_factory.mktemp("root")
    put(place, "secret.txt", "secret")
    raw = place / "raw"
    put(raw, "a.txt", "inside")
    put(raw, "b/c.txt", "inside")
    put(raw, "b/.hidden", "hidden")
    (raw / "link.txt").symlink_to(place / "secret.txt")
    (raw / "inner.txt").symlink_to("a.txt")
    (raw / "up").symlink_to(place)
    os.mkfifo(raw / "pipe")
    (raw / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"latin-1")
    return raw


def reason(root: Root, path: str) -> str:
    with pytest.raises(RejectedError) as caught:
        root.resolve(path)
    return caught.value.reason


def test_walk_lists_regular_files_and_tells_what_it_skips(folder: Path) -> None:
    skipped: list[tuple[str, str]] = []
    assert list(Root(folder).walk(lambda path, why: skipped.append((path, why)))) == [("a.txt", 6), ("b/c.txt", 6)]
    assert sorted(path for path, _ in skipped) == [
        "b/.hidden", "caf\\xe9.txt", "inner.txt", "link.txt", "pipe", "up",
    ]  # fmt: skip


def test_walk_leaves_out_excluded_folders(folder: Path) -> None:
    assert [path for path, _ in Root(folder, exclude=[folder / "b"]).walk()] == ["a.txt"]


def test_no_folder_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        Root(tmp_path / "none")


@pytest.mark.parametrize(
    ("path", "clean"),
    [("a.txt", "a.txt"), ("./b//c.txt", "b/c.txt"), ("b/../a.txt", "a.txt"), ("b\\c.txt", "b/c.txt")],
)
def test_resolve_cleans_a_path(folder: Path, path: str, clean: str) -> None:
    assert Root(folder).resolve(path) == clean


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("../secret.txt", "outside_root"),
        ("b/../../secret.txt", "outside_root"),
        ("..\\secret.txt", "outside_root"),
        ("/etc/passwd", "outside_root"),
        ("C:\\boot.ini", "outside_root"),
        ("link.txt", "outside_root"),
        ("inner.txt", "outside_root"),
        ("up/secret.txt", "outside_root"),
        ("none.txt", "missing_file"),
        ("a.txt/b", "missing_file"),
        ("b", "missing_file"),
        ("pipe", "missing_file"),
        ("http://images.cocodataset.org/1.jpg", "missing_file"),
        ("x" * 5000, "malformed"),
        ("", "malformed"),
        ("a\0.txt", "malformed"),
        ("caf\udce9.txt", "malformed"),
    ],
)
def test_resolve_refuses(folder: Path, path: str, expected: str) -> None:
    assert reason(Root(folder), path) == expected


@given(st.text(st.sampled_from("./\\abc\0x:") | st.characters(), max_size=30))
@example("up/../a.txt")
def test_resolve_never_leaves_the_root(folder: Path, path: str) -> None:
    root = Root(folder)
    try:
        clean = root.resolve(path)
    except RejectedError:
        return
    with root.open(clean) as file:
        assert os.readlink(f"/proc/self/fd/{file.fileno()}").startswith(f"{folder}/")
        assert file.read() == b"inside"


def test_resolve_takes_the_first_folder_that_holds_the_file(tmp_path: Path) -> None:
    for path in ("both.jpg", "m/both.jpg", "top.jpg", "m/images/deep.jpg"):
        put(tmp_path, path, b"x")
    root = Root(tmp_path)
    beside = ("m", "", "m/images")
    assert root.resolve("both.jpg", beside=beside) == "m/both.jpg"
    assert root.resolve("top.jpg", beside=beside) == "top.jpg"
    assert root.resolve("../top.jpg", beside=beside) == "top.jpg"
    assert root.resolve("deep.jpg", beside=beside) == "m/images/deep.jpg"
    with pytest.raises(RejectedError, match="missing_file"):
        root.resolve("../none.jpg", beside=beside)


def test_open_input_makes_absence_a_fault_of_the_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.json"):
        Root(tmp_path).open_input("gone.json")
