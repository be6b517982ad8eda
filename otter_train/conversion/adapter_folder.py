"""The adapters of a run's language model as a folder that `peft` loads beside the model they were trained on."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from mimicit.errors import UsageError
from otter_train.checkpoint.files import is_checkpointed, open_checkpoint
from otter_train.config.run_config import RunConfig
from otter_train.conversion.weight_files import read_weights
from otter_train.model.adapters import LANGUAGE, adapters_of, lora_config

__all__ = ["write_adapter"]

_BASE = "base_model.model."  # how `peft` calls the model around which it lays itself


def write_adapter(source: Path, target: Path, *, dtype: torch.dtype | None = None) -> int:
    """Write the adapters of the run or checkpoint ``source`` into the new folder ``target``; how many there are.

    `UsageError` where ``source`` trained none on its language model, or ``target`` is there.
    """
    if not is_checkpointed(source):
        raise UsageError(f"{source}: no training run; --to peft writes the adapters that a run has trained")
    checkpoint = open_checkpoint(source)
    config = RunConfig.from_json(checkpoint.meta["config"])
    found = adapters_of(read_weights(checkpoint.folder / "model.safetensors"), checkpoint.meta["config"])
    adapters = {name.removeprefix(LANGUAGE): one for name, one in found.items() if name.startswith(LANGUAGE)}
    if not adapters:
        raise UsageError(f"{source}: trained no adapters on its language model; --lora-rank makes a run train some")
    if target.exists():
        raise UsageError(f"{target}: is there already; give a new folder")
    target.mkdir(parents=True)
    tensors = {}
    for name, adapter in adapters.items():
        module = _BASE + name.removesuffix(".weight")
        for half, tensor in (("lora_A", adapter.down), ("lora_B", adapter.up)):
            tensors[f"{module}.{half}.weight"] = tensor.read().to(tensor.dtype if dtype is None else dtype).contiguous()
    save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
    lora_config(config, (name.removesuffix(".weight") for name in adapters)).save_pretrained(str(target))
    return len(adapters)
