"""Builds from and to URLs: the same bytes as in a folder, also after interruptions; finished or without a manifest."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mimicit.errors import BuildError, ChangedInputError, SourceError, UsageError
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.remote import build_at
from mimicit.pipeline.remote_files import is_remote, local_path
from mimicit.pipeline.run import BuildResult
from mimicit.progress import Silent
from tests.factories import raw as make
from tests.factories.engines import InProcess

fsspec = pytest.importorskip("fsspec", reason="comes with the extra 's3'")

CONFIG = BuildConfig(shard_bytes=32 * 1024)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make.make_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    build_shards(raw, out, CONFIG, engine=InProcess())
    return out


@pytest.fixture
def memory(raw: Path) -> Iterator[Any]:
    """The file system behind memory://, with the raw data in /raw."""
    system = fsspec.filesystem("memory")
    for path in raw.rglob("*"):
        if path.is_file():
            system.pipe(f"/raw/{path.relative_to(raw).as_posix()}", path.read_bytes())
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def build(
    work: Path, config: BuildConfig = CONFIG, *, src: str = "memory://raw", overwrite: bool = False
) -> BuildResult:
    def build_here(src: Path, out: Path) -> BuildResult:
        return build_shards(src, out, config, engine=InProcess(), overwrite=overwrite)

    return build_at(src, "memory://shards", build_here, work=work, overwrite=overwrite, progress=Silent())


def copied(system: Any, path: str, folder: Path) -> Path:
    system.get(path, str(folder), recursive=True)
    return folder


def test_a_remote_build_has_the_bytes_of_a_local_one(memory: Any, whole: Path, tmp_path: Path) -> None:
    assert not build(tmp_path / "work").was_finished
    assert make.hashes(copied(memory, "/shards", tmp_path / "copy")) == make.hashes(whole)


@pytest.mark.parametrize("keeps_work", [True, False])
def test_a_finished_remote_folder_is_recognised(memory: Any, tmp_path: Path, keeps_work: bool) -> None:
    build(tmp_path / "work")
    before = {path: file.created for path, file in memory.store.items()}
    again = tmp_path / ("work" if keeps_work else "another")
    assert build(again).was_finished
    with pytest.raises(ChangedInputError, match=r"memory://shards: was built from another value of shots"):
        build(again, BuildConfig(shots=0))
    assert {path: file.created for path, file in memory.store.items()} == before


def test_overwrite_leaves_nothing_of_the_folder_before(memory: Any, whole: Path, tmp_path: Path) -> None:
    build(tmp_path / "work", BuildConfig(shard_samples=1))
    assert build(tmp_path / "another", overwrite=True).manifest["totals"]
    assert make.hashes(copied(memory, "/shards", tmp_path / "copy")) == make.hashes(whole)


def test_an_upload_goes_on_and_mends_what_is_wrong(memory: Any, whole: Path, tmp_path: Path) -> None:
    build(tmp_path / "work")
    shards = sorted(path for path in memory.store if path.endswith(".tar"))
    memory.rm("/shards/manifest.json")
    memory.rm(shards[0])
    memory.pipe(shards[1], bytes(memory.info(shards[1])["size"]))  # of the right size, and wrong
    kept = memory.store[shards[2]].created
    build(tmp_path / "work")
    assert make.hashes(copied(memory, "/shards", tmp_path / "copy")) == make.hashes(whole)
    assert memory.store[shards[2]].created == kept


def test_the_manifest_comes_last_and_goes_first(
    memory: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The back end fails after two writes, again and again: there is never a manifest beside an incomplete folder."""
    calls: list[str] = []
    put_file = type(memory).put_file

    def failing(self: Any, local: str, remote: str, *args: Any, **options: Any) -> None:
        calls.append(remote)
        if len(calls) > 2:
            raise ConnectionResetError("the line is dead")
        put_file(self, local, remote, *args, **options)

    monkeypatch.setattr(type(memory), "put_file", failing)
    rounds = 0
    truth = make.hashes(whole)
    while not memory.exists("/shards/manifest.json"):
        calls.clear()
        with contextlib.suppress(BuildError):
            build(tmp_path / "work")
            break
        rounds += 1
        here = {path.removeprefix("/shards/") for path in memory.store if path.startswith("/shards/")}
        assert here <= set(truth) - {"manifest.json"}
    assert rounds >= (len(truth) - 1) // 2
    assert make.hashes(copied(memory, "/shards", tmp_path / "copy")) == truth


def test_a_failure_names_the_file_and_the_way_on(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Any, local: str, remote: str, *args: Any, **options: Any) -> None:
        raise ConnectionResetError("the line is dead")

    monkeypatch.setattr(type(memory), "put_file", failing)
    with pytest.raises(BuildError, match=r"memory://shards/.*the line is dead.*the same command again"):
        build(tmp_path / "work")


def test_only_what_changed_is_fetched_again(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "work")
    memory.pipe("/raw/photos/p0.txt", b"Another text.")
    memory.rm("/raw/photos/p1.txt")
    memory.pipe("/raw/photos/p1.txt/now-a-folder.txt", b"x")
    fetched: list[str] = []
    opened = type(memory)._open

    def noting(self: Any, path: str, *args: Any, **options: Any) -> Any:
        fetched.append(path)
        return opened(self, path, *args, **options)

    monkeypatch.setattr(type(memory), "_open", noting)
    with pytest.raises(ChangedInputError, match="another input"):
        build(tmp_path / "work")
    names = {path for path in fetched if path.startswith("/raw/")}
    assert names == {"/raw/photos/p0.txt", "/raw/photos/p1.txt/now-a-folder.txt"}
    staged = tmp_path / "work" / "input" / "photos"
    assert (staged / "p0.txt").read_text() == "Another text."
    assert (staged / "p1.txt" / "now-a-folder.txt").read_text() == "x"


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/etc/evil", "a//b", "nul\0l", "x" * 300, "a/./b"])
def test_names_that_lead_elsewhere_are_refused(memory: Any, tmp_path: Path, name: str) -> None:
    memory.store[f"/raw/{name}"] = memory.store["/raw/photos/p0.txt"]
    with pytest.raises(SourceError, match=r"memory://raw: holds .*rename or remove it"):
        build(tmp_path / "work")
    assert not list(tmp_path.rglob("evil*"))


def test_a_file_and_a_folder_of_one_name_are_refused(memory: Any, tmp_path: Path) -> None:
    memory.store["/raw/photos"] = memory.store["/raw/photos/p0.txt"]
    with pytest.raises(SourceError, match="a file and a folder of one name"):
        build(tmp_path / "work")


def test_a_foreign_remote_folder_is_not_touched(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/shards/thesis.txt", b"mine")
    with pytest.raises(BuildError, match=r"thesis\.txt"):
        build(tmp_path / "work", overwrite=True)
    assert memory.cat_file("/shards/thesis.txt") == b"mine"


def test_an_output_beneath_the_input_is_not_read(memory: Any, tmp_path: Path) -> None:
    def build_here(src: Path, out: Path) -> BuildResult:
        return build_shards(src, out, CONFIG, engine=InProcess())

    for finished in (False, True):
        result = build_at(
            "memory://raw", "memory://raw/shards", build_here, work=tmp_path / "w", overwrite=False, progress=Silent()
        )
        assert result.was_finished == finished


def test_what_is_a_url() -> None:
    assert is_remote("s3://bucket/a") and is_remote("memory://a")
    assert not is_remote("file:///a/b") and not is_remote("a/b")
    assert local_path("file:///a/b") == Path("/a/b")
    with pytest.raises(UsageError, match="nonesuch"):
        build(Path("/nonexistent"), src="nonesuch://a")


# A real S3 server.


@pytest.fixture(scope="module")
def s3(raw: Path) -> Iterator[Any]:
    """A server with the bucket ``corpus``, and the raw data in its folder ``raw``; the environment names it."""
    server_module = pytest.importorskip("moto.server", reason="comes with the extra 'dev'")
    s3fs = pytest.importorskip("s3fs", reason="comes with the extra 's3'")
    server = server_module.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        system = s3fs.S3FileSystem(skip_instance_cache=True)
        system.mkdir("corpus")
        system.put(str(raw), "corpus/raw", recursive=True)
        yield system
    server.stop()


def command(work: Path, *more: str, out: str = "s3://corpus/shards") -> list[str]:
    where = ["--src", "s3://corpus/raw", "--out", out, "--work", str(work)]
    return [sys.executable, "-m", "mimicit", "build", *where, "--shard-samples", "2", "--workers", "1", *more]


def plain(raw: Path, folder: Path) -> dict[str, str]:
    build_shards(raw, folder, BuildConfig(shard_samples=2), engine=InProcess())
    return make.hashes(folder)


@pytest.mark.slow
def test_s3_in_and_out_and_an_upload_that_is_killed(s3: Any, raw: Path, tmp_path: Path) -> None:
    truth = plain(raw, tmp_path / "plain")
    process = subprocess.Popen(command(tmp_path / "work"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until(lambda: len(names(s3)) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = names(s3)
    assert 3 <= len(left) < len(truth), "killed in the middle"
    assert "manifest.json" not in left
    done = subprocess.run(command(tmp_path / "work"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "s3://corpus/shards" in done.stdout
    assert make.hashes(copied(s3, "corpus/shards/", tmp_path / "copy")) == truth
    again = subprocess.run(command(tmp_path / "fresh"), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == (
        "s3://corpus/shards: already finished from this input with these options; nothing to do"
    )


def test_s3_says_what_is_wrong(s3: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "work", out="s3://no-such-bucket/x"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("mimicit: s3://no-such-bucket/x")
    assert "Traceback" not in done.stderr


def names(system: Any) -> list[str]:
    system.invalidate_cache()
    with contextlib.suppress(FileNotFoundError):
        return [os.path.basename(path) for path in system.find("corpus/shards")]
    return []


def until(is_true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not is_true():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.02)
