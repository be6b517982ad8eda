"""One training run of `tools.bench_train`, in a process of its own: ours, or the published modules; a line of JSON out.

    python -m tools.train_peers CASE SIZE STEPS

The published side is `open-flamingo` 2.0.1 as its factory puts it together (frozen but for the perceiver, the gated
cross-attention and the input embedding), with its own recipe: eager attention, float32 weights (bfloat16 autocast on
a GPU), logits of every token, AdamW, clipping at 1.0, and batches padded as its loader for interleaved data does, to
the longest prompt and the most pictures that there can be. Both sides start from the same random weights and train on
the same samples.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad as pad_end

from mimicit.loading.packing import best_fit
from mimicit.records import Media, Sample, Triplet
from otter_train.assembly.models import autocast
from otter_train.config.run_config import Precision
from otter_train.data.batches import Batch, collate, normalise
from otter_train.data.encoding import Encoded, PromptEncoder
from otter_train.data.packed import PackedBatch, collate_packed
from otter_train.data.tokenizer import SpecialIds, train_tokenizer
from otter_train.distributed import World
from otter_train.model import ModelConfig, Otter, TokenIds, build_model, freeze, preset
from otter_train.model.config import LanguageConfig, VisionConfig
from otter_train.model.convert import to_layout
from otter_train.model.packing import IGNORED
from otter_train.model.speed import compile_blocks, recompute_activations
from otter_train.training.flops import Work, count_flops, matmul_flops_per_s
from otter_train.training.optimizer import RoundingAdamW, make_optimizer
from otter_train.training.step import take_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A model, and the longest prompt in tokens."""

    model: ModelConfig
    vocabulary: int
    tokens: int
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is switched on. ``budget`` (0: batches of four samples) is the tokens of a row, in units of the longest."""

    published: bool = False
    padded_to_longest: bool = False
    packed: bool = True
    labelled_only: bool = True
    shared_pictures: bool = True
    fused: bool = True
    frozen_gradients: bool = False
    mixed: bool = False
    rounded: bool = False
    recompute: int = 0
    compiled: bool = False
    budget: int = 0


CASES: Final[dict[str, Case]] = {
    "published": Case(published=True),
    "published, padded to the longest of the batch": Case(published=True, padded_to_longest=True),
    "ours": Case(),
    "ours, padded rows, masked cross-attention": Case(packed=False),
    "ours, logits of every token": Case(labelled_only=False),
    "ours, every picture as often as it is shown": Case(shared_pictures=False),
    "ours, weight gradients of frozen layers": Case(frozen_gradients=True),
    "ours, AdamW not fused": Case(fused=False),
    "ours, frozen weights in float32": Case(mixed=True),
    "ours, trained weights rounded to bfloat16 by chance": Case(rounded=True),
    "ours, activations recomputed": Case(recompute=1),
    "ours, compiled": Case(compiled=True),
    "ours, budget of 8 prompts": Case(budget=8),
    "ours, budget of 32 prompts": Case(budget=32),
    "ours, budget of 32 prompts, compiled": Case(budget=32, compiled=True),
    "ours, budget of 64 prompts": Case(budget=64),
}
SIZES: Final[dict[str, Size]] = {
    "cpu": Size(
        model=ModelConfig(
            language=LanguageConfig(
                architecture={
                    "model_type": "llama",
                    "hidden_size": 512,
                    "intermediate_size": 1376,
                    "num_hidden_layers": 8,
                    "num_attention_heads": 8,
                    "num_key_value_heads": 8,
                }
            ),
            vision=VisionConfig(
                layout="open_clip", image_size=112, patch_size=14, width=256, layers=6, heads=4, projection=256
            ),
            cross_attention_gate=0.5,
        ),
        vocabulary=4096,
        tokens=256,
        learning_rate=1e-4,
    ),
    "otter-9b": Size(
        model=replace(
            preset("otter-9b"),
            vision=replace(preset("otter-9b").vision, layout="open_clip"),
            cross_attention_gate=0.5,
        ),
        vocabulary=32_004,
        tokens=512,
        learning_rate=1e-5,
    ),
}
_BATCH: Final = 4
_MOST_PICTURES: Final = 5
_WARM_UP: Final = 2
_WORDS: Final = [f"{first}{second}" for first in ("ba", "do", "ke", "li", "mu", "sa", "ti", "zo") for second in "nrstl"]


def samples_of(count: int, size: Size) -> Iterator[Sample]:
    """Samples of one to five pictures; a query's context shows pictures of the two samples before it now and then.

    Prompts have half of the longest length up to all of it, and about four tokens in ten are answers.
    """
    rng = np.random.default_rng(0)
    recent: list[Media] = []
    for number in range(count):
        shown = int(rng.integers(1, _MOST_PICTURES + 1))
        words = int(rng.uniform(0.5, 0.95) * size.tokens) - 8 * shown
        triplets, media = [], []
        for place in range(shown):
            repeated = recent and place < shown - 1 and rng.random() < 0.25
            media.append(recent[int(rng.integers(len(recent)))] if repeated else _picture(rng, size))
            spoken = [" ".join(rng.choice(_WORDS, max(1, int(words * part / shown)))) for part in (0.55, 0.4)]
            role: Literal["context", "query"] = "query" if place == shown - 1 else "context"
            triplets.append(
                Triplet(
                    id=f"{number}-{place}",
                    role=role,
                    media=(place,),
                    instruction=spoken[0],
                    answer=spoken[1],
                    relation=None,
                )
            )
        recent = [*recent, media[-1]][-2:]
        yield Sample(id=str(number), source="synthetic", media=tuple(media), triplets=tuple(triplets))


def _picture(rng: np.random.Generator, size: Size) -> Media:
    side = size.model.vision.image_size
    data = io.BytesIO()
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    small.resize((side, side), Image.Resampling.BICUBIC).save(data, "PNG")
    return Media(
        kind="image", files=("0.png",), width=side, height=side, sha256=("0" * 64,), origin="", data=(data.getvalue(),)
    )


def batches_of(case: Case, size: Size, steps: int) -> tuple[list[Batch | PackedBatch], SpecialIds]:
    """The batches of a run, made before the clock starts, as workers would."""
    tokenizer = train_tokenizer([" ".join(_WORDS)] * 3, vocab_size=512)
    encoder = PromptEncoder(tokenizer, max_tokens=size.tokens)
    per_step = case.budget or _BATCH
    prompts = [encoder.encode(sample) for sample in samples_of(steps * per_step * 2, size)]
    if case.budget:
        budget = case.budget * size.tokens
        packs = best_fit([len(prompt.ids) for prompt in prompts], budget)[:steps]
        rows = [[prompts[index] for index in sorted(pack)] for pack in packs]
    else:
        rows = [prompts[start : start + _BATCH] for start in range(0, steps * _BATCH, _BATCH)]
    return [_batch(row, case, size, encoder.special) for row in rows], encoder.special


def _batch(prompts: Sequence[Encoded], case: Case, size: Size, special: SpecialIds) -> Batch | PackedBatch:
    side = size.model.vision.image_size
    if case.published or not case.packed:
        batch = collate(prompts, pad=special.pad, image_size=side)
        return _padded(batch, size, special.pad) if case.published and not case.padded_to_longest else batch
    if not case.labelled_only:
        prompts = [replace(prompt, labels=prompt.ids) for prompt in prompts]
    if not case.shared_pictures:
        prompts = [_unshared(prompt, number) for number, prompt in enumerate(prompts)]
    multiple = case.budget * size.tokens or 64
    return collate_packed(prompts, special=special, image_size=side, multiple=multiple)


def _padded(batch: Batch, size: Size, pad: int) -> Batch:
    """``batch`` with as many tokens and pictures as any could have."""
    more, blank = size.tokens - batch.lang_x.shape[1], _MOST_PICTURES - batch.vision_x.shape[1]
    of_row = batch.vision_mask[0].numel()
    firsts = batch.firsts // of_row * (of_row // batch.vision_x.shape[1] * _MOST_PICTURES) + batch.firsts % of_row
    return replace(
        batch,
        lang_x=pad_end(batch.lang_x, (0, more), value=pad),
        labels=pad_end(batch.labels, (0, more), value=IGNORED),
        attention_mask=pad_end(batch.attention_mask, (0, more)),
        vision_x=pad_end(batch.vision_x, (0, 0, 0, 0, 0, 0, 0, 0, 0, blank)),
        vision_mask=pad_end(batch.vision_mask, (0, 0, 0, blank)),
        firsts=pad_end(firsts, (0, 0, 0, blank)),
    )


def _unshared(prompt: Encoded, number: int) -> Encoded:
    """The same pictures, each with bytes of its own: PNG files may end in anything."""
    media = tuple(
        replace(medium, data=(medium.data[0] + bytes([number, place]),))
        for place, medium in enumerate(prompt.sample.media)
    )
    return replace(prompt, sample=replace(prompt.sample, media=media))


def build(size: Size, special: SpecialIds, dtype: torch.dtype) -> Otter:
    """The model of ``size`` with random weights, the same each time."""
    torch.manual_seed(0)
    ids = TokenIds(image=special.image, endofchunk=special.endofchunk, answer=special.answer, pad=special.pad)
    return build_model(size.model, vocab_size=size.vocabulary, token_ids=ids, dtype=dtype)


Step = Callable[[Any], Tensor]
"""Trains on one batch; returns the loss on the device."""


def our_step(case: Case, size: Size, model: Otter, device: torch.device, precision: Precision) -> Step:
    """A step of `otter_train`."""
    freeze(model, "input_only")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16 if case.rounded else torch.float32)
    model.to(device).train()
    optimizer = make_optimizer(model, lr=size.learning_rate, weight_decay=0.1)
    if not case.fused:
        optimizer = torch.optim.AdamW(optimizer.param_groups, lr=size.learning_rate, foreach=False)
    if case.rounded:
        optimizer = RoundingAdamW(optimizer.param_groups, lr=size.learning_rate)
    if case.frozen_gradients:
        model.language.lm.get_decoder().requires_grad_(True)
    recompute_activations(model, case.recompute)
    if case.compiled:
        compile_blocks(model)

    def step(batch: Any) -> Tensor:
        loss = take_step(model, optimizer, [batch], device=device, world=World(), clip=1.0, precision=precision).loss
        if case.frozen_gradients:
            model.zero_grad(set_to_none=True)
        return loss

    return step


def published_step(size: Size, ours: Otter, special: SpecialIds, device: torch.device, precision: Precision) -> Step:
    """A step of the published modules, which start from the weights of ``ours``."""
    from open_flamingo.src.flamingo import Flamingo  # type: ignore[import-not-found]
    from open_flamingo.src.flamingo_lm import FlamingoLMMixin  # type: ignore[import-not-found]
    from open_flamingo.src.utils import extend_instance  # type: ignore[import-not-found]

    weights = to_layout(ours, "openflamingo")
    mean, std = ours.vision.mean, ours.vision.std
    language = ours.language.lm
    for layer in language.get_decoder().layers:
        layer._forward_pre_hooks.clear()  # ours; the published layers wrap the decoder's
        layer._forward_pre_hooks_with_kwargs.clear()
    language.set_attn_implementation("eager")
    extend_instance(language, FlamingoLMMixin)
    language.set_decoder_layers_attr_name("model.layers")
    tower = torch.nn.Module()
    tower.visual = ours.vision.visual
    every = size.model.cross_attention_every
    model = Flamingo(
        tower, language, special.endofchunk, special.image, vis_dim=ours.vision.dim, cross_attn_every_n_layers=every
    )
    unfit = model.load_state_dict(weights, strict=False)
    missing = [key for key in unfit.missing_keys if "old_decoder" not in key and "gated_cross_attn_layers" not in key]
    if [key for key in missing if not key.endswith(".proj")] or unfit.unexpected_keys:
        raise RuntimeError(f"the published model has other weights: {missing[:3]}, {unfit.unexpected_keys[:3]}")
    model.requires_grad_(False)
    model.perceiver.requires_grad_(True)
    model.lang_encoder.gated_cross_attn_layers.requires_grad_(True)
    model.lang_encoder.get_input_embeddings().requires_grad_(True)
    model.to(device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=size.learning_rate, weight_decay=0.1)

    def step(batch: Batch) -> Tensor:
        batch = batch.to(device)
        with autocast(device, precision):
            vision_x = normalise(batch.vision_x, mean, std)
            output = model(vision_x, batch.lang_x, attention_mask=batch.attention_mask.long(), labels=batch.labels)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss: Tensor = output.loss.detach()
        return loss

    return step


def run(name: str, size_name: str, steps: int) -> dict[str, Any]:
    """Seconds (of the processor, on a CPU) of each step after the warm-up, losses, work and peak memory of one case."""
    case, size = CASES[name], SIZES[size_name]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision: Precision = "bfloat16" if device.type == "cuda" else "float32"
    batches, special = batches_of(case, size, steps + _WARM_UP)
    resident = torch.float32 if case.published or case.mixed or precision == "float32" else torch.bfloat16
    model = build(size, special, resident)
    freeze(model, "input_only")
    flops = count_flops(model)
    if case.published:
        step = published_step(size, model, special, device, precision)
    else:
        step = our_step(case, size, model, device, precision)
    losses = [step(batch).item() for batch in batches[:_WARM_UP]]
    compute = torch.bfloat16 if precision == "bfloat16" else torch.float32
    ceiling = matmul_flops_per_s(device, compute)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds = []
    for batch in batches[_WARM_UP:]:
        started = clock()
        losses.append(step(batch).item())  # waits for the device
        seconds.append(clock() - started)
    work = [Work.of(batch) for batch in batches[_WARM_UP:]]
    return {
        "seconds": seconds,
        "losses": losses,
        "tokens": [one.tokens for one in work],
        "flops": [flops.of(one) for one in work],
        "ceiling": ceiling,
        "memory": torch.cuda.max_memory_allocated() if device.type == "cuda" else _peak_resident(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }


def _peak_resident() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
