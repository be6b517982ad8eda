"""Training a few rows of the embeddings is training all of them with the other gradients masked."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from torch import Tensor

from otter_train.model import PRESETS, Otter, TokenIds, build_model, freeze, trainable_count, trainable_parameters
from otter_train.model.config import LanguageConfig
from otter_train.training.optimizer import decayed, make_optimizer
from tests.factories.otter import CONFIG, IDS, inputs, otter

ADDED = sorted({IDS.image, IDS.endofchunk, IDS.answer, IDS.pad})


def model_of(*, tied: bool) -> Otter:
    architecture = {**CONFIG.language.architecture, "tie_word_embeddings": tied}
    return otter(replace(CONFIG, language=LanguageConfig(architecture=architecture)), gate=0.5)


def matrices(model: Otter) -> list[Tensor]:
    lm = model.language.lm
    return [lm.get_input_embeddings().weight, lm.get_output_embeddings().weight]


def train(model: Otter, steps: int) -> list[float]:
    optimizer = make_optimizer(model, lr=1e-2, weight_decay=0.1)
    losses = []
    for step in range(steps):
        batch = inputs([[1, 1], [], [2]], seed=step)
        labels = torch.where(batch.lang_x > 0, batch.lang_x, -100)  # the added tokens are learned too
        vision_x = batch.vision_x.to(matrices(model)[0].dtype)
        loss = model(vision_x, batch.lang_x, batch.attention_mask, labels, vision_mask=batch.vision_mask).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("tied", [False, True])
def test_ten_steps_equal_those_of_the_whole_matrices_with_masked_gradients(tied: bool) -> None:
    # AdamW makes a whole step of a rounding error where a gradient is almost 0; in float64 none of them is seen.
    rows, full = model_of(tied=tied).double(), model_of(tied=tied).double()
    freeze(rows, "new_rows")
    freeze(full, "full")
    mask = torch.zeros(len(matrices(full)[0]), 1)
    mask[ADDED] = 1
    for matrix in {id(matrix): matrix for matrix in matrices(full)}.values():
        matrix.register_hook(lambda gradient: gradient * mask)
    start = copy.deepcopy(rows)
    assert train(rows, 10) == pytest.approx(train(full, 10), abs=1e-12)
    changed = torch.tensor([bool((mask[row] > 0).item()) for row in range(len(mask))])
    assert torch.equal(matrices(rows)[0], matrices(start)[0])  # untouched until they are folded in
    freeze(rows, "none")
    for got, expected, before in zip(matrices(rows), matrices(full), matrices(start), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)
        assert torch.equal(got[~changed], before[~changed])
        assert not torch.equal(got[changed], before[changed])
    others = dict(full.named_parameters())
    for name, parameter in rows.named_parameters():
        torch.testing.assert_close(parameter, others[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("tied", "names"), [(False, {"new_rows.input", "new_rows.output"}), (True, {"new_rows.input"})]
)
def test_only_the_rows_are_trained_and_kept_by_the_optimiser(tied: bool, names: set[str]) -> None:
    model = model_of(tied=tied)
    freeze(model, "none")
    without = {name for name, _ in trainable_parameters(model)}
    freeze(model, "new_rows")
    assert {name for name, _ in trainable_parameters(model)} - without == names
    assert not names & decayed(model) and not names & decayed(model, whole_model=True)
    train(model, 1)
    optimizer = make_optimizer(model, lr=1e-2, weight_decay=0.1)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == trainable_count(model)
    assert all(matrix.grad is None for matrix in matrices(model))


@pytest.mark.parametrize("tied", [False, True])
def test_putting_them_in_and_folding_them_back_changes_no_logit(tied: bool) -> None:
    model = model_of(tied=tied)
    batch = inputs([[1, 1], [3]])
    call = (batch.vision_x, batch.lang_x, batch.attention_mask)
    with torch.no_grad():
        before = model(*call, vision_mask=batch.vision_mask).logits
        freeze(model, "new_rows", added_ids=[IDS.image, IDS.answer])
        assert model.new_rows is not None and model.new_rows.ids.tolist() == [IDS.answer, IDS.image]
        torch.testing.assert_close(model(*call, vision_mask=batch.vision_mask).logits, before)
        model.new_rows.input.add_(0.5)
        changed = model(*call, vision_mask=batch.vision_mask).logits
        assert not torch.allclose(changed, before)
        freeze(model, "full")
        assert model.new_rows is None
        torch.testing.assert_close(model(*call, vision_mask=batch.vision_mask).logits, changed)


def test_a_copy_has_rows_of_its_own() -> None:
    model = model_of(tied=False)
    freeze(model, "new_rows")
    twin = copy.deepcopy(model)
    batch = inputs([[1]])
    with torch.no_grad():
        before = model(batch.vision_x, batch.lang_x).logits
        assert twin.new_rows is not None
        twin.new_rows.input.add_(1.0)
        assert torch.equal(model(batch.vision_x, batch.lang_x).logits, before)
        assert not torch.equal(twin(batch.vision_x, batch.lang_x).logits, before)


def test_the_count_at_the_size_of_the_paper() -> None:
    ids = TokenIds(endofchunk=32000, image=32001, answer=32002, pad=32003)
    model = build_model(PRESETS["otter-9b"], vocab_size=32004, token_ids=ids, device="meta")
    freeze(model, "new_rows")
    assert trainable_count(model) == 1_178_834_960 + 2 * 4 * 4096 == 1_178_867_728
