"""What a run is: `RunConfig`, the presets that fill it, and the rules it must obey. No torch here.

The defaults of the ``otter-9b`` preset are the paper's: AdamW, learning rate 1e-5, 6 epochs, cosine annealing, clipping
at 1.0, 4 samples a step. Where its published code differs, ``--recipe paper`` follows the code. ``tiny`` trains every
weight from scratch on two CPU cores in minutes.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from mimicit.errors import UsageError
from mimicit.options import check, option
from mimicit.prompt import TEMPLATES

Schedule = Literal["cosine", "linear", "constant"]
LabelMode = Literal["span", "paper"]
ContextOrder = Literal["as-is", "shuffled"]
Embeddings = Literal["full", "input_only", "new_rows", "none"]
Precision = Literal["auto", "float32", "bfloat16"]
AdapterPlace = Literal["language", "vision", "both"]
GuardMode = Literal["skip", "stop", "off"]
Quantised = Literal["int8", "nf4"]

_WIDEST_GATE: Final = 3  # tanh is 0.995 there, and can hardly be learned away from it
_MODEL_NAME: Final = re.compile(r"\w[\w.-]*/[\w.-]+|[\w-]+:.+")  # of the Hub, or of open_clip with its weights


PRESETS: Final[dict[str, dict[str, Any]]] = {
    "otter-9b": {"max_tokens": 512},
    "tiny": {
        "epochs": 8,
        "batch_size": 32,
        "lr": 5e-4,  # at 1e-3 it learns to see colours but never to compare them with the question
        "warmup": 0.05,
        "max_tokens": 256,
        "max_steps": 1400,
        "precision": "float32",
    },
}
"""What each preset changes in the defaults of `RunConfig`."""

RECIPES: Final[dict[str, dict[str, Any]]] = {
    # The paper's text, and where it is silent, its published training code; docs/training.md says which is which.
    "paper": {
        "preset": "otter-9b",
        "epochs": 6,
        "batch_size": 4,
        "batch_tokens": 0,
        "lr": 1e-5,
        "schedule": "cosine",
        "warmup": 0.01,
        "clip": 1.0,
        "weight_decay": 0.1,
        "beta2": 0.999,
        "max_tokens": 512,
        "label_mode": "paper",
        "embeddings": "full",
        "template": "otter",
        "context_order": "as-is",
        "max_steps": 0,
        "guard": "off",
        "stochastic_rounding": False,
        "train_language": False,
        "train_vision": False,
        "lora_rank": 0,
        "lora_alpha": None,
        "lora_targets": "",
        "lora_on": "language",
        "lora_only": False,
        "quantize_language": None,
        "lr_perceiver": None,
        "lr_cross_attention": None,
        "lr_language": None,
        "lr_vision": None,
    }
}
"""What each recipe fixes; options that say otherwise are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes; two equal configurations on equal shards give equal weights."""

    preset: str = option("otter-9b", "Model and recipe.", choices=sorted(PRESETS), unset="tiny, otter-9b with weights")
    language_model: str | None = option(None, "Folder of a pretrained LLaMA-family model in transformers format.")
    vision_model: str | None = option(None, "Folder of a pretrained CLIP model in transformers format.")
    epochs: int = option(6, "Passes over the samples.", least=1)
    batch_size: int = option(4, "Samples (or rows of --batch-tokens) per optimizer step, over all devices.", least=1)
    batch_tokens: int = option(0, "Pack whole samples into rows of this many tokens; 0 packs none.", least=0)
    lr: float = option(1e-5, "Peak learning rate of AdamW.", above=0)
    schedule: Schedule = option("cosine", "Shape of the learning rate after warm-up.")
    warmup: float = option(0.01, "Fraction of the steps over which the learning rate ramps up.", least=0, most=1)
    clip: float = option(1.0, "Largest global gradient norm; 0 turns clipping off.", least=0)
    weight_decay: float = option(0.1, "Weight decay of the cross-attention matrices.", least=0)
    beta2: float = option(0.999, "AdamW's decay of squared gradients; 0.95 adapts faster.", least=0, below=1)
    max_tokens: int = option(512, "Longest prompt in tokens; longer ones lose context, farthest first.", least=8)
    label_mode: LabelMode = option("span", "Tokens to learn: those of all answers (span), or as in the paper's code.")
    embeddings: Embeddings = option("full", "Embedding matrices to train.")
    template: str = option("otter", "Prompt template.", choices=sorted(TEMPLATES))
    context_order: ContextOrder = option("as-is", "Show context in its own order, or in one drawn from the seed.")
    seed: int = option(0, "Seed of the sample order and the random initial weights.", least=0)
    max_steps: int = option(0, "Stop after this many steps even if epochs remain; 0 for no limit.", least=0)
    precision: Precision = option("auto", "Number format; auto is bfloat16 on a GPU, float32 elsewhere.")
    guard: GuardMode = option("skip", "What to do at a step whose gradient is NaN, infinite or far too large.")
    guard_factor: float = option(20.0, "Multiple of the usual gradient norm that is too large; 0 for none.", least=0)
    stochastic_rounding: bool = option(False, "Keep trained weights in bfloat16 alone, rounded stochastically.")
    latents: int | None = option(None, "Tokens that the perceiver makes of each picture or clip.", least=1)
    latent_std: float | None = option(None, "Standard deviation of the initial latents; 1 in the paper.", above=0)
    perceiver_depth: int | None = option(None, "Layers of the perceiver.", least=1)
    perceiver_width: int | None = option(None, "Width of the perceiver.", least=1, unset="that of the vision tower")
    cross_attention_every: int | None = option(None, "Decoder layers per cross-attention block.", least=1)
    cross_attention_gate: float | None = option(
        None, "Initial value of the cross-attention gates; 0 is closed.", least=0, most=_WIDEST_GATE
    )
    train_language: bool = option(False, "Train the pretrained language model too.")
    train_vision: bool = option(False, "Train the pretrained vision model too.")
    lora_rank: int = option(0, "Rank of LoRA adapters on the pretrained models (needs peft); 0 for none.", least=0)
    lora_alpha: float | None = option(None, "LoRA alpha; its scale is alpha / rank.", above=0, unset="twice the rank")
    lora_targets: str = option("", "Matrices that LoRA adapts, such as q_proj,v_proj.", unset="all in the layers")
    lora_on: AdapterPlace = option("language", "Pretrained models that get LoRA adapters.")
    lora_only: bool = option(False, "Train nothing but the LoRA adapters.")
    quantize_language: Quantised | None = option(
        None, "Store the frozen language model in 8 bits (int8) or 4 (nf4); needs torchao.", unset="in full"
    )
    lr_perceiver: float | None = option(None, "Learning rate of the perceiver.", above=0, unset="--lr")
    lr_cross_attention: float | None = option(None, "Learning rate of the cross-attention.", above=0, unset="--lr")
    lr_language: float | None = option(None, "Learning rate of language model and embeddings.", above=0, unset="--lr")
    lr_vision: float | None = option(None, "Learning rate of the vision model.", above=0, unset="--lr")
    init_from: str | None = option(None, "Run, or OpenFlamingo or Otter model, whose weights to start from.")

    def __post_init__(self) -> None:
        _check(self)

    @property
    def room(self) -> int:
        """The samples of a step if all are as long as they may be."""
        return self.batch_size * max(1, self.batch_tokens // self.max_tokens)

    @property
    def lora_scale(self) -> float:
        """The factor of the product of an adapter's two matrices."""
        return 2.0 if self.lora_alpha is None else self.lora_alpha / max(1, self.lora_rank)

    def to_json(self) -> dict[str, Any]:
        """The configuration as it is stored in checkpoints."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunConfig:
        """Inverse of `to_json`; `UsageError` if a value breaks a rule, or a field is unknown here."""
        unknown = value.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise UsageError(f"the run was configured by another version, with {', '.join(sorted(unknown))}")
        return cls(**value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run is carried out: no option here changes what is computed, so all may change on resume."""

    accumulate: int = option(1, "Forward passes that each step is split into, per device.", least=1)
    workers: int | None = option(
        None, "Processes preparing batches.", least=0, unset="0 on the CPU, up to 8 with a GPU"
    )
    save_every: int = option(500, "Steps between checkpoints; 0 for a single one at the end.", least=0)
    keep: int = option(3, "Checkpoints to keep; older ones are deleted.", least=1)
    log_every: int = option(10, "Steps between lines of the log.", least=1)
    device: str = option("auto", "Device to train on: auto, cpu, cuda, cuda:1, ...")
    resume: bool = option(True, "Continue from the last checkpoint in --out; --no-resume refuses if there is one.")
    eval_shards: str | Path | None = option(None, "Held-out shards to measure the loss on, a folder or its URL.")
    eval_every: int = option(500, "Steps between measurements of the held-out loss; 0 for one at the end.", least=0)
    eval_limit: int = option(512, "Held-out samples that each measurement uses, at most.", least=1)
    shard_frozen: bool = option(False, "Shard frozen weights over the devices too, for devices of little memory.")
    profile: int = option(0, "Steps to trace with the profiler; the trace is written to --out.", least=0)
    tensorboard: bool = option(False, "Also write the numbers of the log for TensorBoard, to --out.")
    wandb: str | None = option(None, "Also send the log to this project of Weights & Biases.", metavar="PROJECT")
    checkpoint_activations: int = option(0, "Recompute activations of every n-th layer; 0 keeps all.", least=0)
    compile: bool = option(False, "Compile the layers of the decoder: a slow start, faster steps.")
    vision_cache: Path | None = option(None, "Folder that caches the tokens of the frozen vision tower.")
    vision_cache_gb: int = option(100, "Largest size of the vision cache, in GB.", least=0)

    def __post_init__(self) -> None:
        check(self)


def resolve(preset: str | None, *, recipe: str | None = None, **given: Any) -> RunConfig:
    """The configuration of ``preset`` with the options that were ``given`` (those that are not None).

    Without a preset, naming a language or a vision model means ``otter-9b`` and naming none means ``tiny``.
    ``batch_size`` counts samples, ``batch_tokens`` alone means one row. `UsageError` if an option contradicts what
    ``recipe``, one of `RECIPES`, fixes, or if there is no such model.
    """
    overrides = {name: value for name, value in given.items() if value is not None}
    if recipe is not None:
        fixed = RECIPES[recipe]
        for name, value in {**overrides, **({} if preset is None else {"preset": preset})}.items():
            if name in fixed and value != fixed[name]:
                raise UsageError(f"--recipe {recipe} fixes {_option(name)} at {fixed[name]}; leave out one of the two")
        overrides = {**overrides, **fixed}
        preset = overrides.pop("preset")
    named = [name for name in ("language_model", "vision_model") if overrides.get(name)]
    if preset is None:
        preset = "otter-9b" if named else "tiny"
    values = {"preset": preset, **PRESETS.get(preset, {}), **overrides}
    if overrides.get("batch_tokens"):
        values["batch_size"] = overrides.get("batch_size", 1)
    config = RunConfig(**values)
    _check_folders(config)
    _check_rates(config)
    return config


def difference(then: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """The fields that differ between two stored configurations, by name: ``"lr was 1e-05, is 0.001"``."""
    names = sorted(set(then) | set(now))
    return {
        name: f"{name} was {then.get(name)}, is {now.get(name)}" for name in names if then.get(name) != now.get(name)
    }


def _check(config: RunConfig) -> None:
    check(config)
    if config.batch_tokens and config.batch_tokens < config.max_tokens:
        raise UsageError(
            f"--batch-tokens {config.batch_tokens}: a row must hold a prompt of {config.max_tokens} tokens"
        )
    if 0 < config.guard_factor <= 1:
        raise UsageError(f"--guard-factor {config.guard_factor}: must be more than 1, or 0")
    _check_models(config)
    _check_trained(config)


def _check_trained(config: RunConfig) -> None:
    if config.train_vision and not config.vision_model:
        raise UsageError("--train-vision thaws a pretrained model; name it with --vision-model")
    if config.quantize_language and not config.language_model:
        raise UsageError(
            f"--quantize-language {config.quantize_language}: is for a pretrained model; name it with --language-model"
        )
    if config.quantize_language and config.train_language:
        raise UsageError("--train-language trains what --quantize-language freezes; leave out one of the two")
    if not config.lora_rank:
        if config.lora_only or config.lora_targets or config.lora_alpha is not None:
            raise UsageError("--lora-only, --lora-targets and --lora-alpha are for adapters; give --lora-rank too")
        return
    if config.lora_targets and not config.lora_targets.replace(",", "").strip():
        raise UsageError(f"--lora-targets {config.lora_targets!r}: names no matrix; leave it out for all")
    for place in ("language", "vision") if config.lora_on == "both" else (config.lora_on,):
        if not getattr(config, f"{place}_model"):
            raise UsageError(
                f"--lora-on {config.lora_on}: adapters need a pretrained model; name it with --{place}-model"
            )
        if getattr(config, f"train_{place}"):
            raise UsageError(f"--train-{place} trains what --lora-on {config.lora_on} adapts; leave out one of the two")


def _check_models(config: RunConfig) -> None:
    is_tiny = config.preset == "tiny"
    if is_tiny and config.language_model:
        raise UsageError("--preset tiny brings its own small language model; leave out --language-model")
    for name in ("language_model", "vision_model"):
        folder = getattr(config, name)
        if not folder and is_tiny:
            continue
        if not folder:
            raise UsageError(
                f"--preset {config.preset} needs {_option(name)} PATH, the folder of the pretrained weights; "
                "--preset tiny trains a small model from scratch"
            )


def _check_folders(config: RunConfig) -> None:
    """`UsageError` if a pretrained model of a new run is neither an existing path nor can be a name."""
    for name in ("language_model", "vision_model"):
        folder = getattr(config, name)
        if not folder or Path(folder).exists():
            continue
        if not _MODEL_NAME.fullmatch(folder) or (":" not in folder and Path(folder).parent.is_dir()):
            raise UsageError(f"{_option(name)} {folder}: no such folder")


def _check_rates(config: RunConfig) -> None:
    """`UsageError` for the rate of a part of which a new run trains nothing."""
    adapted = {"language", "vision"} if config.lora_on == "both" else {config.lora_on}
    trained = adapted if config.lora_rank else set()
    if not config.lora_only:
        trained |= {"perceiver", "cross_attention"}
        trained |= {part for part in ("language", "vision") if getattr(config, f"train_{part}")}
        trained |= {part for part in ("language", "vision") if getattr(config, f"{part}_model") is None}
        trained |= {"language"} if config.embeddings != "none" else set()
    for part in ("perceiver", "cross_attention", "language", "vision"):
        name = f"lr_{part}"
        if getattr(config, name) is not None and part not in trained:
            raise UsageError(f"{_option(name)}: nothing of that part is trained; leave it out, or say what to train")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
