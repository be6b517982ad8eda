"""The files next to weights in a folder: configuration, tokenizer, processor, as the readers of a layout expect.

The adapters of a run's language model make a folder of their own, which `peft` loads on top of the model that they
were trained on.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig

from mimicit.errors import UsageError
from mimicit.schema import canonical_json
from mimicit.shards.files import write_atomically
from otter_train.checkpoint.files import is_checkpointed, open_checkpoint
from otter_train.checkpoint.meta import find_parts
from otter_train.config.command_line import absolute_path
from otter_train.config.run_config import RunConfig
from otter_train.conversion.source import Origin, write_published
from otter_train.conversion.weight_files import read_weights
from otter_train.data.tokenizer import load_tokenizer, special_ids
from otter_train.model import TokenIds, build_model
from otter_train.model.adapters import LANGUAGE, adapters_of, is_adapter, lora_config
from otter_train.model.config import ModelConfig
from otter_train.model.layouts import Layout
from otter_train.model.vision import VisionLayout
from otter_train.pretrained import OtterConfig, OtterProcessor

_BASE = "base_model.model."  # what `peft` calls the model that it wraps


def write_description(folder: Path, origin: Origin, layout: Layout, *, vision: VisionLayout) -> list[Path]:
    """Write into ``folder`` what is known about the weights of ``origin`` in it; returns the files written.

    In our layout that is all that ``OtterForConditionalGeneration.from_pretrained`` and ``OtterProcessor`` need,
    if architecture and tokenizer are known. OpenFlamingo keeps nothing but its weights.
    """
    if layout == "openflamingo" or origin.architecture is None:
        return []
    before = set(folder.iterdir())
    architecture = replace(origin.architecture, vision=replace(origin.architecture.vision, layout=vision))
    if layout == "otter":
        _write_json(folder / "config.json", write_published(architecture, origin.rows()))
        if origin.tokenizer is not None:
            load_tokenizer(origin.tokenizer).save_pretrained(folder)
    elif origin.tokenizer is not None:
        _write_ours(folder, origin, architecture)
    return sorted(set(folder.iterdir()) - before)


def _write_ours(folder: Path, origin: Origin, architecture: ModelConfig) -> None:
    assert origin.tokenizer is not None
    tokenizer = load_tokenizer(origin.tokenizer)
    ids = special_ids(tokenizer)
    token_ids = TokenIds(image=ids.image, endofchunk=ids.endofchunk, answer=ids.answer, pad=ids.pad)
    rows = origin.rows(len(tokenizer))
    config = OtterConfig.from_model_config(architecture, vocab_size=rows, token_ids=token_ids)
    config.architectures = ["OtterForConditionalGeneration"]
    config.dtype = _usual_dtype(origin)
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=ids.bos, eos_token_id=[ids.eos, ids.endofchunk], pad_token_id=ids.pad, max_new_tokens=128
    ).save_pretrained(folder)
    vision = build_model(architecture, vocab_size=rows, token_ids=token_ids, device="meta").vision
    OtterProcessor(
        tokenizer,
        image_size=vision.image_size,
        image_mean=list(vision.mean),
        image_std=list(vision.std),
        template=origin.template,
    ).save_pretrained(folder)


def _usual_dtype(origin: Origin) -> torch.dtype:
    """The dtype of most of the numbers, in which transformers loads a model by default."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in origin.tensors.values():
        sizes[tensor.dtype] += math.prod(tensor.shape) if tensor.dtype.is_floating_point else 0
    return sizes.most_common(1)[0][0]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, [canonical_json(value)])


class WrittenAdapters(NamedTuple):
    """How many adapters were ``written``, and what else the run trained that is not among them."""

    written: int
    left_out: tuple[str, ...]


def write_adapter(
    source: Path, target: Path, *, dtype: torch.dtype | None = None, language_model: str | None = None
) -> WrittenAdapters:
    """Write the adapters of the language model of ``source``, a run or checkpoint, into the new folder ``target``.

    It names ``language_model`` as what they adapt, or else that of the run, where it lies now. `UsageError` if there
    are none, or ``target`` exists.
    """
    if not is_checkpointed(source):
        raise UsageError(f"{source}: no training run; --to peft writes the adapters that a run has trained")
    checkpoint = open_checkpoint(source)
    stored = checkpoint.meta["config"]
    weights = read_weights(checkpoint.folder / "model.safetensors")
    found = adapters_of(weights, stored)
    adapters = {name.removeprefix(LANGUAGE): one for name, one in found.items() if name.startswith(LANGUAGE)}
    if not adapters:
        raise UsageError(f"{source}: trained no adapters on its language model; --lora-rank makes a run train some")
    if target.exists():
        raise UsageError(f"{target}: is there already; give a new folder")
    base = find_parts(checkpoint, if_gone=stored, language_model=language_model)["language_model"]
    target.mkdir(parents=True)
    tensors = {}
    for name, adapter in adapters.items():
        module = _BASE + name.removesuffix(".weight")
        for half, tensor in (("lora_A", adapter.down), ("lora_B", adapter.up)):
            tensors[f"{module}.{half}.weight"] = tensor.read().to(tensor.dtype if dtype is None else dtype).contiguous()
    save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
    described = lora_config(
        replace(RunConfig.from_json(stored), language_model=base and absolute_path(base)),
        (name.removesuffix(".weight") for name in adapters),
    ).to_dict()  # type: ignore[no-untyped-call]
    ordered = {name: sorted(value) if isinstance(value, set) else value for name, value in described.items()}
    _write_json(target / "adapter_config.json", ordered)
    parts = ["language.cross_attention", "perceiver", "vision"]
    left_out = [part for part in parts if any(name.startswith(f"{part}.") for name in weights)]
    if any(name.startswith((LANGUAGE, "new_rows.")) and not is_adapter(name) for name in weights):
        left_out.insert(0, "embeddings")
    return WrittenAdapters(len(adapters), tuple(left_out))
