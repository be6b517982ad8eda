"""Everything that stays the same while one process works on a run: made from a configuration, or from a checkpoint."""

from __future__ import annotations

import io
import math
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import UsageError
from mimicit.loading import Mixture
from mimicit.loading.order import Ordered
from mimicit.loading.torch import Loader
from mimicit.prompt import template_named
from mimicit.records import Sample
from otter_train.assembly.initial_weights import Initial, initial_weights
from otter_train.assembly.models import (
    assemble_model,
    fill_rows,
    load_kept,
    model_config,
    read_dtype,
    stored_model_config,
    uses_bfloat16,
)
from otter_train.checkpoint.files import Checkpoint, latest_checkpoint, load_optimizer_state, load_weights
from otter_train.checkpoint.lineage import CHANGEABLE
from otter_train.checkpoint.meta import check_tokens, find_parts, restore_generators, seed_generators
from otter_train.config.command_line import same_place
from otter_train.config.run_config import RunConfig, RunOptions, difference
from otter_train.data.encoding import PromptEncoder
from otter_train.data.lengths import shares_of_rows, showable, within_budget
from otter_train.data.micro_batches import GroupCollator, training_loader
from otter_train.data.tokenizer import load_tokenizer, train_tokenizer
from otter_train.data.vision_cache import FeatureCache
from otter_train.distributed import World, join_world, pick_device, shard
from otter_train.model import ModelConfig, Otter, trainable_count
from otter_train.model.speed import compile_blocks, quantised_count, recompute_activations
from otter_train.reporting.metrics import Console
from otter_train.training.flops import Flops, count_flops, matmul_flops_per_s
from otter_train.training.guard import Guard
from otter_train.training.optimizer import RoundingAdamW, make_optimizer
from otter_train.training.snapshot import restore_optimizer

_TOKENIZER_SAMPLES = 5_000  # enough to find the frequent words; a large corpus need not be read twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One process at work on the run in the folder ``run``, from step ``first`` to ``total``.

    ``seen`` samples were trained on before. ``flops_per_s`` is what the device can do. ``left_out`` says which samples
    the index shows to be too long, and why. ``run_id`` is the same in all sessions of a run, and in no other run.
    """

    config: RunConfig
    options: RunOptions
    run: Path
    console: Console
    device: torch.device
    world: World
    tokenizer: PreTrainedTokenizerBase
    encoder: PromptEncoder
    architecture: ModelConfig
    model: Otter
    optimizer: AdamW
    guard: Guard
    loader: Loader[Any]
    features: FeatureCache | None
    flops: Flops
    flops_per_s: float
    first: int
    total: int
    seen: int
    left_out: tuple[str, ...]
    run_id: str


def begin(
    config: RunConfig,
    samples: Ordered[Sample],
    run: Path,
    options: RunOptions,
    console: Console,
    checkpoint: Checkpoint | None,
    *,
    weights: Sequence[float] | None = None,
) -> Session:
    """A `Session` that starts from the beginning, or from ``checkpoint``, of this run or of its parent.

    ``weights`` replace those of the parts of a mixture from there on, as shares of samples. `UsageError` if there are
    no samples, or others than those of the checkpoint; `TrainError` if the checkpoint does not fit the model.
    """
    if not len(samples):
        raise UsageError("the shards hold no sample; look at their rejects.parquet")
    device = pick_device(options.device)
    if config.stochastic_rounding and not uses_bfloat16(device, config.precision):
        raise UsageError("--stochastic-rounding is for training in bfloat16; add --precision bfloat16")
    world = join_world(device)
    if not world.is_first:
        console = Console(io.StringIO())
    seed_generators(config.seed)
    new_id = world.of_first(secrets.token_hex(8))
    initial = initial_weights(Path(config.init_from), config) if config.init_from and not checkpoint else None
    if checkpoint:
        tokenizer = load_tokenizer(checkpoint.tokenizer_folder)
        architecture = stored_model_config(checkpoint.meta, config)
    else:
        tokenizer = initial.tokenizer if initial else _new_tokenizer(config, samples)
        architecture = model_config(config)
    model, flops, counted = _model(config, options, architecture, tokenizer, initial, checkpoint, device, world)
    optimizer = _optimizer(model, config)
    encoder = _encoder(config, tokenizer)
    samples, left_out = showable(samples, encoder)
    rows: Ordered[Any] = samples
    if config.batch_tokens:
        rows = within_budget(samples, encoder, config.batch_tokens, run / "rows")
        if weights is not None and isinstance(rows, Mixture):
            weights = shares_of_rows(rows.parts, weights)
    dtype = torch.bfloat16 if uses_bfloat16(device, config.precision) else torch.float32
    features = _feature_cache(model, options, dtype)
    total = total_steps(config, len(rows))
    loader = _loader(config, options, rows, encoder, model, features, steps=total, device=device, world=world)
    guard = Guard(config.guard, config.guard_factor, device, harmless=config.clip)
    if checkpoint:
        restore_optimizer(model, optimizer, load_optimizer_state(checkpoint))
        guard.load_state(checkpoint.meta["guard"])
        _restore_loader(loader, checkpoint, weights)
        states = checkpoint.meta["rng"]
        restore_generators(states[world.rank % len(states)], device)
        console.say(f"going on from {checkpoint.folder} (step {checkpoint.step} of {total})")
    console.say(f"{counted} for {total:,} steps of {_batch_line(config)}")
    return Session(
        config=config,
        options=options,
        run=run,
        console=console,
        device=device,
        world=world,
        tokenizer=tokenizer,
        encoder=encoder,
        architecture=architecture,
        model=model,
        optimizer=optimizer,
        guard=guard,
        loader=loader,
        features=features,
        flops=flops,
        flops_per_s=matmul_flops_per_s(device, dtype),
        first=checkpoint.step if checkpoint else 0,
        total=total,
        seen=int(checkpoint.meta["samples_seen"]) if checkpoint else 0,
        left_out=tuple(left_out),
        run_id=(checkpoint.meta.get("run_id") if checkpoint and checkpoint.folder.parent == run else None) or new_id,
    )


def _model(
    config: RunConfig,
    options: RunOptions,
    architecture: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    initial: Initial | None,
    checkpoint: Checkpoint | None,
    device: torch.device,
    world: World,
) -> tuple[Otter, Flops, str]:
    """The model with its weights, spread over the processes; what its steps compute; and a line about its size."""
    # A model that is sharded as a whole may be too large for one device, and for the memory of its host.
    sharded = options.shard_frozen and world.size > 1
    if sharded and config.quantize_language:
        raise UsageError("--shard-frozen spreads weights in full precision only; leave it out with --quantize-language")
    # With adapters, the names in the model are not those in the files, so every process first reads it whole.
    streamed = sharded and not config.lora_rank and (initial is None or initial.fits_shards)
    place, fill = torch.device("cpu") if sharded else device, initial.fill if initial else None
    model = assemble_model(architecture, config, tokenizer, place, None if streamed else fill, empty=streamed).train()
    # With a cache, the tower does not count; that the cache has to be filled first is ignored.
    flops, counted = count_flops(model, with_tower=options.vision_cache is None), _weights_line(model, device)
    shard(model, world, device, frozen=options.shard_frozen)
    if streamed:
        dtype = read_dtype(config, device, filled=fill is not None)
        fill_rows(model, architecture, fill, vocab_size=len(tokenizer), dtype=dtype)
    if checkpoint:
        check_tokens(checkpoint.meta, tokenizer)
        load_kept(model, config, load_weights(checkpoint))
    recompute_activations(model, options.checkpoint_activations)
    if options.compile:  # after `shard`, which changes the classes of layers
        compile_blocks(model)
    return model, flops, counted


def _optimizer(model: Otter, config: RunConfig) -> AdamW:
    optimizer = make_optimizer(
        model,
        lr=config.lr,
        weight_decay=config.weight_decay,
        beta2=config.beta2,
        whole_model=config.language_model is None,
        rates={
            "perceiver.": config.lr_perceiver,
            "language.cross_attention.": config.lr_cross_attention,
            "language.": config.lr_language,
            "new_rows.": config.lr_language,
            "vision.": config.lr_vision,
        },
    )
    return RoundingAdamW(optimizer.param_groups) if config.stochastic_rounding else optimizer


def _loader(
    config: RunConfig,
    options: RunOptions,
    rows: Ordered[Any],
    encoder: PromptEncoder,
    model: Otter,
    features: FeatureCache | None,
    *,
    steps: int,
    device: torch.device,
    world: World,
) -> Loader[Any]:
    """The batches of all ``steps``: micro-batches of samples, or of ``rows`` that hold several."""
    collator = GroupCollator(
        encoder=encoder,
        image_size=model.vision.image_size,
        accumulate=options.accumulate,
        end=config.epochs * len(rows),
        packed=model.language.can_pack,
        cached=features.kept if features else None,
    )
    return training_loader(
        rows,
        collator,
        batch_size=config.batch_size,
        steps=steps,
        world=world,
        workers=_worker_count(options, device),
        pin_memory=device.type == "cuda",
    )


def total_steps(config: RunConfig, sample_count: int) -> int:
    """Steps of a whole run over ``sample_count`` samples; the last one may be a part of a batch."""
    steps = math.ceil(config.epochs * sample_count / config.batch_size)
    return min(steps, config.max_steps) if config.max_steps else steps


def checkpoint_to_resume(
    config: RunConfig, run: Path, options: RunOptions, parent: Path | None = None
) -> Checkpoint | None:
    """The last undamaged checkpoint of ``run``, the same on all processes; None if there has never been one.

    A run that continues from ``parent`` and has none yet gets the parent's. `UsageError` if it belongs to another
    configuration, or is not to be resumed, or ``parent`` has none.
    """
    world = join_world(pick_device(options.device))
    checkpoint = world.of_first(latest_checkpoint(run) if world.is_first else None)
    if checkpoint is None and parent is not None:
        last = world.of_first(latest_checkpoint(parent) if world.is_first else None)
        return _checkpoint_to_leave(config, parent, last)
    if checkpoint is None:
        return None
    if not options.resume:
        raise UsageError(f"{run} holds {checkpoint.folder.name}; without --resume give an --out folder that holds none")
    changes = changes_since(checkpoint, config)
    if changes:
        raise UsageError(
            f"{run} was begun with other options: {'; '.join(changes.values())}; give them again, or another --out"
        )
    return checkpoint


def _checkpoint_to_leave(config: RunConfig, parent: Path, checkpoint: Checkpoint | None) -> Checkpoint:
    if checkpoint is None:
        raise UsageError(f"{parent}: there is no checkpoint to go on from")
    fixed = [change for name, change in changes_since(checkpoint, config).items() if name not in CHANGEABLE]
    if fixed:
        raise UsageError(
            f"{parent} was trained with other options: {'; '.join(fixed)}; what --continue-as may change are "
            f"{', '.join(sorted(CHANGEABLE))} and weights of --shards. --init-from takes the weights alone"
        )
    return checkpoint


def changes_since(checkpoint: Checkpoint, config: RunConfig) -> dict[str, str]:
    """The `difference` from ``checkpoint`` to ``config``, but for other names of a folder, and folders that moved."""
    begun = dict(checkpoint.meta["config"])
    now = config.to_json()
    parts = find_parts(checkpoint, if_gone=now)
    begun |= {name: now[name] for name, place in parts.items() if same_place(place, now[name])}
    if same_place(begun.get("init_from"), now["init_from"]):
        begun["init_from"] = now["init_from"]
    return difference(RunConfig.from_json(begun).to_json(), now)  # options it did not know yet had their defaults


def _feature_cache(model: Otter, options: RunOptions, dtype: torch.dtype) -> FeatureCache | None:
    if options.vision_cache is None:
        return None
    if options.shard_frozen or not model.language.can_pack:
        raise UsageError("--vision-cache needs a whole vision tower and packed rows; leave it out here")
    limit_bytes = options.vision_cache_gb * 10**9
    return FeatureCache(options.vision_cache, model.vision, dtype=dtype, limit_bytes=limit_bytes)


def _restore_loader(loader: Loader[Any], checkpoint: Checkpoint, weights: Sequence[float] | None) -> None:
    try:
        loader.load_state_dict(checkpoint.meta["loader"])
    except UsageError as error:
        run = checkpoint.folder.parent
        raise UsageError(f"{run} was begun with other shards than these; {error}, or give another --out") from None
    if weights is not None:
        loader.set_weights(weights)


def _weights_line(model: Otter, device: torch.device) -> str:
    total = sum(parameter.numel() for parameter in model.parameters())
    stored = f", {count:,} of the others are stored in few bits" if (count := quantised_count(model)) else ""
    return f"{trainable_count(model):,} of {total:,} weights are trained on {device}{stored}"


def _batch_line(config: RunConfig) -> str:
    if not config.batch_tokens:
        return f"{config.batch_size} samples"
    rows = "1 row" if config.batch_size == 1 else f"{config.batch_size} rows"
    return f"{rows} of up to {config.batch_tokens:,} tokens"


def _new_tokenizer(config: RunConfig, samples: Ordered[Sample]) -> PreTrainedTokenizerBase:
    if config.language_model is not None:
        return load_tokenizer(config.language_model)
    return train_tokenizer(_texts(samples, config.template))


def _texts(samples: Ordered[Sample], template_name: str) -> Iterator[str]:
    template = template_named(template_name)
    for sample in map(samples.fetch, samples.addresses(range(min(len(samples), _TOKENIZER_SAMPLES)))):
        for triplet in sample.triplets if sample is not None else ():
            yield f"{template.before}{triplet.instruction}{template.between}"
            yield triplet.answer


def _encoder(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PromptEncoder:
    return PromptEncoder(
        tokenizer,
        template=config.template,
        max_tokens=config.max_tokens,
        label_mode=config.label_mode,
        context_order=config.context_order,
        seed=config.seed,
    )


def _worker_count(options: RunOptions, device: torch.device) -> int:
    if options.workers is not None:
        return options.workers
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
