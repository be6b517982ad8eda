"""Packed batches: the same prompts, losses and steps as padded ones, and rows that keep their budget."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from hypothesis import given
from hypothesis import strategies as st

from mimicit.loading import load
from mimicit.loading.order import Slots
from mimicit.loading.packing import Pack
from mimicit.records import Sample
from otter_train.config.run_config import LabelMode, RunConfig
from otter_train.data.batches import collate
from otter_train.data.encoding import PromptEncoder
from otter_train.data.lengths import within_budget
from otter_train.data.micro_batches import GroupCollator, training_loader
from otter_train.data.packed import PackedBatch, collate_packed
from otter_train.data.vision_cache import KeptTokens
from otter_train.distributed import World
from otter_train.model import Otter, TokenIds, build_model, freeze, trainable_parameters
from otter_train.training.flops import Work
from otter_train.training.optimizer import make_optimizer
from otter_train.training.step import batch_loss, take_step
from tests.factories.loading import small_shards
from tests.factories.train import MINUTE_MODEL, TOKENIZER, Colours, conversation, image, png, sample, triplet

CPU = torch.device("cpu")
ENCODER = PromptEncoder(TOKENIZER)
SPECIAL = ENCODER.special
CLIP = sample(
    triplet("yes?", "no " * 9, media=[0]), media=[image(*(png((9, 9, shade)) for shade in (1, 2, 3)), kind="video")]
)
SAMPLES = [*(Colours().get(place) for place in range(5)), conversation(), CLIP, sample(triplet("no picture"), id="t")]


def model(embeddings: str = "full", *, everything: bool = True) -> Otter:
    torch.manual_seed(0)
    ids = TokenIds(image=SPECIAL.image, endofchunk=SPECIAL.endofchunk, answer=SPECIAL.answer, pad=SPECIAL.pad)
    built = build_model(MINUTE_MODEL, vocab_size=len(TOKENIZER), token_ids=ids)
    freeze(built, embeddings, train_vision=everything, train_language=everything)  # type: ignore[arg-type]
    return built.train()


def packed(*samples: Sample, multiple: int = 64, cached: KeptTokens | None = None) -> PackedBatch:
    prompts = [ENCODER.encode(one) for one in samples]
    return collate_packed(prompts, special=SPECIAL, image_size=16, multiple=multiple, cached=cached)


@given(st.lists(st.sampled_from(SAMPLES), min_size=1, max_size=6), st.sampled_from([1, 64]))
def test_packed_and_padded_batches_have_the_same_losses(samples: list[Sample], multiple: int) -> None:
    built = MODEL
    padded = collate([ENCODER.encode(one) for one in samples], pad=SPECIAL.pad, image_size=16)
    row = packed(*samples, multiple=multiple)
    with torch.no_grad():
        expected, found = batch_loss(built, padded, "float32"), batch_loss(built, row, "float32")
    torch.testing.assert_close(found.row_nats, expected.row_nats, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-5, rtol=0)
    assert (row.ids, row.sources, row.labelled, row.cut) == (padded.ids, padded.sources, padded.labelled, padded.cut)
    assert row.lang_x.shape[1] % multiple == 0 and row.tokens == padded.tokens
    work = Work.of(row)
    assert (work.tokens, work.pictures, work.labelled) == (row.tokens, row.pictures, row.labelled)


MODEL = model()


def test_a_medium_is_held_once_however_often_it_is_shown() -> None:
    row = packed(*SAMPLES)
    distinct = {medium.data for one in SAMPLES for medium in one.media}
    shown = sum(len(one.media) for one in SAMPLES)
    assert len(row.packing.frames) == len(distinct) < shown
    assert row.pictures == sum(map(len, distinct))


def test_media_are_the_same_by_their_bytes_and_not_by_what_they_claim(tmp_path: Path) -> None:
    red, blue = image(png((255, 0, 0))), image(png((0, 0, 255)))
    forged = sample(triplet(media=[0]), triplet(media=[1]), media=[red, replace(blue, sha256=red.sha256)])
    row = packed(forged, cached=KeptTokens(tmp_path))
    assert len(row.vision_x) == 2
    assert row.picture_keys == tuple(hashlib.sha256(medium.data[0]).hexdigest() for medium in forged.media)


def test_training_on_packed_rows_is_training_on_padded_ones() -> None:
    weights = []
    for make in (lambda: collate([ENCODER.encode(one) for one in SAMPLES], pad=SPECIAL.pad, image_size=16), _row):
        trained = model("input_only")
        optimizer = make_optimizer(trained, lr=1e-3, weight_decay=0.1, whole_model=True)
        for _ in range(5):
            result = take_step(trained, optimizer, [make()], device=CPU, world=World(), clip=1.0, precision="float32")
        weights.append(({name: value.detach() for name, value in trainable_parameters(trained)}, result.loss))
    (padded, padded_loss), (row, row_loss) = weights
    torch.testing.assert_close(row_loss, padded_loss, atol=1e-4, rtol=0)
    for name, value in padded.items():
        torch.testing.assert_close(row[name], value, atol=1e-3, rtol=0, msg=name)


@pytest.mark.parametrize("label_mode", ["span", "paper"])
def test_the_default_step_is_a_padded_batch_of_four(label_mode: LabelMode) -> None:
    """Of otter-9b in small: the same loss, loss of each sample, gradients and gradient norm, to 1e-6 in float32."""
    chosen = RunConfig(preset="tiny", embeddings="full", label_mode=label_mode)
    assert chosen.batch_size == 4 and chosen.batch_tokens == 0  # what otter-9b takes, which asks for folders of weights
    encoder = PromptEncoder(TOKENIZER, max_tokens=chosen.max_tokens, label_mode=chosen.label_mode)
    built = model(chosen.embeddings, everything=False)
    assert built.language.can_pack
    found = []
    for samples in (SAMPLES[:4], SAMPLES[4:]):
        for packs in (False, True):
            collator = GroupCollator(encoder=encoder, image_size=16, packed=packs)
            (batch,) = collator(Slots(0, (0, 1, 2, 3), tuple(samples)))
            assert batch is not None and isinstance(batch, PackedBatch) == packs
            built.zero_grad()
            loss = batch_loss(built, batch, "float32")
            loss.mean.backward()  # type: ignore[no-untyped-call]
            gradients = {name: value.grad.clone() for name, value in trainable_parameters(built)}  # type: ignore[union-attr]
            norm = torch.stack([value.norm() for value in gradients.values()]).norm()
            found.append((loss.mean.detach(), loss.row_nats / batch.labelled, norm, gradients))
        padded, packed = found[-2:]
        assert padded[0].item() > 0.1
        for ours, theirs in zip(packed[:3], padded[:3], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
        for name, gradient in padded[3].items():
            torch.testing.assert_close(packed[3][name], gradient, atol=1e-6 * padded[2].item(), rtol=1e-6, msg=name)


def _row() -> PackedBatch:
    return packed(*SAMPLES)


def test_a_step_asks_the_device_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each of these would wait until all the work before is done."""
    trained, row = model("new_rows", everything=False), packed(*SAMPLES)
    optimizer = make_optimizer(trained, lr=1e-3, weight_decay=0.1)
    asked: list[str] = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "nonzero", "numpy", "cpu"):
        original = getattr(torch.Tensor, name)

        def note(self: torch.Tensor, *args: object, name: str = name, original: object = original) -> object:
            asked.append(name)
            return original(self, *args)  # type: ignore[operator]

        monkeypatch.setattr(torch.Tensor, name, note)
    result = take_step(trained, optimizer, [row], device=CPU, world=World(), clip=1.0, precision="float32")
    monkeypatch.undo()
    assert asked == [] and result.loss.item() > 0


def test_rows_keep_the_budget_and_hold_every_sample_once(tmp_path: Path) -> None:
    samples = load(small_shards(tmp_path, 40), shuffle="full")
    costs = {one.id: len(ENCODER.encode(one).ids) for one in samples}
    budget = 3 * max(costs.values())
    rows = within_budget(samples, ENCODER, budget, tmp_path / "rows")
    assert len(rows) < len(samples) / 2
    collator = GroupCollator(encoder=ENCODER, image_size=16, packed=True, end=len(rows))
    seen: list[str] = []
    for (batch,) in training_loader(rows, collator, batch_size=1, steps=len(rows), world=World()):
        assert isinstance(batch, PackedBatch) and batch.tokens == sum(costs[id] for id in batch.ids) <= budget
        seen += batch.ids
    assert sorted(seen) == sorted(costs)


def test_a_micro_batch_of_packs_is_one_row() -> None:
    packs = [Pack(samples=tuple(SAMPLES[:2])), Pack(samples=(SAMPLES[3],)), None, Pack(samples=(SAMPLES[4],))]
    collator = GroupCollator(encoder=ENCODER, image_size=16, packed=True, accumulate=2, end=3)
    group = collator(Slots(0, (0, 1, 2, 3), tuple(packs)))
    assert [batch.ids if batch else None for batch in group] == [
        tuple(one.id for one in SAMPLES[:2]),
        (SAMPLES[3].id,),
    ]
