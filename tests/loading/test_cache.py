"""The cache of whole shards: bounded, shared, and never deleting what is not its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mimicit.errors import ChangedShardError, ShardError, UsageError
from mimicit.loading.storage import store as folder_module
from mimicit.loading.storage.remote import RemoteFolder, Retries
from mimicit.loading.storage.store import Store
from tests.factories.servers import RangeServer, range_server
from tests.factories.shards import picture_sample, write_shards

QUICK = Retries(attempts=3, first_wait_s=0.01, stall_s=0.5)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    samples = (picture_sample(n, [rng.bytes(5000)]) for n in range(40))
    return write_shards(tmp_path_factory.mktemp("cached") / "shards", samples, per_shard=8)


@pytest.fixture
def server(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setattr(folder_module, "RemoteFolder", lambda url: RemoteFolder(url, QUICK))
    with range_server(shards) as served:
        yield served


def shard_bytes(shards: Path) -> int:
    return max(path.stat().st_size for path in shards.glob("*.tar"))


def used(cache: Path) -> int:
    return sum(path.stat().st_size for path in (cache / "mimicit-shards").iterdir())


def downloads(server: RangeServer) -> list[str]:
    return [path for path, wanted in server.requests if path.endswith(".tar") and not wanted.endswith("=0-0")]


def test_what_is_read_is_what_lies_there(server: RangeServer, shards: Path, tmp_path: Path) -> None:
    store, local = Store(server.url, cache_dir=tmp_path), Store(shards)
    order = np.random.default_rng(1).permutation(40).tolist()
    assert [store.read(row) for row in order] == [local.read(row) for row in order]
    assert sorted(downloads(server)) == sorted(path.name for path in shards.glob("*.tar"))  # each shard once
    again = Store(server.url, cache_dir=tmp_path)
    assert [again.read(row) for row in order] == [local.read(row) for row in order]
    assert len(downloads(server)) == 5


def test_the_bound_holds_and_the_oldest_goes(server: RangeServer, shards: Path, tmp_path: Path) -> None:
    bound = 2 * shard_bytes(shards) + 100
    store, local = Store(server.url, cache_dir=tmp_path, cache_bytes=bound), Store(shards)
    for row in [*range(40), 0]:
        assert store.raw(row) == local.raw(row)
        assert used(tmp_path) <= bound
    assert len(downloads(server)) == 6
    fresh = Store(server.url, cache_dir=tmp_path, cache_bytes=bound)
    assert fresh.raw(1) == local.raw(1) and fresh.raw(39) == local.raw(39)  # of the two that were used last
    assert len(downloads(server)) == 6


def test_a_cache_that_is_too_small_fails_at_once(server: RangeServer, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot hold shard-00\d\.tar"):
        Store(server.url, cache_dir=tmp_path, cache_bytes=shard_bytes(shards) - 1)
    assert downloads(server) == []
    with pytest.raises(UsageError, match="on disk already"):
        Store(shards, cache_dir=tmp_path)


def test_files_of_others_are_left_alone(server: RangeServer, shards: Path, tmp_path: Path) -> None:
    own = tmp_path / "mimicit-shards"
    own.mkdir()
    others = [tmp_path / "thesis.txt", own / "thesis.tar", own / f"{'0' * 64}.tar"]
    for path in others:
        path.write_bytes(b"x" * 20_000)
    store = Store(server.url, cache_dir=tmp_path, cache_bytes=shard_bytes(shards))
    for row in range(0, 40, 8):
        store.raw(row)
    assert [path.read_bytes() for path in others] == [b"x" * 20_000] * 3


def test_a_wrong_download_is_refused_by_name(server: RangeServer, shards: Path, tmp_path: Path) -> None:
    store = Store(server.url, cache_dir=tmp_path / "cache")
    server.folder = tmp_path / "changed"
    server.folder.mkdir()
    data = bytearray((shards / "shard-002.tar").read_bytes())
    data[3000] ^= 1
    (server.folder / "shard-002.tar").write_bytes(data)
    with pytest.raises(ChangedShardError, match=r"shard-002\.tar: its sha256"):
        store.raw(16)
    with pytest.raises(ShardError, match=r"shard-000\.tar: no such file"):
        store.raw(0)
    assert not list((tmp_path / "cache" / "mimicit-shards").glob("*.part"))
    server.folder = shards
    assert store.raw(16) == Store(shards).raw(16)


@pytest.mark.parametrize("fault", ["503", "short", "stall", "reset"])
def test_passing_faults_cost_no_byte(server: RangeServer, shards: Path, tmp_path: Path, fault: str) -> None:
    server.fault = lambda path, number: fault if number % 3 == 0 else ""  # type: ignore[assignment,return-value]
    assert Store(server.url, cache_dir=tmp_path).raw(11) == Store(shards).raw(11)


def _read_all(url: str, cache: Path, bound: int, wanted: list[list[bytes]]) -> None:
    store = Store(url, cache_dir=cache, cache_bytes=bound)
    rows = np.random.default_rng(os.getpid()).permutation(len(store)).tolist()
    assert all(store.raw(row) == wanted[row] for row in rows)


@pytest.mark.parametrize("room", [1, 5], ids=["one-shard", "all-shards"])
def test_two_processes_share_a_cache(server: RangeServer, shards: Path, tmp_path: Path, room: int) -> None:
    local = Store(shards)
    wanted = [local.raw(row) for row in range(40)]
    bound = room * shard_bytes(shards)
    fork = multiprocessing.get_context("fork")
    readers = [fork.Process(target=_read_all, args=(server.url, tmp_path, bound, wanted)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert [reader.exitcode for reader in readers] == [0, 0]
    assert used(tmp_path) <= bound
    if room == 5:
        assert len(downloads(server)) == 5  # no shard was fetched twice


def _hang_in_download(url: str, cache: Path) -> None:
    Store(url, cache_dir=cache).raw(0)


def test_what_a_killed_download_leaves_is_removed(server: RangeServer, shards: Path, tmp_path: Path) -> None:
    server.fault = lambda path, number: "stall" if path == "shard-000.tar" and number else ""
    child = multiprocessing.get_context("fork").Process(target=_hang_in_download, args=(server.url, tmp_path))
    child.start()
    end = time.monotonic() + 30
    while not list(tmp_path.glob("mimicit-shards/*.part")) and time.monotonic() < end:
        time.sleep(0.01)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert list(tmp_path.glob("mimicit-shards/*.part"))
    server.fault = lambda path, number: ""
    # Room for one shard: the abandoned part has to go before another shard fits.
    store = Store(server.url, cache_dir=tmp_path, cache_bytes=shard_bytes(shards))
    assert store.raw(10) == Store(shards).raw(10)
    assert not list(tmp_path.glob("mimicit-shards/*.part"))
