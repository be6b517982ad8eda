"""Comparing folders: each sample is the same, changed, lost or gained, and nothing is missed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mimicit.errors import ShardError
from mimicit.inspecting.compare import compare_folders, comparison_text
from mimicit.inspecting.digest_counts import DiskRecords
from mimicit.loading import load
from mimicit.records import sample_to_json
from tests.factories import builds
from tests.factories import raw as make
from tests.factories.commands import Done, mimicit
from tests.factories.viewing import built, many_rows


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("old")
    return built(make.make_raw(place / "raw"), place / "shards")


def folder_of(root: Path, rows: dict[str, str], **options: object) -> Path:
    pictures = {"p.jpg": make.picture(1)}
    manifest = [builds.row(id, "p.jpg", answer=answer) for id, answer in rows.items()]
    builds.add_rows(root / "raw" / "own", pictures, manifest)
    return built(root / "raw", root / "shards", context="none", **options)


def test_a_folder_equals_its_rebuild(old: Path, tmp_path: Path) -> None:
    again = built(old.parent / "raw", tmp_path / "again")
    comparison = compare_folders(old, again)
    assert comparison.equal
    assert comparison.samples == Counter(same=41)
    assert comparison_text(comparison).endswith("the same: 41 samples, byte for byte")


@settings(max_examples=3, phases=[Phase.generate])  # two builds each, too slow to shrink
@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["red", "blue"]), min_size=1),
    st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["red", "blue"]), min_size=1),
)
def test_every_sample_has_one_outcome(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, str], after: dict[str, str]
) -> None:
    root = tmp_path_factory.mktemp("pair")
    a, b = folder_of(root / "a", before), folder_of(root / "b", after)
    comparison = compare_folders(a, b)
    both = before.keys() & after.keys()
    changed = {id for id in both if before[id] != after[id]}
    assert comparison.equal == (before == after)
    counts = {
        "same": len(both - changed), "changed": len(changed), "lost": len(before.keys() - after.keys()),
        "gained": len(after.keys() - before.keys()),
    }  # fmt: skip
    assert comparison.samples == Counter(counts)
    assert comparison.sources["own"] == Counter(counts)
    assert {name.id for name in comparison.changed} == changed
    assert all(name.parts == ("answer",) for name in comparison.changed)
    assert {name.id for name in comparison.lost} == before.keys() - after.keys()
    assert {name.id for name in comparison.gained} == after.keys() - before.keys()


def test_samples_in_other_shards_are_the_same_samples(tmp_path: Path) -> None:
    rows = {f"r{number}": "red" for number in range(6)}
    a = folder_of(tmp_path / "a", rows)
    b = folder_of(tmp_path / "b", rows, shard_samples=2)
    comparison = compare_folders(a, b)
    assert comparison.samples["same"] == 6 and comparison.samples.total() == 6
    assert not comparison.same_bytes and not comparison.equal
    assert [change.name for change in comparison.configuration] == ["config.shard_samples"]
    assert "in another order or in other shards" in comparison_text(comparison)


def test_other_context_is_a_change_of_context_alone(old: Path, tmp_path: Path) -> None:
    fewer = built(old.parent / "raw", tmp_path / "fewer", shots=1)
    comparison = compare_folders(old, fewer, limit=100)
    after = {sample.key: sample_to_json(sample) for sample in load(fewer)}
    different = {sample.key for sample in load(old) if sample_to_json(sample) != after[sample.key]}
    assert {name.key for name in comparison.changed} == different != set()
    assert {part for name in comparison.changed for part in name.parts} == {"context"}


def test_the_command_exits_like_diff(old: Path, tmp_path: Path) -> None:
    def compare(b: Path, *options: str) -> Done:
        return mimicit("compare", old, b, *options)

    assert compare(old).returncode == 0
    fewer = built(old.parent / "raw", tmp_path / "fewer", shots=1)
    result = compare(fewer, "--json", "--limit", "2")
    value = json.loads(result.stdout)
    assert result.returncode == 1 and not value["equal"]
    assert {"name": "config.shots", "a": 2, "b": 1} in value["configuration"]
    assert len(value["changed"]) == 2 < value["samples"]["changed"]
    missing = compare(tmp_path / "no")
    assert missing.returncode == 1 and "no such" in missing.stderr


def test_a_shard_file_is_no_folder(old: Path) -> None:
    with pytest.raises(ShardError, match="compare takes two folders"):
        compare_folders(old, old / "shard-000.tar")


def test_records_on_disk_come_back_by_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimicit.inspecting.digest_counts._HELD_BYTES", 64)
    on_disk = DiskRecords(tmp_path / "records", np.dtype("<u2"))
    records = [number.to_bytes(2, "little") for number in range(1000)]
    for record in records:
        on_disk.add(record)
    parts = list(on_disk.parts())
    assert len(parts) == 256
    for first, part in enumerate(parts):
        assert part.tolist() == [number for number in range(1000) if number % 256 == first]


@pytest.mark.slow
def test_a_million_samples_take_little_memory(old: Path, tmp_path: Path) -> None:
    a = many_rows(old, tmp_path / "a", 1_000_000)
    b = many_rows(old, tmp_path / "b", 999_999)
    manifest = json.loads((b / "manifest.json").read_text())
    manifest["shards"][0]["content"] = "0" * 64  # else equal shards would be skipped
    (b / "manifest.json").write_text(json.dumps(manifest))
    code = (
        "import resource, sys; from pathlib import Path; from mimicit.inspecting.compare import compare_folders;"
        "import mimicit.loading.storage.store as opening;"
        "opening._check_index = lambda *_, **__: None;"  # its rows lie in one place, as no sound folder's do
        "c = compare_folders(Path(sys.argv[1]), Path(sys.argv[2]));"
        "print(dict(c.samples), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(a), str(b)], capture_output=True, text=True,
        env={"MIMICIT_CACHE": str(tmp_path / "cache"), "PATH": ""},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    counts, _, memory = result.stdout.strip().rpartition(" ")
    assert json.loads(counts.replace("'", '"')) == {"same": 999_999, "changed": 0, "lost": 1, "gained": 0}
    assert int(memory) < 600  # MiB, most of them pages of the mapped index
