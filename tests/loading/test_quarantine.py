"""Bad samples: raised, or masked at their own positions, counted and listed; never a shift, never silence."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest

from mimicit.errors import ChangedShardError, CorruptShardError, UsageError
from mimicit.loading.decode import decode_pictures
from mimicit.loading.quarantine import Quarantine
from mimicit.loading.storage.store import Store
from mimicit.records import Sample
from mimicit.shards.index import read_index
from tests.factories.raw import picture
from tests.factories.shards import picture_sample, write_shards

COUNT = 200


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    return write_shards(
        tmp_path_factory.mktemp("quarantine") / "shards",
        (picture_sample(n, [rng.bytes(600)]) for n in range(COUNT)),
        per_shard=50,
    )


def flipped(shards: Path, target: Path, rows: list[int]) -> Path:
    """A copy in which one byte of the picture of each of ``rows`` is another."""
    shutil.copytree(shards, target)
    index = read_index(shards).to_pylist()
    for row in rows:
        path = target / index[row]["shard"]
        data = bytearray(path.read_bytes())
        data[index[row]["member_offsets"][1] + 100] ^= 255
        path.write_bytes(data)
    return target


def guarded_read(store: Store, row: int, policy: Quarantine) -> Sample | None:
    return policy.attempt(store, row, lambda sample: sample)


def read_quarantine(path: Path) -> list[dict[str, str]]:
    """The entries of a quarantine file, each (shard, key) once, in the order of their discovery."""
    entries = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return list({(entry["shard"], entry["key"]): entry for entry in reversed(entries)}.values())[::-1]


def test_exactly_the_bad_slots_are_masked_and_listed(shards: Path, tmp_path: Path) -> None:
    bad = [3, 120]
    store = Store(flipped(shards, tmp_path / "bad", bad), check="sha256")
    sound = Store(shards)
    policy = Quarantine("mask", path=tmp_path / "logs" / "quarantine.jsonl", most_fraction=0.02)
    for _ in range(2):  # the second epoch lists nothing anew
        found = [guarded_read(store, row, policy) for row in range(COUNT)]
        assert [row for row, sample in enumerate(found) if sample is None] == bad
        assert all(found[row] == sound.read(row) for row in range(COUNT) if row not in bad)
    assert (policy.reads, policy.masked) == (2 * COUNT, 4)
    entries = read_quarantine(tmp_path / "logs" / "quarantine.jsonl")
    assert [(entry["shard"], entry["key"]) for entry in entries] == [
        (store.shard_name(row), store.key(row)) for row in bad
    ]
    assert all("do not match their sha256" in entry["reason"] for entry in entries)
    assert len((tmp_path / "logs" / "quarantine.jsonl").read_bytes().splitlines()) == 2


def test_ranks_that_see_damage_agree_with_those_that_do_not(shards: Path, tmp_path: Path) -> None:
    """Pictures damaged on the disk of one rank only: positions and the number of steps stay what they are."""
    ranks = [Store(shards, check="sha256"), Store(flipped(shards, tmp_path / "bad", [5, 7]), check="sha256")]
    seen = []
    for rank, store in enumerate(ranks):
        policy = Quarantine("mask", most_fraction=0.1)
        seen.append([guarded_read(store, row, policy) for row in range(rank, COUNT, 2)])
    assert len(seen[0]) == len(seen[1]) == COUNT // 2
    assert None not in seen[0]
    assert [2 * place + 1 for place, sample in enumerate(seen[1]) if sample is None] == [5, 7]


def test_without_a_mask_the_shard_is_named(shards: Path, tmp_path: Path) -> None:
    store = Store(flipped(shards, tmp_path / "bad", [60]), check="sha256")
    policy = Quarantine()
    guarded_read(store, 59, policy)
    with pytest.raises(CorruptShardError, match=rf"shard-001\.tar: sample {store.key(60)}"):
        guarded_read(store, 60, policy)


def test_a_whole_shard_is_never_masked(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "bad")
    path = tmp_path / "bad" / "shard-002.tar"
    path.write_bytes(path.read_bytes()[:-2048])
    with pytest.raises(ChangedShardError, match=r"shard-002\.tar: its size"):
        guarded_read(Store(tmp_path / "bad"), 100, Quarantine("mask"))


def test_too_many_bad_samples_raise_with_a_summary(shards: Path, tmp_path: Path) -> None:
    store = Store(flipped(shards, tmp_path / "run", list(range(20, 30))), check="sha256")
    policy = Quarantine("mask", path=tmp_path / "q.jsonl", most_in_a_row=4)
    for row in range(23):
        guarded_read(store, row, policy)
    with pytest.raises(CorruptShardError, match=r"4 of 24 samples are bad, 4 in a row.*q\.jsonl.*First: .*shard-000"):
        guarded_read(store, 23, policy)
    assert len(read_quarantine(tmp_path / "q.jsonl")) == 4

    store = Store(flipped(shards, tmp_path / "spread", list(range(0, COUNT, 20))), check="sha256")
    policy = Quarantine("mask", most_fraction=0.01)
    for row in range(99):  # a fraction of fewer says nothing
        guarded_read(store, row, policy)
    assert policy.masked == 5
    guarded_read(store, 99, Quarantine("mask", most_fraction=0.01))
    with pytest.raises(CorruptShardError, match="6 of 100 samples are bad"):
        guarded_read(store, 100, policy)


def test_decoding_is_guarded_too(tmp_path: Path) -> None:
    pictures = [picture(0), picture(1)[:-400], b"no picture"]
    store = Store(write_shards(tmp_path / "shards", (picture_sample(n, [p]) for n, p in enumerate(pictures))))
    policy = Quarantine("mask", path=tmp_path / "q.jsonl")
    found = [policy.attempt(store, row, lambda sample: decode_pictures(sample, 16)) for row in range(3)]
    assert found[0] is not None and found[0].pixels.shape == (1, 1, 16, 16, 3)
    assert found[1:] == [None, None]
    assert [entry["key"] for entry in read_quarantine(tmp_path / "q.jsonl")] == [store.key(1), store.key(2)]


def _read_all(shards: Path, quarantine: Path, start: int) -> None:
    store, policy = Store(shards, check="sha256"), Quarantine("mask", path=quarantine, most_fraction=1.0)
    for row in range(start, COUNT, 2):
        guarded_read(store, row, policy)


def test_workers_share_the_file(shards: Path, tmp_path: Path) -> None:
    bad = list(range(0, COUNT, 3))
    folder = flipped(shards, tmp_path / "bad", bad)
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_read_all, args=(folder, tmp_path / "q.jsonl", start)) for start in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(entry["key"] for entry in read_quarantine(tmp_path / "q.jsonl")) == sorted(
        Store(shards).key(row) for row in bad
    )


def test_a_torn_line_spoils_no_other(shards: Path, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"shard": "a')
    store = Store(flipped(shards, tmp_path / "bad", [1]), check="sha256")
    assert guarded_read(store, 1, Quarantine("mask", path=path)) is None
    torn, whole = path.read_bytes().splitlines()
    assert torn == b'{"shard": "a' and orjson.loads(whole)["key"] == store.key(1)


@pytest.mark.parametrize("options", [{"on_error": "skip"}, {"most_fraction": 2.0}, {"most_in_a_row": 0}])
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Quarantine(**options)  # type: ignore[arg-type]
