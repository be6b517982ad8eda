"""The cache of patch tokens: it changes no bit, keeps within its bounds, and believes no damaged or foreign file."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from torch import Tensor

from mimicit.errors import UsageError
from mimicit.records import Sample
from otter_train.data.batches import normalise
from otter_train.data.encoding import PromptEncoder
from otter_train.data.packed import PackedBatch, collate_packed
from otter_train.data.vision_cache import FeatureCache, tower_fingerprint
from otter_train.distributed import World
from otter_train.model import Otter, TokenIds, build_model, freeze, trainable_parameters
from otter_train.training.optimizer import make_optimizer
from otter_train.training.step import take_step
from tests.factories.train import MINUTE_MODEL, TOKENIZER, Colours, image, png, sample, triplet

CPU = torch.device("cpu")
ENCODER = PromptEncoder(TOKENIZER)
SPECIAL = ENCODER.special
PLENTY = 1 << 30
CLIP = sample(
    triplet("what?", "that", media=[0]), media=[image(*(png((9, 9, shade)) for shade in (1, 2, 3)), kind="video")]
)


def model() -> Otter:
    torch.manual_seed(0)
    ids = TokenIds(image=SPECIAL.image, endofchunk=SPECIAL.endofchunk, answer=SPECIAL.answer, pad=SPECIAL.pad)
    built = build_model(MINUTE_MODEL, vocab_size=len(TOKENIZER), token_ids=ids)
    freeze(built, "input_only")
    return built.train()


def batches(features: FeatureCache | None) -> Iterator[PackedBatch]:
    """Four with pictures that come again, one without any, and one with a clip and pictures known and new."""
    samples = [[Colours().get(place) for place in range(start, start + 3)] for start in (0, 3, 6, 0)]
    samples.append([sample(triplet("no picture"))])
    samples.append([Colours().get(1), CLIP, Colours().get(20), Colours().get(0)])
    for some in samples:
        yield collated(some, features)


def collated(samples: Sequence[Sample], features: FeatureCache | None) -> PackedBatch:
    cached = features.kept if features else None
    return collate_packed([ENCODER.encode(one) for one in samples], special=SPECIAL, image_size=16, cached=cached)


def tokens_of(batch: PackedBatch, features: FeatureCache) -> Tensor:
    return features.tokens(batch.vision_x, batch.picture_keys, batch.kept, batch.order)


def cache_in(folder: Path, built: Otter, limit_bytes: int = PLENTY) -> FeatureCache:
    return FeatureCache(folder, built.vision, dtype=torch.float32, limit_bytes=limit_bytes)


def losses(built: Otter, features: FeatureCache | None) -> tuple[list[float], dict[str, Tensor]]:
    optimizer = make_optimizer(built, lr=1e-3, weight_decay=0.1)
    found = [
        take_step(
            built, optimizer, [batch], device=CPU, world=World(), clip=1.0, precision="float32", features=features
        ).loss.item()
        for batch in batches(features)
    ]
    return found, {name: value.detach() for name, value in trainable_parameters(built)}


def test_training_with_the_cache_is_bit_for_bit_training_without(tmp_path: Path) -> None:
    expected, weights = losses(model(), None)
    for run in range(2):
        built = model()
        features = cache_in(tmp_path, built)
        found, others = losses(built, features)
        assert found == expected
        assert all(torch.equal(others[name], value) for name, value in weights.items())
        assert features.hits > 0 and (features.misses > 0) == (run == 0)


def test_a_kept_picture_does_not_go_through_the_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = model()
    cache_in(tmp_path, built).tokens(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), ["a"])
    monkeypatch.setattr(built.vision, "patch_tokens", None)
    assert cache_in(tmp_path, built).tokens(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), ["a"]).shape == (1, 4, 32)


def test_a_kept_picture_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = cache_in(tmp_path, model())
    known = [Colours().get(place) for place in range(3)]
    first = collated(known, features)
    expected = tokens_of(first, features)
    monkeypatch.setattr("otter_train.data.batches.decode_media", None)
    again = collated(known, features)
    assert len(again.vision_x) == 0 and again.pictures == first.pictures > 0
    assert torch.equal(tokens_of(again, features), expected)


def test_known_and_new_pictures_keep_their_order(tmp_path: Path) -> None:
    features = cache_in(tmp_path, model())
    everything = [Colours().get(1), CLIP, Colours().get(20), Colours().get(0)]
    plain = collated(everything, features)
    vision = model().vision
    expected = vision(normalise(plain.vision_x, vision.mean, vision.std))
    for known in ([Colours().get(20)], [CLIP], [Colours().get(0), Colours().get(1)]):
        tokens_of(collated(known, features), features)
        mixed = collated(everything, features)
        assert len(mixed.vision_x) < len(plain.vision_x) == mixed.pictures
        found = tokens_of(mixed, features)
        torch.testing.assert_close(found, expected)


def test_a_clip_with_a_frame_that_is_lost_is_decoded(tmp_path: Path) -> None:
    features = cache_in(tmp_path, model())
    batch = collated([CLIP], features)
    expected = tokens_of(batch, features)
    features.kept.path(batch.picture_keys[1]).unlink()
    again = collated([CLIP], features)
    assert again.picture_keys == batch.picture_keys and again.kept is None
    assert torch.equal(tokens_of(again, features), expected)


def test_other_weights_have_tokens_of_their_own(tmp_path: Path) -> None:
    built = model()
    other = copy.deepcopy(built)
    with torch.no_grad():
        next(iter(other.vision.parameters())).add_(1)
    assert tower_fingerprint(built.vision) == tower_fingerprint(model().vision) != tower_fingerprint(other.vision)
    pictures = torch.ones(1, 3, 16, 16, dtype=torch.uint8)
    first = cache_in(tmp_path, built).tokens(pictures, ["a"])
    assert not torch.equal(first, cache_in(tmp_path, other).tokens(pictures, ["a"]))


def test_a_tower_may_count_what_it_has_seen() -> None:
    """Batch normalisation holds a number without dimensions."""
    built = model()
    before = tower_fingerprint(built.vision)
    built.vision.register_buffer("batches", torch.tensor(3))
    assert len({before, tower_fingerprint(built.vision)}) == 2


def test_it_keeps_within_its_bounds_and_goes_on(tmp_path: Path) -> None:
    built = model()
    pictures = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8)
    names = [f"{number:064d}" for number in range(6)]
    expected = cache_in(tmp_path / "all", built).tokens(pictures, names)
    one = next((tmp_path / "all").rglob("*.safetensors")).stat().st_size
    for _ in range(2):  # what is there counts against the limit of the next process
        bounded = cache_in(tmp_path / "some", built, limit_bytes=5 * one // 2)
        assert torch.equal(bounded.tokens(pictures, names), expected)
        assert len(list((tmp_path / "some").rglob("*.safetensors"))) == 2


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, None])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    built = model()
    pictures = torch.ones(1, 3, 16, 16, dtype=torch.uint8)
    expected = cache_in(tmp_path, built).tokens(pictures, ["a"])
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-7] if damage is None else damage)
    assert torch.equal(cache_in(tmp_path, built).tokens(pictures, ["a"]), expected)
    assert path.read_bytes() == whole


def test_training_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = cache_in(tmp_path, model())
    monkeypatch.setattr("os.fsync", None)
    features.tokens(torch.ones(1, 3, 16, 16, dtype=torch.uint8), ["a"])
    assert features.kept.read("a") is not None


def test_a_tower_that_is_trained_has_no_cache(tmp_path: Path) -> None:
    built = model()
    built.vision.set_trainable(True)
    with pytest.raises(UsageError, match="--vision-cache"):
        cache_in(tmp_path, built)
