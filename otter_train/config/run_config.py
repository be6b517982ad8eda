"""What a run is: `RunConfig`, the presets that fill it, and the rules it must obey. No torch here.

The defaults of the ``otter-9b`` preset are the paper's: AdamW, learning rate 1e-5, 6 epochs, cosine annealing, clipping
at 1.0, 4 samples a step. Where its published code differs, ``--recipe paper`` follows the code. ``tiny`` trains every
weight from scratch on two CPU cores in minutes.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from mimicit.errors import UsageError
from mimicit.prompt import template_named

__all__ = [
    "PRESETS",
    "RECIPES",
    "ContextOrder",
    "Embeddings",
    "GuardMode",
    "LabelMode",
    "Precision",
    "RunConfig",
    "RunOptions",
    "Schedule",
    "difference",
    "resolve",
]

Schedule = Literal["cosine", "linear", "constant"]
LabelMode = Literal["span", "paper"]
ContextOrder = Literal["as-is", "shuffled"]
Embeddings = Literal["full", "input_only", "new_rows", "none"]
Precision = Literal["auto", "float32", "bfloat16"]
AdapterPlace = Literal["language", "vision", "both"]
GuardMode = Literal["skip", "stop", "off"]

_WIDEST_GATE: Final = 3.0  # tanh is 0.995 there, and can hardly be learnt away from it
_MODEL_NAME: Final = re.compile(r"\w[\w.-]*/[\w.-]+|[\w-]+:.+")  # of the Hub, or of open_clip with its weights


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes; two equal configurations on equal shards give equal weights.

    ``batch_size`` counts the samples of one optimiser step over all devices and forward passes; with ``batch_tokens``
    it counts rows, each of as many whole samples as fit into so many tokens (0: samples are not put together).
    `resolve` says which of the two a run has that names only one of them.
    ``warmup`` is a share of the steps. ``beta2`` is AdamW's decay of the squared gradients. ``clip`` is the largest
    global gradient norm (0: no clipping). ``max_steps`` ends the run before ``epochs`` do (0: it does not).
    ``guard`` decides about steps whose gradient is no number, or has more than ``guard_factor`` times the usual norm
    (0: norms are not judged). ``latents``, ``latent_std``, ``perceiver_depth``, ``perceiver_width``,
    ``cross_attention_every`` and ``cross_attention_gate`` change what joins the two models (None: as the preset has
    it); ``train_language`` and ``train_vision`` thaw the pretrained models themselves. With a ``lora_rank``, adapters
    are trained on them instead, ``lora_on`` one or both, at all matrices or those called ``lora_targets`` (separated by
    commas), and with ``lora_only`` nothing else; ``lora_alpha`` is twice the rank where it is None. ``lr_perceiver``,
    ``lr_cross_attention``, ``lr_language`` (with embeddings) and ``lr_vision`` are rates of single parts (None:
    ``lr``). ``init_from`` is the run or the model whose
    weights the run begins with (None: random ones where none are pretrained). With ``stochastic_rounding`` trained
    weights rest in bfloat16 (`otter_train.training.optimizer`), else in float32.
    """

    preset: str = "otter-9b"
    language_model: str | None = None
    vision_model: str | None = None
    epochs: int = 6
    batch_size: int = 4
    batch_tokens: int = 0
    lr: float = 1e-5
    schedule: Schedule = "cosine"
    warmup: float = 0.01
    clip: float = 1.0
    weight_decay: float = 0.1
    beta2: float = 0.999
    max_tokens: int = 512
    label_mode: LabelMode = "span"
    embeddings: Embeddings = "full"
    template: str = "otter"
    context_order: ContextOrder = "as-is"
    seed: int = 0
    max_steps: int = 0
    precision: Precision = "auto"
    guard: GuardMode = "skip"
    guard_factor: float = 20.0
    stochastic_rounding: bool = False
    latents: int | None = None
    latent_std: float | None = None
    perceiver_depth: int | None = None
    perceiver_width: int | None = None
    cross_attention_every: int | None = None
    cross_attention_gate: float | None = None
    train_language: bool = False
    train_vision: bool = False
    lora_rank: int = 0
    lora_alpha: float | None = None
    lora_targets: str = ""
    lora_on: AdapterPlace = "language"
    lora_only: bool = False
    lr_perceiver: float | None = None
    lr_cross_attention: float | None = None
    lr_language: float | None = None
    lr_vision: float | None = None
    init_from: str | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def room(self) -> int:
        """The samples of a step if all are as long as they may be."""
        return self.batch_size * max(1, self.batch_tokens // self.max_tokens)

    @property
    def lora_scale(self) -> float:
        """What the product of the two matrices of an adapter is multiplied by."""
        return 2.0 if self.lora_alpha is None else self.lora_alpha / max(1, self.lora_rank)

    def to_json(self) -> dict[str, Any]:
        """The configuration as it is stored in checkpoints."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunConfig:
        """Inverse of `to_json`; `UsageError` where a value breaks a rule, or a field is unknown here."""
        unknown = value.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise UsageError(f"the run was configured by another version, with {', '.join(sorted(unknown))}")
        return cls(**value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run is carried out: nothing of it changes what is computed, so all of it may change on resume.

    ``accumulate`` splits the batch of a step into that many forward passes per device. ``workers`` processes prepare
    batches (None: up to 8 beside a GPU; none on the CPU, where they would compete with the model). ``save_every``
    and ``log_every`` are in steps (``save_every`` 0: only at the end). ``resume`` continues from the last checkpoint
    of the output folder; without it a folder that has one is refused. The last ``keep`` checkpoints stay. The loss on
    the first ``eval_limit`` samples of ``eval_shards`` (a folder or its URL) is measured every ``eval_every`` steps and
    at the end. ``shard_frozen`` spreads the frozen weights over the processes too. ``profile`` steps are traced.
    ``tensorboard`` and ``wandb`` (the name of a project) send the numbers of the log there as well.
    ``checkpoint_activations`` n computes those of every n-th layer again in the backward pass (0: keeps all).
    ``compile`` compiles the decoder's layers. ``vision_cache`` is a folder that keeps what the frozen vision tower
    makes of pictures, up to ``vision_cache_gb``.
    """

    accumulate: int = 1
    workers: int | None = None
    save_every: int = 500
    keep: int = 3
    log_every: int = 10
    device: str = "auto"
    resume: bool = True
    eval_shards: str | Path | None = None
    eval_every: int = 500
    eval_limit: int = 512
    shard_frozen: bool = False
    profile: int = 0
    tensorboard: bool = False
    wandb: str | None = None
    checkpoint_activations: int = 0
    compile: bool = False
    vision_cache: Path | None = None
    vision_cache_gb: int = 100

    def __post_init__(self) -> None:
        lowest = {"accumulate": 1, "workers": 0, "save_every": 0, "keep": 1, "log_every": 1, "profile": 0}
        lowest |= {"eval_every": 0, "eval_limit": 1, "checkpoint_activations": 0, "vision_cache_gb": 0}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{_option(name)} {value}: must be at least {least}")


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
        "lr_perceiver": None,
        "lr_cross_attention": None,
        "lr_language": None,
        "lr_vision": None,
    }
}
"""What each recipe fixes; options that say otherwise are refused."""


def resolve(preset: str | None, *, recipe: str | None = None, **given: Any) -> RunConfig:
    """The configuration of ``preset`` with the options that were ``given`` (those that are not None).

    Without a preset, naming a language or a vision model means ``otter-9b`` and naming none means ``tiny``.
    ``batch_size`` counts samples, ``batch_tokens`` alone means one row. `UsageError` where an option contradicts what
    ``recipe``, one of `RECIPES`, fixes, or where there is no such model.
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
    if preset not in PRESETS:
        raise UsageError(f"no preset {preset!r}; there are: {', '.join(sorted(PRESETS))}")
    values = {"preset": preset, **PRESETS[preset], **overrides}
    if overrides.get("batch_tokens"):
        values["batch_size"] = overrides.get("batch_size", 1)
    config = RunConfig(**values)
    _check_folders(config)
    return config


def difference(then: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """The fields that differ between two stored configurations, by name: ``"lr was 1e-05, is 0.001"``."""
    names = sorted(set(then) | set(now))
    return {
        name: f"{name} was {then.get(name)}, is {now.get(name)}" for name in names if then.get(name) != now.get(name)
    }


def _check(config: RunConfig) -> None:
    template_named(config.template)
    if config.preset not in PRESETS:
        raise UsageError(f"no preset {config.preset!r}; there are: {', '.join(sorted(PRESETS))}")
    for name, kind in (
        ("schedule", Schedule),
        ("label_mode", LabelMode),
        ("embeddings", Embeddings),
        ("context_order", ContextOrder),
        ("precision", Precision),
        ("guard", GuardMode),
        ("lora_on", AdapterPlace),
    ):
        if getattr(config, name) not in get_args(kind):
            raise UsageError(f"{_option(name)} {getattr(config, name)}: there are {', '.join(get_args(kind))}")
    if config.batch_tokens and config.batch_tokens < config.max_tokens:
        raise UsageError(
            f"--batch-tokens {config.batch_tokens}: a row must hold a prompt of {config.max_tokens} tokens"
        )
    lowest = {"epochs": 1, "batch_size": 1, "batch_tokens": 0, "max_tokens": 8, "max_steps": 0, "seed": 0}
    for name, least in lowest.items():
        if getattr(config, name) < least:
            raise UsageError(f"{_option(name)} {getattr(config, name)}: must be at least {least}")
    if not 0 < config.lr < float("inf") or config.clip < 0 or config.weight_decay < 0 or not 0 <= config.warmup <= 1:
        raise UsageError("--lr must be positive, --clip and --weight-decay not negative, --warmup between 0 and 1")
    if not 0 <= config.beta2 < 1:
        raise UsageError(f"--beta2 {config.beta2}: must be at least 0 and less than 1")
    if config.guard_factor != 0 and not 1 < config.guard_factor < float("inf"):
        raise UsageError(f"--guard-factor {config.guard_factor}: must be more than 1, or 0")
    for name in ("lr_perceiver", "lr_cross_attention", "lr_language", "lr_vision"):
        rate = getattr(config, name)
        if rate is not None and not 0 < rate < float("inf"):
            raise UsageError(f"{_option(name)} {rate}: must be positive")
    _check_joint(config)
    _check_models(config)
    _check_trained(config)


def _check_trained(config: RunConfig) -> None:
    if config.train_vision and not config.vision_model:
        raise UsageError("--train-vision thaws a pretrained model; name it with --vision-model")
    if not config.lora_rank:
        if config.lora_only or config.lora_targets or config.lora_alpha is not None:
            raise UsageError("--lora-only, --lora-targets and --lora-alpha are for adapters; give --lora-rank too")
        return
    if config.lora_rank < 1 or not 0 < config.lora_scale < float("inf"):
        raise UsageError(f"--lora-rank {config.lora_rank}, --lora-alpha {config.lora_alpha}: both must be positive")
    for place in ("language", "vision") if config.lora_on == "both" else (config.lora_on,):
        if not getattr(config, f"{place}_model"):
            raise UsageError(
                f"--lora-on {config.lora_on}: adapters need a pretrained model; name it with --{place}-model"
            )
        if getattr(config, f"train_{place}"):
            raise UsageError(f"--train-{place} trains what --lora-on {config.lora_on} adapts; leave out one of the two")


def _check_joint(config: RunConfig) -> None:
    for name in ("latents", "perceiver_depth", "perceiver_width", "cross_attention_every"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UsageError(f"{_option(name)} {value}: must be at least 1")
    if config.latent_std is not None and not 0 < config.latent_std < float("inf"):
        raise UsageError(f"--latent-std {config.latent_std}: must be positive")
    gate = config.cross_attention_gate
    if gate is not None and not 0 <= gate <= _WIDEST_GATE:
        raise UsageError(
            f"--cross-attention-gate {gate}: must be between 0 and {_WIDEST_GATE}, its tanh opens the gate"
        )


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
    """`UsageError` where a model that a new run is to train with is neither a path here nor can be a name."""
    for name in ("language_model", "vision_model"):
        folder = getattr(config, name)
        if not folder or Path(folder).exists():
            continue
        if not _MODEL_NAME.fullmatch(folder) or (":" not in folder and Path(folder).parent.is_dir()):
            raise UsageError(f"{_option(name)} {folder}: no such folder")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
