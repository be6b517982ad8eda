"""What the weights of Otter-9B take on one device: bytes per weight of a measured layer, the rest by arithmetic.

One decoder layer of LLaMA-7B's shape is made (0.4 GB), stored in bfloat16, int8 and NF4, and its bytes are counted. The
numbers of weights are those of the model on the meta device. Activations are not in it.

    python -m tools.model_memory
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from otter_train.config.run_config import Quantised
from otter_train.model import TokenIds, build_model, freeze, preset, trainable_count
from otter_train.model.speed import check_quantiser, quantise, quantised_count

_KINDS: tuple[Quantised, ...] = ("int8", "nf4")
_LORA_16 = 39_976_960  # of rank 16, on all matrices of 32 layers: 16 x (their inputs and outputs)
_GB = 1e9


def main() -> None:
    """Print the table of docs/training.md."""
    for kind in _KINDS:
        check_quantiser(kind)
    matrices, others = _of_language()
    rates: dict[str, float] = {"bfloat16": 2.0}
    for kind in _KINDS:
        layer = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, vocab_size=8)).bfloat16().requires_grad_(False)
        quantise(layer, kind, torch.device("cpu"))
        weights = [one for one in layer.parameters() if hasattr(one, "__tensor_flatten__")]
        rates[kind] = sum(map(_stored, weights)) / quantised_count(layer)
        print(f"measured: {rates[kind]:.4f} bytes a weight as {kind}")
    otter = _otter()
    trained = trainable_count(otter)
    tower = sum(one.numel() for one in otter.vision.parameters())
    print(f"{matrices:,} weights in matrices of layers, {others:,} others, {tower:,} in the tower, {trained:,} trained")
    print(f"{'frozen language model':<22}{'frozen':>8}{'trained, 16 bytes':>20}{'12 bytes':>10}{'LoRA alone':>12}")
    for name, rate in rates.items():
        frozen = (rate * matrices + 2 * others + 2 * tower) / _GB
        totals = (
            frozen + 16 * trained / _GB,
            frozen + 12 * trained / _GB,
            frozen + (4 * trained + 16 * _LORA_16) / _GB,
        )
        print(f"{name:<22}{frozen:8.1f}{totals[0]:20.1f}{totals[1]:10.1f}{totals[2]:12.1f}   GB")


def _otter() -> Any:
    ids = TokenIds(image=32000, endofchunk=32001, answer=32002, pad=32003)
    model = build_model(preset("otter-9b"), vocab_size=32_004, token_ids=ids, device="meta")
    freeze(model, "none")
    return model


def _of_language() -> tuple[int, int]:
    """Weights of LLaMA-7B that `quantise` stores in few bits, and the others."""
    with torch.device("meta"):
        lm = LlamaForCausalLM(LlamaConfig(vocab_size=32_004))
    matrices = sum(one.weight.numel() for one in lm.model.layers.modules() if isinstance(one, nn.Linear))
    return matrices, sum(one.numel() for one in lm.parameters()) - matrices


def _stored(weight: Tensor) -> int:
    return sum(one.untyped_storage().nbytes() for one in _inner(weight))


def _inner(weight: Any) -> Iterator[Tensor]:
    for name in weight.__tensor_flatten__()[0]:
        yield getattr(weight, name)


if __name__ == "__main__":
    main()
