"""One step: the split of a batch does not matter, and where there is nothing to learn nothing changes, on any rank."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
import torch.multiprocessing
from torch import Tensor
from torch.optim import SGD

from otter_train.data.batches import Batch
from otter_train.distributed import World, join_world, shard, whole
from otter_train.model import freeze, trainable_parameters
from otter_train.training.optimizer import make_optimizer
from otter_train.training.step import StepResult, take_step
from tests.factories.steps import CPU, SAMPLES, batch, model


def step(group: list[Batch | None], world: World | None = None) -> tuple[dict[str, Tensor], StepResult]:
    """The gradient of a step, read off what plain gradient descent with rate 1 changes."""
    trained = model()
    shard(trained, world or World(), CPU)
    before = {name: whole(value.detach()).clone() for name, value in trainable_parameters(trained)}
    optimizer = SGD([value for _, value in trainable_parameters(trained)], lr=1.0)
    result = take_step(trained, optimizer, group, device=CPU, world=world or World(), clip=0.0, precision="float32")
    return {name: before[name] - whole(value.detach()) for name, value in trainable_parameters(trained)}, result


@pytest.mark.parametrize("parts", [[1, 6], [5, 1, 1], [1, 1, 1, 1, 1, 1, 1], [2, 0, 5]])
def test_unequal_micro_batches_have_the_gradient_of_one_big_batch(parts: list[int]) -> None:
    whole, one = step([batch(*SAMPLES)])
    split: list[Batch | None] = []
    rest = list(SAMPLES)
    for count in parts:
        split.append(batch(*rest[:count]) if count else None)
        rest = rest[count:]
    labels = [part.labelled for part in split if part is not None]
    assert len(set(labels)) > 1  # a mean of means would be another number
    pieces, many = step(split)
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=0, atol=1e-6)
    assert float(many.loss) == pytest.approx(float(one.loss), rel=1e-6)
    assert many.labelled == one.labelled == sum(labels)


def test_without_any_label_the_loss_is_nought_and_nothing_changes() -> None:
    gradient, result = step([batch(*SAMPLES, masked=True), None])
    assert float(result.loss) == 0.0 and result.labelled == 0 and torch.isfinite(result.gradient_norm)
    assert all(not change.any() for change in gradient.values())
    everything = batch(*SAMPLES[:3], masked=True)
    forward = model()(everything.vision_x.float(), everything.lang_x, everything.attention_mask, everything.labels)
    assert forward.loss.item() == 0.0
    forward.loss.backward()  # finite all the way back
    mixed, with_some = step([batch(*SAMPLES), batch(*SAMPLES, masked=True)])
    plain, _ = step([batch(*SAMPLES)])
    assert with_some.labelled > 0 and all(torch.equal(mixed[name], plain[name]) for name in plain)


def test_what_is_frozen_has_no_gradient_and_no_state() -> None:
    trained = model()
    freeze(trained, "input_only")
    frozen = {name: value.detach().clone() for name, value in trained.named_parameters() if not value.requires_grad}
    optimizer = make_optimizer(trained, lr=1e-2, weight_decay=0.1)
    seen: list[str] = []
    for name, value in trained.named_parameters():
        if value.requires_grad:
            value.register_hook(lambda gradient, name=name: seen.append(name))
    take_step(trained, optimizer, [batch(*SAMPLES)], device=CPU, world=World(), clip=1.0, precision="float32")
    assert frozen and not any("vision" in name for name in seen)
    held = {id(value) for value in optimizer.state}
    assert held == {id(value) for _, value in trainable_parameters(trained)}
    for name, value in trained.named_parameters():
        if name in frozen:
            assert value.grad is None and torch.equal(value, frozen[name])


def _rank(rank: int, folder: str, port: int) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    world = join_world(CPU)
    groups: list[list[Batch | None]] = [
        [batch(*SAMPLES[:2]) if rank == 0 else batch(*SAMPLES[2:])],
        [batch(*SAMPLES, masked=True)],
        [batch(*SAMPLES) if rank == 0 else batch(*SAMPLES, masked=True)],
        [None if rank == 0 else batch(*SAMPLES)],
    ]
    torch.save([step(group, world) for group in groups], Path(folder) / f"{rank}.pt")


def test_ranks_stay_in_step_whoever_has_labels(tmp_path: Path) -> None:
    port = 20_000 + (os.getpid() + 7919) % 20_000
    torch.multiprocessing.start_processes(  # type: ignore[no-untyped-call]
        _rank, (str(tmp_path), port), nprocs=2, start_method="fork"
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    alone, _ = step([batch(*SAMPLES)])
    for number, ((mine, result), (theirs, other)) in enumerate(zip(first, second, strict=True)):
        assert result.labelled == other.labelled and torch.equal(result.gradient_norm, other.gradient_norm)
        for name, gradient in mine.items():
            assert torch.equal(gradient, theirs[name])
            expected = torch.zeros_like(gradient) if number == 1 else alone[name]
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)
