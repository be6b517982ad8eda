"""LoRA adapters (Hu et al., arXiv 2106.09685) on the pretrained models, by `peft`.

Before the first step the model computes what it computed without them, bit for bit. A checkpoint holds them under the
names that `peft` gives their parameters. ``python -m otter_train.convert`` adds them to the weights that they belong
to, or with ``--to peft`` writes the adapters of the language model as a folder that `peft` loads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mimicit.errors import UsageError
from otter_train.config.run_config import RunConfig
from otter_train.model import Otter
from otter_train.model.language import decoder_layers
from otter_train.model.lazy import LazyTensor

if TYPE_CHECKING:
    from peft import LoraConfig

LANGUAGE: Final = "language.lm."
_NAME: Final = "default"  # what peft calls an adapter that has no other name
_KEY: Final = re.compile(rf"(.+)\.lora_(A|B)\.{_NAME}\.weight")


class Adapter(NamedTuple):
    """What is added to one matrix: ``scale * up @ down``, with ``down`` (rank, in) and ``up`` (out, rank)."""

    down: LazyTensor
    up: LazyTensor
    scale: float


def lora_config(config: RunConfig, targets: Iterable[str]) -> LoraConfig:
    """The adapters of ``config`` on the modules ``targets``, as `peft` describes them; `UsageError` without `peft`."""
    try:
        from peft import LoraConfig
    except ImportError:
        raise UsageError("--lora-rank needs peft: pip install 'mimicit[adapters]'") from None
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_scale * config.lora_rank,  # type: ignore[arg-type]
        target_modules=sorted(targets),
        base_model_name_or_path=config.language_model,
        task_type="CAUSAL_LM",
    )


def add_adapters(model: Otter, config: RunConfig, *, dtype: torch.dtype) -> None:
    """Put the adapters of ``config`` into ``model``, trained in ``dtype``; what is trained already stays so.

    With ``config.lora_only``, only they are trained. `UsageError` if a name in ``config.lora_targets`` is that of no
    layer, or a model has no layer to adapt.
    """
    if not config.lora_rank:
        return
    trained = set() if config.lora_only else {id(one) for one in model.parameters() if one.requires_grad}
    parts: dict[str, tuple[nn.Module, list[str]]] = {}
    if config.lora_on in ("language", "both"):
        parts["language"] = model.language.lm, _linear_in_layers(model.language.lm)
    if config.lora_on in ("vision", "both"):
        parts["vision"] = model.vision, _linear_in_tower(model)
    wanted = {name.strip() for name in config.lora_targets.split(",") if name.strip()}
    known = {_own_name(name) for _, linear in parts.values() for name in linear}
    if unknown := sorted(wanted - known):
        there = ", ".join(sorted(known))
        raise UsageError(f"--lora-targets: no layer is called {', '.join(unknown)}; there are: {there}")
    for place, (part, linear) in parts.items():
        targets = [name for name in linear if not wanted or _own_name(name) in wanted]
        if not targets:
            there = ", ".join(sorted({_own_name(name) for name in linear})) or "none that LoRA adapts"
            raise UsageError(f"--lora-on {config.lora_on}: the {place} model has no target; there are: {there}")
        _add(part, config, targets)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name) or id(parameter) in trained)
        if is_adapter(name):
            parameter.data = parameter.data.to(dtype)


def _add(part: nn.Module, config: RunConfig, targets: list[str]) -> None:
    described = lora_config(config, targets)
    from peft import inject_adapter_in_model

    inject_adapter_in_model(described, part, adapter_name=_NAME)


def _own_name(name: str) -> str:
    """``model.layers.0.self_attn.q_proj`` is called ``q_proj``."""
    return name.rpartition(".")[2]


def _linear_in_layers(lm: Any) -> list[str]:
    """The names in ``lm`` of the matrices in its decoder layers."""
    inside = {id(module) for layer in decoder_layers(lm) for module in layer.modules()}
    return [
        name for name, module in lm.named_modules() if isinstance(module, nn.Linear | Conv1D) and id(module) in inside
    ]


def _linear_in_tower(model: Otter) -> list[str]:
    """The names in the vision tower of the matrices that patch tokens depend on."""
    unused = {id(parameter) for parameter in model.vision.pooling_head()}
    return [
        name
        for name, module in model.vision.named_modules()
        # torch's own attention reads the weights of its output projection directly, and would ignore an adapter.
        if type(module) is nn.Linear and id(module.weight) not in unused
    ]


def is_adapter(name: str) -> bool:
    """Whether a parameter called ``name`` belongs to an adapter."""
    return _KEY.fullmatch(name) is not None


def adapters_of(weights: Mapping[str, LazyTensor], config: Mapping[str, Any]) -> dict[str, Adapter]:
    """The adapters among the ``weights`` of a checkpoint, by the name of the weight that each belongs to."""
    halves: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in weights.items():
        if match := _KEY.fullmatch(name):
            halves.setdefault(match[1], {})[match[2]] = tensor
    alpha, rank = config.get("lora_alpha"), config.get("lora_rank")
    scale = 2.0 if alpha is None or not rank else alpha / rank  # `RunConfig.lora_scale`, even if its models have moved
    return {f"{name}.weight": Adapter(pair["A"], pair["B"], scale) for name, pair in halves.items()}


def merged(base: LazyTensor, adapter: Adapter) -> LazyTensor:
    """``base`` (out, in), or (in, out) as GPT-2 has it, with ``adapter`` added in float32, in the dtype of ``base``."""
    transposed = base.shape != (adapter.up.shape[0], adapter.down.shape[1])

    def read() -> Tensor:
        added = adapter.scale * (adapter.up.read().float() @ adapter.down.read().float())
        whole = base.read()
        return (whole.float() + (added.T if transposed else added)).to(whole.dtype)

    return LazyTensor(base.shape, base.dtype, read)
