"""A slice of each fuzzer, and a minute of the slow ones; ``--inputs 20000`` is the long run."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mimicit.loading import load
from mimicit.loading.storage import store
from mimicit.pipeline.engines.local import LocalEngine
from mimicit.shards import verify
from tests.factories.sources import put, put_lines
from tools import fuzz_folders, fuzz_pairs, fuzz_tables
from tools.edit_shards import read_shards
from tools.fuzz_build import corpus

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzz_folders.make_sound(tmp_path_factory.mktemp("fuzz") / "sound")


def test_verify_and_load_agree_about_changed_folders(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap = tuple(change for change in fuzz_folders.CHANGES if change[0] != "bomb")  # those take a minute to make
    monkeypatch.setattr(fuzz_folders, "CHANGES", cheap)
    parts, known = read_shards(sound), {fuzz_folders.shown(sample) for sample in load(sound)}
    said: Counter[str] = Counter()
    for seed in range(60):
        fault, outcome, _ = fuzz_folders.run_one(sound, parts, known, tmp_path / "shards", random.Random(seed))
        assert fault is None, f"seed {seed}: {fault}"
        said[outcome] += 1
    assert said["refused by both"] > 20 and said["sound"] > 0 and said["seen by verify alone"] > 0


def test_a_planted_disagreement_is_noticed(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, known = read_shards(sound), {fuzz_folders.shown(sample) for sample in load(sound)}
    parts.shards[0][0].value["triplets"][-1]["instruction"] = "an <image> here"
    odd = parts.write(tmp_path / "odd")
    assert fuzz_folders.compared(odd, None) == (None, "refused by both")
    with monkeypatch.context() as planted:
        planted.setattr(verify, "sample_faults", lambda *_: ())
        fault, outcome = fuzz_folders.compared(odd, None)
        assert outcome == "disagreed" and "sound for verify, but load says" in str(fault)
    with monkeypatch.context() as planted:
        planted.setattr(store, "_verify", lambda _: None)
        fault, outcome = fuzz_folders.compared(odd, None)
        assert outcome == "disagreed" and "load(check='verify'): loads" in str(fault)
    shutil.copytree(sound, tmp_path / "flipped")
    shard = tmp_path / "flipped" / "shard-000.tar"
    data = bytearray(shard.read_bytes())
    data[data.index(b"\xff\xda") + 20] ^= 1  # among the pixels of its first picture
    shard.write_bytes(data)
    assert fuzz_folders.compared(tmp_path / "flipped", known) == (None, "refused by both")
    with monkeypatch.context() as planted:
        planted.setattr(store, "checksum_faults", lambda _: ())
        fault, outcome = fuzz_folders.compared(tmp_path / "flipped", known)
        assert outcome == "disagreed" and "pictures that were not there" in str(fault)


def test_hostile_tables_are_read_or_refused(tmp_path: Path) -> None:
    picture = corpus()["media/jpg"][0]
    counts: Counter[str] = Counter(tables=1)
    for seed in range(60):
        fuzz_tables.lay_out(tmp_path / f"{seed}" / "raw", random.Random(seed), picture, [("rows.parquet", b"PAR1")])
        fault = fuzz_tables.run_one(tmp_path / f"{seed}", counts, is_built=seed == 0)
        assert fault is None, f"seed {seed}: {fault}"
    assert counts["records"] > 100 and counts["rejects"] > 0 and counts["unreadable"] > 0


@pytest.mark.parametrize("shown", [[5, 6], [6, 5], [5, 5]])
def test_a_sample_with_the_picture_of_another_record_is_a_wrong_pair(tmp_path: Path, shown: list[int]) -> None:
    rows = []
    for said, number in zip((5, 6), shown, strict=True):
        put(tmp_path, f"raw/{number}.png", fuzz_pairs.picture(number))
        rows.append({"image": f"{number}.png", "instruction": f"Is it number {said}?", "answer": f"number {said}"})
    put_lines(tmp_path, "raw/rows.jsonl", rows)
    counts: Counter[str] = Counter()
    engine = LocalEngine(1)
    faults = fuzz_pairs.run_round(tmp_path, engine, counts)
    engine.close()
    wrong = [
        f"says [{said}] and shows [{number}]" for said, number in zip((5, 6), shown, strict=True) if said != number
    ]
    assert counts["samples"] == 2 and len(faults) == len(wrong)
    for fault, pair in zip(sorted(faults, key=lambda text: text.partition(" says ")[2]), wrong, strict=True):
        assert fault.startswith("wrong pair: ") and fault.endswith(pair)


def test_the_colours_of_a_picture_are_its_number_whatever_the_format() -> None:
    numbers = [0, 1, 215, 216, 46655, 12345]
    for format in ("PNG", "JPEG", "WEBP"):
        assert [fuzz_pairs.number_of(fuzz_pairs.picture(number, format)) for number in numbers] == numbers


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["fuzz_build", "fuzz_pairs", "fuzz_folders", "fuzz_tables"])
def test_a_minute_of_mutated_inputs(tmp_path: Path, tool: str) -> None:
    command = [sys.executable, "-m", f"tools.{tool}", "--seconds", "60", "--keep", str(tmp_path / "findings")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(result.stdout)  # noqa: T201 - the counts are worth reading
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 failed" in result.stdout
