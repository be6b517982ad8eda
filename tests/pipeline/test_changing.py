"""Input that changes while it is built from: what is read is what was hashed, or the build stops and names the file."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimicit.errors import BuildError, ChangedInputError
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.engines.local import LocalEngine
from mimicit.progress import Silent
from tests.factories import raw as make
from tests.factories.engines import InProcess
from tests.factories.processes import descendants
from tests.factories.sources import jpeg

ROWS = 40_000  # so that reading them takes a while


class During(Silent):
    """Does something once, when ``stage`` begins or has done a part."""

    def __init__(self, stage: str, act: Callable[[], object], done: int = 0) -> None:
        self._stage, self._act, self._done = stage, act, done
        self.acted = False

    def update(self, stage: str, done: int, total: int | None) -> None:
        if not self.acted and stage.startswith(self._stage) and done >= self._done:
            self.acted = True
            self._act()


def build(raw: Path, out: Path, progress: During | None = None, **options: Any) -> dict[str, Any]:
    result = build_shards(raw, out, BuildConfig(), progress=progress, **{"engine": InProcess(), **options})
    assert progress is None or progress.acted
    return result.manifest


def swapped(path: Path, content: bytes, how: str) -> None:
    """Replace the file: by name, in its place, or in its place with its old times."""
    status = path.stat()
    if how == "renamed":
        path.with_name("other").write_bytes(content)
        os.replace(path.with_name("other"), path)
    elif how == "gone":
        path.unlink()
    else:
        path.write_bytes(content)
    if how == "same times":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def as_file(raw: Path) -> tuple[Path, bytes]:
    make.add_manifest(raw, pictures=40, questions=1)
    path = raw / "own" / "images" / "7.jpg"
    return path, make.picture(999)


def as_clip(raw: Path) -> tuple[Path, bytes]:
    raw.mkdir()
    make.clip(raw / "7.mp4")
    make.clip(raw / "other.mp4", frames=5)
    make.write_manifest(raw, [{"id": "7", "media": "7.mp4", "instruction": "What?", "answer": "A shade."}])
    content = (raw / "other.mp4").read_bytes()
    (raw / "other.mp4").unlink()
    return raw / "7.mp4", content


def in_tar(raw: Path) -> tuple[Path, bytes]:
    raw.mkdir()

    def content(first: int) -> bytes:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            for number in range(6):
                for suffix, part in (("jpg", make.picture(first + number)), ("txt", b"A picture.")):
                    info = tarfile.TarInfo(f"{number:05d}.{suffix}")
                    info.size = len(part)
                    archive.addfile(info, io.BytesIO(part))
        return data.getvalue()

    (raw / "00000.tar").write_bytes(content(0))
    return raw / "00000.tar", content(50)


def in_parquet(raw: Path) -> tuple[Path, bytes]:
    raw.mkdir()

    def content(first: int) -> bytes:
        pictures = [{"bytes": make.picture(first + number), "path": f"{number}.jpg"} for number in range(6)]
        table = {"image": pictures, "question": ["What?"] * 6, "answer": [f"Thing {n}." for n in range(6)]}
        data = io.BytesIO()
        pq.write_table(pa.table(table), data)
        return data.getvalue()

    (raw / "train.parquet").write_bytes(content(0))
    return raw / "train.parquet", content(50)


def in_json(raw: Path) -> tuple[Path, bytes]:
    make.add_mimicit(raw)
    path = raw / "LA" / "LA.json"
    pictures = json.loads(path.read_text())
    names = list(pictures)
    return path, json.dumps(dict(zip(names, reversed(list(pictures.values())), strict=True))).encode()


KINDS = {"file": as_file, "clip": as_clip, "tar": in_tar, "parquet": in_parquet, "json": in_json}


@pytest.mark.parametrize(
    ("kind", "how"),
    [*(("file", how) for how in ("renamed", "in place", "same times", "gone")), ("clip", "renamed")]
    + [(kind, "same times") for kind in KINDS if kind != "file"],
)
def test_media_that_change_before_they_are_encoded(tmp_path: Path, kind: str, how: str) -> None:
    """Nothing of the other content may reach a shard, and the folder that was begun belongs to what was hashed."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    path, content = KINDS[kind](raw)
    with pytest.raises(BuildError, match=rf"{path.name}: changed while the build was running"):
        build(raw, out, During("encode", lambda: swapped(path, content, how)))
    assert not list(out.glob("shard-*"))
    if how != "gone":
        with pytest.raises(ChangedInputError):
            build(raw, out)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_picture_that_changes_and_comes_back(tmp_path: Path, overwrite: bool) -> None:
    """The shards hold the pictures of the fingerprint, whichever moment the other content was there."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    path, content = as_file(raw)
    sound = path.read_bytes()
    if overwrite:
        build(raw, out)
        path.write_bytes(content)
        build(raw, out, overwrite=True)
        path.write_bytes(sound)
    with pytest.raises(BuildError, match=r"7\.jpg: changed"):
        build(raw, out, During("encode", lambda: path.write_bytes(content)), overwrite=overwrite)
    path.write_bytes(sound)
    build(raw, out, overwrite=overwrite)
    build(raw, tmp_path / "fresh")
    assert make.hashes(out) == make.hashes(tmp_path / "fresh")


def tables(raw: Path, kind: str) -> Path:
    raw.mkdir()
    (raw / "a.jpg").write_bytes(make.picture(1))
    rows = [{"id": str(n), "media": "a.jpg", "instruction": f"What is {n}?", "answer": f"{n}."} for n in range(ROWS)]
    path = raw / f"manifest.{kind}"
    if kind == "jsonl":
        make.write_manifest(raw, rows)
    elif kind == "csv":
        lines = ("id,media,instruction,answer", *(",".join(row.values()) for row in rows))
        path.write_text("\n".join(lines) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1000)
    return path


def once_open(path: Path, act: Callable[[], object]) -> None:
    """Let a thread ``act`` as soon as a worker has the file open."""

    def is_open() -> bool:
        for pid in descendants(os.getpid()):
            try:
                if any(os.readlink(entry) == str(path) for entry in Path(f"/proc/{pid}/fd").iterdir()):
                    return True
            except OSError:  # it has ended, or closed something
                continue
        return False

    def wait() -> None:
        while not is_open():
            time.sleep(0.002)
        act()

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_table_that_is_cut_while_it_is_read(tmp_path: Path, kind: str) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    path = tables(raw, kind)
    half = path.stat().st_size // 2
    with pytest.raises(BuildError, match=rf"{path.name}: changed .*bytes"):
        build(
            raw,
            out,
            During("import", lambda: once_open(path, lambda: os.truncate(path, half))),
            engine=LocalEngine(1),
            keep_going=True,
        )
    assert not (out / "manifest.json").exists()


def test_a_table_that_grows_while_it_is_read(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    path = tables(raw, "jsonl")
    row = json.dumps({"id": "late", "media": "a.jpg", "instruction": "What is late?", "answer": "This."}) + "\n"

    def append() -> None:
        with path.open("a") as file:
            file.write(row)

    with pytest.raises(BuildError, match=r"manifest\.jsonl: changed"):
        build(raw, out, During("import", lambda: once_open(path, append)), engine=LocalEngine(1))
    with pytest.raises(ChangedInputError):
        build(raw, out)


def test_a_caption_that_changes_is_named(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number in range(6):
        (raw / f"{number}.jpg").write_bytes(make.picture(number))
        (raw / f"{number}.txt").write_text(f"Thing {number}.")
    with pytest.raises(BuildError, match=r"3\.txt: changed"):
        build(raw, tmp_path / "out", During("scan", lambda: (raw / "3.txt").write_text("Another thing."), done=1))


def test_a_file_that_appears_is_missing(tmp_path: Path) -> None:
    """The fingerprint says that it is not there."""
    raw = tmp_path / "raw"
    rows = [{"id": name, "media": f"{name}.jpg", "instruction": "What?", "answer": "This."} for name in ("a", "late")]
    make.write_manifest(raw, rows)
    (raw / "a.jpg").write_bytes(make.picture(1))
    late = During("scan", lambda: (raw / "late.jpg").write_bytes(make.picture(2)), done=1)
    (source,) = build(raw, tmp_path / "out", late)["sources"]
    assert source["rejected"] == {"missing_file": 1}
    with pytest.raises(ChangedInputError):
        build(raw, tmp_path / "out")


def appears(raw: Path) -> None:
    make.add_manifest(raw, "later", pictures=1, questions=1)


def changes(raw: Path) -> None:
    (raw / "notes.json").write_text('[{"image": "own/images/0.jpg", "caption": "A shade."}]')


def goes(raw: Path) -> None:
    (raw / "notes.json").unlink()


@pytest.mark.parametrize(
    ("act", "named"), [(appears, r"later/manifest\.jsonl"), (changes, r"notes\.json"), (goes, r"notes\.json")]
)
def test_sources_that_change_before_they_are_hashed(tmp_path: Path, act: Callable[[Path], object], named: str) -> None:
    """Which sources there are was decided by what was there before, and is no part of the fingerprint."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    make.add_manifest(raw, pictures=2, questions=1)
    (raw / "notes.json").write_text("[]")
    with pytest.raises(BuildError, match=rf"{named}: changed while the build was running"):
        build(raw, out, During("scan", lambda: act(raw)))
    build(raw, out)
    build(raw, tmp_path / "fresh")
    assert make.hashes(out) == make.hashes(tmp_path / "fresh")


@pytest.mark.parametrize("gone", [None, "deep/images/1.jpg", "clip/3.jpg"])
def test_names_are_those_that_the_scan_has_found(tmp_path: Path, gone: str | None) -> None:
    """A path from elsewhere is searched by its end, and a folder of frames is listed: both in the scan, not on disk."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    rows = [{"id": name, "media": name, "instruction": "What?", "answer": f"{name}."} for name in ("1.jpg", "clip")]
    make.write_manifest(raw / "own", rows)
    for folder in ("deep/images", "clip"):
        (raw / folder).mkdir(parents=True)
        for number in range(4):
            (raw / folder / f"{number}.jpg").write_bytes(make.picture(number))
    (raw / "clip" / "1.jpg").rename(raw / "clip" / "01.jpg")  # else a record's 1.jpg could be either

    def act() -> None:
        if gone is not None:
            (raw / gone).unlink()
            return
        (raw / "other").mkdir()
        (raw / "other" / "1.jpg").write_bytes(make.picture(9))
        (raw / "clip" / "4.jpg").write_bytes(make.picture(9))

    if gone is None:
        build(raw, tmp_path / "whole")
        build(raw, out, During("import", act))
        assert make.hashes(out) == make.hashes(tmp_path / "whole")
    else:
        with pytest.raises(BuildError, match=f"{gone}: changed .*not there any more"):
            build(raw, out, During("import", act))


def test_what_nothing_uses_is_not_read(tmp_path: Path) -> None:
    """A sparse file of a terabyte would take an hour."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    make.add_manifest(raw, pictures=3, questions=1)
    for name in ("weights.bin", "own/notes.log", "own/images/cut.mp4", "no-ending", "disk.img"):
        with (raw / name).open("wb") as file:
            file.truncate(1 << 40)
    first = build(raw, out)
    assert first["input"]["bytes"] > 5 << 40
    (raw / "disk.img").unlink()
    with pytest.raises(ChangedInputError):
        build(raw, out)


def test_a_file_that_is_touched_is_still_the_same(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    path, _ = as_file(raw)
    build(raw, out)
    os.utime(path)
    assert build_shards(raw, out, BuildConfig(), engine=InProcess()).was_finished


@pytest.mark.parametrize("name", [".hidden/1.jpg", "images/.1.jpg", "mimicit.toml"])
def test_only_what_is_listed_can_be_referred_to(tmp_path: Path, name: str) -> None:
    """What the scan does not list takes no part in the fingerprint, so it must not reach a shard either."""
    raw = tmp_path / "raw"
    (raw / name).parent.mkdir(parents=True, exist_ok=True)
    (raw / name).write_bytes(b"" if name.endswith(".toml") else make.picture(1))
    rows = [
        {"id": "1", "media": name, "instruction": "What?", "answer": "This."},
        {"id": "2", "instruction": "Hm?", "answer": "No."},
    ]
    make.write_manifest(raw, rows)
    (source,) = build(raw, tmp_path / "out")["sources"]
    assert source["rejected"] == {"missing_file": 1}


def test_a_process_that_builds_again_need_not_find_what_it_built_before(tmp_path: Path) -> None:
    for number in range(2):  # as a worker of Ray does, which serves one build after the other
        raw = tmp_path / f"raw{number}"
        raw.mkdir()
        pictures = [{"bytes": jpeg(), "path": None}]
        pq.write_table(pa.table({"image": pictures, "question": ["What?"], "answer": ["This."]}), raw / "train.parquet")
        assert build(raw, tmp_path / f"out{number}")["totals"]["samples"] == 1
        (raw / "train.parquet").unlink()
