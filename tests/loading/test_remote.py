"""Folders behind a URL: byte for byte what lies there, or a failure with a name within a bounded time."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mimicit.errors import ChangedShardError, ShardError
from mimicit.loading.storage import store as folder_module
from mimicit.loading.storage.remote import RemoteFolder, Retries
from mimicit.loading.storage.store import Store
from tests.factories.servers import RangeServer, range_server
from tests.factories.shards import picture_sample, write_shards

QUICK = Retries(attempts=3, first_wait_s=0.01, stall_s=0.15, slowest_rate=1 << 20)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    samples = (picture_sample(n, [rng.bytes(3000), rng.bytes(500)]) for n in range(20))
    return write_shards(tmp_path_factory.mktemp("remote") / "shards", samples)


@pytest.fixture
def server(shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RangeServer]:
    monkeypatch.setenv("MIMICIT_CACHE", str(tmp_path / "home"))
    monkeypatch.setattr(folder_module, "RemoteFolder", lambda url: RemoteFolder(url, QUICK))
    with range_server(shards) as served:
        yield served


def all_samples(store: Store) -> list[object]:
    return [store.read(row) for row in range(len(store))]


def test_a_folder_behind_http_is_the_folder(server: RangeServer, shards: Path) -> None:
    remote, local = Store(server.url), Store(shards)
    assert all_samples(remote) == all_samples(local)
    assert remote.fingerprint == local.fingerprint
    assert remote.columns(["key"]) == local.columns(["key"])
    assert remote.shard_name(0) == f"{server.url}/shard-000.tar"
    assert Store(f"{server.url}/moved/").read(3) == local.read(3)  # redirects are followed


def test_a_sample_costs_one_request(server: RangeServer) -> None:
    store = Store(server.url)
    store.read(0)
    before = len(server.requests)
    store.read(1)
    assert len(server.requests) == before + 1


@pytest.mark.parametrize("fault", ["503", "short", "stall", "drip", "reset", "other-range"])
def test_a_passing_fault_costs_no_byte(server: RangeServer, shards: Path, fault: str) -> None:
    server.fault = lambda path, number: fault if number % 3 == 1 else ""  # type: ignore[assignment,return-value]
    store, local = Store(server.url), Store(shards)
    for row in (0, 9, 19):
        assert store.raw(row) == local.raw(row)


@pytest.mark.parametrize("fault", ["503", "short", "stall", "drip", "reset", "other-range"])
def test_a_lasting_fault_is_named_in_time(server: RangeServer, fault: str) -> None:
    store = Store(server.url)
    store.raw(0)
    server.fault = lambda path, number: fault  # type: ignore[assignment,return-value]
    with pytest.raises(ShardError, match=r"127\.0\.0\.1:\d+/shard-000\.tar: failed 3 times"):
        store.raw(1)
    server.fault = lambda path, number: ""
    assert store.raw(1)  # what was left of bad answers did not become this one


def test_permanent_faults_are_not_tried_again(server: RangeServer, shards: Path) -> None:
    with pytest.raises(ShardError, match=r"/nothing/manifest\.json: no such file"):
        Store(f"{server.url}/nothing")
    server.fault = lambda path, number: "no-ranges" if path.startswith("shard") else ""
    with pytest.raises(ShardError, match="does not serve byte ranges"):
        Store(server.url).raw(3)


def test_a_changed_shard_is_refused_by_name(shards: Path, server: RangeServer, tmp_path: Path) -> None:
    store = Store(server.url)
    server.folder = tmp_path / "changed"
    server.folder.mkdir()
    (server.folder / "shard-001.tar").write_bytes((shards / "shard-001.tar").read_bytes()[:-512])
    with pytest.raises(ChangedShardError, match=r"shard-001\.tar: its size"):
        store.raw(10)


def test_a_store_can_be_pickled_and_forked(server: RangeServer, shards: Path) -> None:
    store, local = Store(server.url), Store(shards)
    store.raw(0)  # a connection is open
    assert pickle.loads(pickle.dumps(store)).raw(5) == local.raw(5)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(store.raw, range(20)) == [local.raw(row) for row in range(20)]
    assert store.raw(6) == local.raw(6)


def test_any_file_system_of_fsspec(shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="comes with the extra 'remote'")
    monkeypatch.setenv("MIMICIT_CACHE", str(tmp_path / "home"))
    memory = fsspec.filesystem("memory")
    memory.put(str(shards), "/here", recursive=True)
    assert all_samples(Store("memory://here")) == all_samples(Store(shards))
    with pytest.raises(ShardError, match="no such file"):
        Store("memory://elsewhere")
    with pytest.raises(ShardError, match="unheard-of"):
        Store("unheard-of://place")


def test_a_back_end_that_hangs_or_fails_is_named(shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="comes with the extra 'remote'")
    monkeypatch.setenv("MIMICIT_CACHE", str(tmp_path / "home"))
    monkeypatch.setattr(folder_module, "RemoteFolder", lambda url: RemoteFolder(url, QUICK))
    memory = fsspec.filesystem("memory")
    memory.put(str(shards), "/slow", recursive=True)
    store = Store("memory://slow")
    store.raw(0)
    real = type(memory).cat_file

    def hang(*args: object, **kwargs: object) -> bytes:
        time.sleep(2)
        return b""

    def short(self: object, path: str, start: int, end: int) -> bytes:
        return bytes(real(self, path, start=start, end=end))[:-1]

    for broken, said in ((hang, "nothing came"), (short, "bytes came where")):
        monkeypatch.setattr(type(memory), "cat_file", broken)
        with pytest.raises(ShardError, match=rf"slow/shard-000\.tar: failed 3 times, at last: .*{said}"):
            store.raw(1)
