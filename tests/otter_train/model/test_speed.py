"""Recomputed activations and compiled layers: less memory or less time, and the same gradients."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch
from torch import Tensor

from mimicit.errors import UsageError
from otter_train.model import Otter, freeze
from otter_train.model.otter import token_nats
from otter_train.model.speed import compile_blocks, recompute_activations
from tests.factories.otter import inputs, otter
from tests.factories.packing import gradients, packed_loss

BATCHES = (inputs([[1, 1], [], [1]]), inputs([[1], [1], [1, 1]], seed=1), inputs([[1, 1, 1], []], seed=2))


def model() -> Otter:
    built = otter().train()
    freeze(built, "input_only")
    return built


def saved_by(built: Otter) -> tuple[dict[str, Tensor], int]:
    """The gradients of a packed batch, and the numbers that were kept for them."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss, _ = packed_loss(built, BATCHES[0])
    return gradients(built, loss), sum(kept.values())


def test_recomputing_more_keeps_less_and_changes_no_gradient() -> None:
    expected, before = saved_by(model())
    sizes = [before]
    for every in (2, 1):
        built = model()
        recompute_activations(built, every)
        found, size = saved_by(built)
        sizes.append(size)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5, msg=name)
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    recompute_activations(built, 0)
    assert not any(layer.gradient_checkpointing for layer in built.language.lm.model.layers)
    with pytest.raises(UsageError, match="-1"):
        recompute_activations(built, -1)


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_chunks_of_logits_change_neither_losses_nor_gradients(chunk: int) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 11, bias=False)
    hidden, targets = torch.randn(7, 6, requires_grad=True), torch.randint(0, 11, (7,))
    weights = torch.rand(7)
    expected = torch.nn.functional.cross_entropy(head(hidden), targets, reduction="none")
    found = token_nats(hidden, targets, head, chunk=chunk)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad((expected * weights).sum(), [hidden, head.weight])
    for gradient, other in zip(
        torch.autograd.grad((found * weights).sum(), [hidden, head.weight]), wanted, strict=True
    ):
        torch.testing.assert_close(gradient, other)


def test_no_more_logits_than_a_chunk_are_held() -> None:
    head = torch.nn.Linear(4, 50, bias=False)
    rows: list[int] = []
    head.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    token_nats(
        torch.randn(20, 4, requires_grad=True), torch.zeros(20, dtype=torch.long), head, chunk=8
    ).sum().backward()  # type: ignore[no-untyped-call]
    assert max(rows) == 8 and sum(rows) == 2 * 20  # each chunk once more in the backward pass
    rows.clear()
    token_nats(torch.randn(8, 4), torch.zeros(8, dtype=torch.long), head, chunk=8)
    assert rows == [8]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # dynamo reads it
def test_compiled_layers_compile_once_and_change_no_gradient() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()  # of whatever was compiled before
    expected = [gradients(built, packed_loss(built, batch, multiple=64)[0]) for built in [model()] for batch in BATCHES]
    built = model()
    names = set(built.state_dict())
    compile_blocks(built)
    assert set(built.state_dict()) == names
    graphs = 0
    for number, (batch, gradient) in enumerate(zip(BATCHES, expected, strict=True)):
        found = gradients(built, packed_loss(built, batch, multiple=64)[0])
        for name, value in gradient.items():
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)
        if number == 0:
            graphs = counters["stats"]["unique_graphs"]
    assert counters["stats"]["unique_graphs"] == graphs > 0  # other documents, the same shape: nothing new to compile
