"""Lengths from the index: near the true ones, rows that keep the budget, and mixtures that keep their shares."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from mimicit.errors import UsageError
from mimicit.loading import Mixture, Samples, load
from mimicit.loading.packing import PackedSamples
from mimicit.pipeline import BuildConfig, build_shards
from otter_train.data.encoding import PromptEncoder
from otter_train.data.lengths import estimate_lengths, showable, within_budget
from tests.factories import raw as make
from tests.factories.loading import InProcess, small_shards
from tests.factories.train import TOKENIZER, Colours

ENCODER = PromptEncoder(TOKENIZER)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 samples of two sources; a character of the second is more than one token, of the first less."""
    place = tmp_path_factory.mktemp("lengths")
    rng = np.random.default_rng(0)
    for name, letters in (("plain", "yesnored "), ("foreign", "жщюя漢字")):
        source = place / "raw" / name
        source.mkdir(parents=True)
        (source / "0.jpg").write_bytes(make.picture(0))
        rows: list[dict[str, Any]] = [
            {
                "id": f"{name}-{number}",
                "media": "0.jpg",
                "instruction": "".join(rng.choice(list(letters), int(rng.integers(5, 30)))) + f" {number}?",
                "answer": "".join(rng.choice(list(letters), int(rng.integers(1, 90)))) + ".",
            }
            for number in range(150)
        ]
        make.write_manifest(source, rows)
    build_shards(place / "raw", place / "shards", BuildConfig(shots=1), engine=InProcess())
    return place / "shards"


def true_lengths(samples: Samples, encoder: PromptEncoder = ENCODER) -> list[int]:
    rows = samples.rows().tolist()
    return [len(encoder.encode(samples.store.read(row)).ids) for row in rows]


@pytest.mark.parametrize("where", [None, {"source": "foreign"}, {"max_characters": 150}])
def test_estimates_are_near_the_truth(shards: Path, where: Any) -> None:
    samples = load(shards, where=where)
    encoder = ENCODER.without_limit()
    truth = np.array(true_lengths(samples, encoder))
    found = estimate_lengths(samples, encoder)
    assert found.tokens.shape == truth.shape
    assert abs(found.tokens.sum() / truth.sum() - 1) < 0.04
    missed = found.tokens / truth - 1
    assert np.abs(missed).max() < 6 * found.error.max()
    assert missed.std() == pytest.approx(found.error.mean(), rel=0.5)
    plain_rate = truth.sum() / sum(len(sample.query.answer) for sample in samples)
    assert plain_rate > 1  # or the two sources would not differ


def test_a_prompt_that_is_cut_costs_what_is_left(shards: Path) -> None:
    samples = load(shards)
    short = PromptEncoder(TOKENIZER, max_tokens=60)
    assert max(true_lengths(samples, short)) <= estimate_lengths(samples, short).tokens.max() == 60
    assert estimate_lengths(samples, short).costs(60).max() == 60


def test_only_some_samples_are_read(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = load(shards)
    read: list[int] = []
    store_read = type(samples.store).read
    monkeypatch.setattr(type(samples.store), "read", lambda self, row: read.append(row) or store_read(self, row))
    estimate_lengths(samples, ENCODER)
    assert 0 < len(read) <= 2 * 64


@pytest.mark.parametrize("budget", [600, 2000])
def test_rows_hold_every_sample_once_and_hardly_ever_more_than_the_budget(
    shards: Path, tmp_path: Path, budget: int
) -> None:
    samples = load(shards, shuffle="full")
    rows = within_budget(samples, ENCODER, budget, tmp_path)
    assert isinstance(rows, PackedSamples)
    truth = dict(zip(samples.rows().tolist(), true_lengths(samples), strict=True))
    packs = rows.addresses(range(len(rows)))
    assert sorted(row for pack in packs for row in pack) == sorted(truth)
    tokens = [sum(truth[row] for row in pack) for pack in packs]
    assert sum(row > budget for row in tokens) < 0.1 * len(tokens) and max(tokens) < 1.03 * budget
    assert sum(tokens) / len(tokens) > 0.8 * budget


def test_a_row_holds_the_longest_prompt_however_small_the_budget(shards: Path, tmp_path: Path) -> None:
    encoder = PromptEncoder(TOKENIZER, max_tokens=60)
    rows = within_budget(load(shards), encoder, 60, tmp_path)
    assert len(rows) >= 150


def test_the_same_folder_has_the_same_rows_and_another_budget_others(shards: Path, tmp_path: Path) -> None:
    first, again, other = (
        within_budget(load(shards, shuffle="full"), ENCODER, budget, tmp_path / str(place))
        for place, budget in enumerate((900, 900, 901))
    )
    assert first.fingerprints == again.fingerprints != other.fingerprints
    assert first.addresses(range(20)) == again.addresses(range(20))


def test_a_mixture_keeps_its_shares_of_samples(shards: Path, tmp_path: Path) -> None:
    other = load(small_shards(tmp_path, 120), shuffle="full")  # shorter: its rows hold more samples
    mixture = Mixture([load(shards, shuffle="full"), other], [3, 1], window=512)
    rows = within_budget(mixture, ENCODER, 1200, tmp_path / "rows")
    assert isinstance(rows, Mixture)
    per_row = [len(part) / len(packed) for part, packed in zip(mixture.parts, rows.parts, strict=True)]
    assert max(per_row) > 1.2 * min(per_row)
    seen = Counter[int]()
    for number, pack in rows.addresses(range(4 * 512)):
        seen[number] += len(pack)
    assert seen[0] / seen[1] == pytest.approx(3, rel=0.03)


@pytest.mark.parametrize(
    "samples", [Colours(), Mixture([Colours()], [1]), Mixture([Colours()], [1]).reweighted([2], 2048)]
)
def test_samples_without_an_index_are_refused_by_name(tmp_path: Path, samples: Any) -> None:
    with pytest.raises(UsageError, match=r"--batch-tokens.*--batch-size"):
        within_budget(samples, ENCODER, 999, tmp_path)


@pytest.mark.parametrize("mixed", [False, True])
def test_samples_with_more_pictures_than_tokens_are_left_out_by_name(tmp_path: Path, mixed: bool) -> None:
    source = tmp_path / "raw" / "many"
    source.mkdir(parents=True)
    (source / "0.jpg").write_bytes(make.picture(0))
    rows = [
        {"id": f"p{n}", "media": ["0.jpg"] * count, "instruction": "q", "answer": "a"}
        for n, count in enumerate((1, 40, 30, 31, 2))
    ]
    make.write_manifest(source, rows)
    build_shards(tmp_path / "raw", tmp_path / "shards", BuildConfig(context="none"), engine=InProcess())
    samples: Any = load(tmp_path / "shards", shuffle="full")
    if mixed:
        samples = Mixture([samples, load(tmp_path / "shards", shuffle="full", where={"max_media": 2})], [1, 1])
    kept, why = showable(samples, PromptEncoder(TOKENIZER, max_tokens=31))
    shown = {sample.id for sample in map(kept.fetch, kept.addresses(range(40))) if sample is not None}
    assert shown == {"p0", "p2", "p4"}  # p2 leaves no room for its question, which only its prompt tells
    assert [line.split(" pictures")[0] for line in why] == ["sample 'p1' of many: 40", "sample 'p3' of many: 31"]
    assert showable(samples, ENCODER) == (samples, [])
    with pytest.raises(UsageError, match=r"none of the .*--max-tokens"):
        showable(load(tmp_path / "shards", where={"min_media": 40}), PromptEncoder(TOKENIZER, max_tokens=31))
