"""Reading by row: the bytes that the index names, and a named error for whatever is not as it says."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import ChangedShardError, CorruptShardError, ShardError, UsageError
from mimicit.loading.storage import store as folder_module
from mimicit.loading.storage.index_columns import decode_index, map_index
from mimicit.loading.storage.shard_files import LocalShards
from mimicit.loading.storage.store import Store, read_members
from mimicit.records import Sample
from mimicit.shards.index import read_index
from mimicit.shards.reader import iterate_shard
from tests.factories.shards import picture_sample, rewrite_index, write_shards
from tests.factories.strategies import samples


def made(count: int, *, pictures: int = 2, size: int = 300) -> list[Sample]:
    rng = np.random.default_rng(count)
    return [picture_sample(n, [rng.bytes(size + n) for _ in range(pictures)]) for n in range(count)]


@pytest.fixture(scope="module")
def wanted() -> list[Sample]:
    return made(20)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, wanted: list[Sample]) -> Path:
    return write_shards(tmp_path_factory.mktemp("store") / "shards", wanted)


@given(st.lists(samples(), min_size=1, max_size=6, unique_by=lambda sample: sample.key), st.booleans())
def test_rows_are_the_samples_in_order(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[Sample], links: bool
) -> None:
    folder = write_shards(tmp_path_factory.mktemp("any"), wanted, per_shard=3, links=links)
    store = Store(folder, check="sha256")
    assert [store.read(row) for row in range(len(store))] == wanted
    assert [store.row_of(sample.key) for sample in wanted] == list(range(len(wanted)))
    assert [item.sample for path in sorted(folder.glob("*.tar")) for item in iterate_shard(path)] == wanted


def test_raw_is_the_bytes_of_the_members(shards: Path, wanted: list[Sample]) -> None:
    store = Store(shards)
    for row, sample in enumerate(wanted):
        assert store.raw(row)[1:] == [data for media in sample.media for data in media.data]
    for row in (-1, 20):
        with pytest.raises(IndexError):
            store.raw(row)


def test_a_large_index_is_decoded_once_and_mapped(
    shards: Path, wanted: list[Sample], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIMICIT_CACHE", str(tmp_path / "home"))
    monkeypatch.setattr(folder_module, "LARGE_ROWS", 1)
    first = Store(shards)
    mapped = list((tmp_path / "home" / "index").iterdir())
    assert [path.name for path in mapped] == [first.manifest["files"]["index.parquet"]]
    monkeypatch.setattr(folder_module, "sha256_of", None)  # the second time nothing of the index is read
    second = Store(shards)
    copy = pickle.loads(pickle.dumps(second))
    assert len(pickle.dumps(second)) < 4000 + len(pickle.dumps(second.manifest))
    for store in (first, second, copy):
        assert [store.read(row) for row in range(20)] == wanted
        assert store.row_of(wanted[7].key) == 7
        with pytest.raises(UsageError, match="nothing"):
            store.row_of("nothing")


def test_a_home_that_cannot_be_written_costs_memory_only(
    shards: Path, wanted: list[Sample], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    monkeypatch.setenv("MIMICIT_CACHE", str(tmp_path / "home"))
    monkeypatch.setattr(folder_module, "LARGE_ROWS", 1)
    assert Store(shards).read(3) == wanted[3]


@given(st.integers(1, 12).flatmap(lambda n: st.lists(st.integers(0, 900), min_size=n, max_size=n)), st.integers(0, 400))
def test_members_lie_anywhere_and_gaps_are_never_wrong(offsets: list[int], gap: int) -> None:
    data = np.random.default_rng(0).bytes(1000)
    sizes = [min(100, 1000 - offset) for offset in offsets]

    class Memory:
        gap_bytes = gap

        def read(self, shard: int, start: int, length: int) -> bytes:
            assert 0 <= start <= start + length <= 1000
            return data[start : start + length]

        def name(self, shard: int) -> str:
            return ""

        def close(self) -> None:
            """Nothing is open."""

    found = read_members(Memory(), 0, offsets, sizes)
    assert found == [data[offset : offset + size] for offset, size in zip(offsets, sizes, strict=True)]


def test_distant_members_are_read_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of a folder with hard links costs its own bytes, not all those between its picture and itself."""
    shared = os.urandom(400_000)
    mine = [picture_sample(n, [shared if n in (0, 9) else os.urandom(100_000)]) for n in range(10)]
    store = Store(write_shards(tmp_path / "shards", mine, per_shard=10, links=True))
    reads: list[int] = []
    real = LocalShards.read

    def counted(self: LocalShards, shard: int, start: int, length: int) -> bytes:
        reads.append(length)
        return real(self, shard, start, length)

    monkeypatch.setattr(LocalShards, "read", counted)
    assert store.read(9) == mine[9]
    assert len(reads) == 2 and sum(reads) < 410_000


@pytest.mark.parametrize("threads", [4])
def test_threads_may_share_a_store(tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = made(60)
    store = Store(write_shards(tmp_path / "shards", mine, per_shard=2))
    monkeypatch.setattr(store._shards, "_limit", 2)  # descriptors are pushed out all the time
    faults: list[str] = []

    def read(seed: int) -> None:
        rows = np.random.default_rng(seed).integers(0, 60, 400).tolist()
        faults.extend(mine[row].key for row in rows if store.read(row) != mine[row])

    workers = [threading.Thread(target=read, args=(seed,)) for seed in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert faults == []


def test_few_files_stay_open(tmp_path: Path) -> None:
    store = Store(write_shards(tmp_path / "shards", made(120), per_shard=2))
    before = len(os.listdir("/proc/self/fd"))
    for row in range(120):
        store.raw(row)
    assert len(os.listdir("/proc/self/fd")) - before <= 32
    store.close()
    assert len(os.listdir("/proc/self/fd")) == before


# Damage


def damage(shards: Path, target: Path, change: Callable[[bytearray], bytes | bytearray]) -> Store:
    shutil.copytree(shards, target)
    path = target / "shard-001.tar"
    path.write_bytes(change(bytearray(path.read_bytes())))
    return Store(target, check="sha256")


def cut_places(shards: Path) -> dict[str, int]:
    table = read_index(shards).to_pylist()[9]  # the second sample of the second shard
    return {
        "between-samples": table["offset"],
        "between-members": table["member_offsets"][1] - 512,
        "in-a-header": table["member_offsets"][1] - 200,
        "in-a-payload": table["member_offsets"][1] + 50,
        "end-mark": -512,
    }


@pytest.mark.parametrize("kind", ["between-samples", "between-members", "in-a-header", "in-a-payload", "end-mark"])
def test_a_cut_shard_is_refused_by_name(shards: Path, tmp_path: Path, wanted: list[Sample], kind: str) -> None:
    at = cut_places(shards)[kind]
    store = damage(shards, tmp_path / "cut", lambda data: data[:at])
    assert len(store) == 20  # the epoch does not become shorter
    for row in range(8, 16):
        with pytest.raises(ChangedShardError, match=r"shard-001\.tar: its size"):
            store.read(row)
    assert store.read(0) == wanted[0] and store.read(19) == wanted[19]


def test_a_shard_that_is_cut_while_it_is_open_is_named(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "live")
    store = Store(tmp_path / "live")
    store.read(8)
    os.truncate(tmp_path / "live" / "shard-001.tar", 3000)
    with pytest.raises(ChangedShardError, match=r"shard-001\.tar: does not reach byte"):
        store.read(15)


def test_flipped_bytes_of_a_picture_are_found(shards: Path, tmp_path: Path, wanted: list[Sample]) -> None:
    at = read_index(shards).to_pylist()[9]["member_offsets"][1]

    def flip(data: bytearray) -> bytearray:
        data[at + 20] ^= 255
        return data

    store = damage(shards, tmp_path / "flipped", flip)
    with pytest.raises(CorruptShardError, match=rf"shard-001\.tar: sample {wanted[9].key}: the bytes of 000\.jpg"):
        store.read(9)
    assert [store.read(row) for row in range(20) if row != 9] == [s for n, s in enumerate(wanted) if n != 9]
    assert Store(tmp_path / "flipped", check="size").read(9).id == wanted[9].id


def test_another_shard_of_the_same_size_is_noticed(shards: Path, tmp_path: Path) -> None:
    other = [picture_sample(n + 100, [media.data[0] for media in s.media]) for n, s in enumerate(made(20))]
    write_shards(tmp_path / "other", other)
    data = (tmp_path / "other" / "shard-001.tar").read_bytes()
    size = (shards / "shard-001.tar").stat().st_size
    store = damage(shards, tmp_path / "swapped", lambda _: data.ljust(size, b"\0")[:size])
    with pytest.raises(CorruptShardError, match=r"shard-001\.tar: sample sample-9"):
        store.read(9)


def replaced(name: str, row: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table.column(name).to_pylist()
        values[row] = value
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, pa.array(values, table.schema.field(name).type))

    return change


@pytest.mark.parametrize(
    "change",
    [
        replaced("shard", 3, "shard-999.tar"),
        replaced("shard", 3, None),
        replaced("member_offsets", 3, [-1, 5, 9]),
        replaced("member_offsets", 3, [2**62, 5, 9]),
        replaced("member_sizes", 3, [10, 10, 2**40]),
        replaced("member_sizes", 3, [10, 10, -4]),
        replaced("member_sizes", 3, [10]),
        replaced("member_sizes", 3, None),
        lambda table: table.drop_columns(["key"]),
        lambda table: table.slice(0, 7),
    ],
    ids=["shard", "null", "before", "far", "large", "negative", "fewer", "null-list", "no-column", "short"],
)
@pytest.mark.parametrize("large", [False, True])
def test_a_hostile_index_is_refused(
    shards: Path, tmp_path: Path, change: Any, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIMICIT_CACHE", str(tmp_path / "home"))
    if large:
        monkeypatch.setattr(folder_module, "LARGE_ROWS", 1)
    shutil.copytree(shards, tmp_path / "bad")
    rewrite_index(tmp_path / "bad", change)
    with pytest.raises(CorruptShardError, match=r"index\.parquet"):
        Store(tmp_path / "bad")
    if large:
        assert not list((tmp_path / "home").glob("index/.decoding*"))


def test_an_index_that_is_not_the_manifests_is_refused(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "bad")
    with open(tmp_path / "bad" / "index.parquet", "ab") as file:
        file.write(b"x")
    with pytest.raises(CorruptShardError, match=r"index\.parquet: its sha256"):
        Store(tmp_path / "bad")
    (tmp_path / "bad" / "index.parquet").unlink()
    with pytest.raises(ShardError, match="no index"):
        Store(tmp_path / "bad")


def test_mapped_and_decoded_columns_agree(shards: Path, tmp_path: Path) -> None:
    manifest = Store(shards).manifest
    held = decode_index(shards / "index.parquet", manifest["shards"])
    mapped = map_index(shards / "index.parquet", manifest["shards"], tmp_path, "0" * 64)
    assert len(held) == len(mapped) == 20
    for row in range(20):
        assert (held.shard(row), held.members(row), held.key(row)) == (
            mapped.shard(row),
            mapped.members(row),
            mapped.key(row),
        )


def test_options_are_checked(shards: Path) -> None:
    with pytest.raises(UsageError, match="md5"):
        Store(shards, check="md5")  # type: ignore[arg-type]
