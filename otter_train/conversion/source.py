"""Where weights come from: a file, a folder as transformers writes it, or the checkpoint of a training run.

Files that this package writes state which architecture their weights belong to and which rows are those of the added
tokens; a folder does, too, and has a tokenizer. A bare file of another program states neither.

Some families are stored under other names when transformers saves them itself: joined experts one by one, decoders
under the names of their first release. Such a folder can only be read by transformers (`read_resaved`), so the model
is loaded as a whole.

The ``config.json`` of Otter as it was published names the language model, the vision tower and the distance of the
cross-attention blocks. The rest was constant (8 heads of 64) or shows in the shapes of the weights; one more entry,
``otter_train``, holds our own configuration (`read_published`, `write_published`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import orjson
import torch
from transformers import AutoConfig

from mimicit.errors import TrainError, UsageError
from mimicit.shards.files import read_regular
from otter_train.checkpoint.files import is_checkpointed, open_checkpoint
from otter_train.checkpoint.meta import find_part, find_parts
from otter_train.conversion.completeness import (
    empty_model,
    frozen_weights,
    tied_names,
    vocabulary_names,
    vocabulary_rows,
)
from otter_train.conversion.token_rows import named_rows, special_rows, with_spare_rows
from otter_train.conversion.weight_files import find_weights, read_notes, read_weights
from otter_train.data.tokenizer import added_ids, load_tokenizer
from otter_train.model import ModelConfig, Otter, build_model
from otter_train.model.adapters import adapters_of, is_adapter, merged
from otter_train.model.build import architecture_of, clip_config, language_config
from otter_train.model.config import LanguageConfig, PerceiverConfig, VisionConfig
from otter_train.model.convert import neutral_state, neutral_weights
from otter_train.model.layouts import Layout
from otter_train.model.lazy import LazyTensor, replaced_rows
from otter_train.model.sources import read_pretrained
from otter_train.pretrained.configuration import OtterConfig

_OURS: Final = "otter_train"

_CONFIG: Final = "config.json"
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
_NEW_ROWS: Final = "new_rows."
OPTIONS: Final = {"language.lm.": "language_model", "vision.": "vision_model"}
"""The prefixes of the names of frozen parts, and the options that name the models with these parts."""


def read_published(config: Mapping[str, Any], tensors: Mapping[str, LazyTensor], path: Path) -> ModelConfig:
    """The architecture of the weights ``tensors`` (by our names) that ``config`` describes; ``path`` is for errors."""
    if _OURS in config:
        return ModelConfig.from_json(config[_OURS])
    try:
        text, vision, every = config["text_config"], config["vision_config"], config["cross_attn_every_n_layers"]
        language = LanguageConfig(architecture={"model_type": text["model_type"], **text})
        tower = _clip(vision)
    except (KeyError, TypeError, AttributeError) as error:
        raise TrainError(f"{path}: no configuration of an Otter (it lacks {error})") from None
    perceiver = perceiver_of(tensors)
    return ModelConfig(language=language, vision=tower, perceiver=perceiver, cross_attention_every=int(every))


def perceiver_of(tensors: Mapping[str, LazyTensor]) -> PerceiverConfig:
    """The perceiver of the weights ``tensors``, from their shapes; its heads are taken to be 8 of 64."""
    depths = [int(name.split(".")[2]) for name in tensors if name.startswith("perceiver.layers.")]
    latents, frames = tensors.get("perceiver.latents"), tensors.get("perceiver.frame_embs")
    return PerceiverConfig(
        depth=max(depths, default=PerceiverConfig().depth - 1) + 1,
        num_latents=PerceiverConfig().num_latents if latents is None else latents.shape[0],
        max_num_frames=None if frames is None else frames.shape[0],
    )


def write_published(model: ModelConfig, vocab_size: int) -> dict[str, Any]:
    """The configuration of ``model`` as Otter published it, with the whole `ModelConfig` as an entry of our own."""
    vision = model.vision.architecture or architecture_of(clip_config(model.vision))
    return {
        "architectures": ["OtterForConditionalGeneration"],
        "model_type": "otter",
        "cross_attn_every_n_layers": model.cross_attention_every,
        "text_config": architecture_of(language_config(model.language, vocab_size)),
        "vision_config": dict(vision),
        _OURS: model.to_json(),
    }


def _clip(vision: Mapping[str, Any]) -> VisionConfig:
    kind = vision.get("model_type", "clip_vision_model")
    if kind != "clip_vision_model":
        raise KeyError("a vision_config of CLIP")
    clip = AutoConfig.for_model(**{"model_type": kind, **vision})
    return VisionConfig(
        image_size=clip.image_size,
        patch_size=clip.patch_size,
        width=clip.hidden_size,
        layers=clip.num_hidden_layers,
        heads=clip.num_attention_heads,
        mlp_ratio=clip.intermediate_size // clip.hidden_size,
        projection=clip.projection_dim,
        quick_gelu=clip.hidden_act == "quick_gelu",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Weights by our names, the layout they were stored in, and what is known about them (None: nothing).

    ``tokens`` are the rows of the added tokens, as the file itself states. ``tokenizer`` is a folder. ``template``
    names the prompt template they were trained with. ``removed`` counts what was no weight of its own. ``lost`` has an
    error for each pretrained part that is gone, by its option, with where it was looked for.
    """

    tensors: dict[str, LazyTensor]
    layout: Layout
    decoder: str | None
    removed: Counter[str]
    architecture: ModelConfig | None = None
    tokens: dict[str, int] | None = None
    tokenizer: Path | None = None
    template: str = "otter"
    lost: Mapping[str, str] = field(default_factory=dict)

    def found(self, parts: Iterable[str]) -> ModelConfig:
        """The architecture, whose pretrained models give the absent ``parts``; `UsageError` if one of them is lost."""
        assert self.architecture is not None
        for part in parts:
            if (reason := self.lost.get(OPTIONS[part])) is not None:
                raise UsageError(reason)
        return self.architecture

    @property
    def vocabulary(self) -> set[str]:
        """The names of the tensors with a row for every token."""
        return vocabulary_names(self.tensors, self.architecture)

    def rows(self, least: int = 1) -> int:
        """How many rows the embeddings have; ``least`` if there are no embeddings."""
        return vocabulary_rows(self.tensors, self.architecture, least)

    def named_rows(self, tokenizer: str | Path | None = None, added: Sequence[str] = ()) -> dict[str, int]:
        """Which rows are those of the added tokens; ``tokenizer`` and ``added`` as in `token_rows.named_rows`.

        `UsageError` if nothing tells.
        """
        return named_rows(
            self.rows(), self.layout, noted=self.tokens, tokenizer=tokenizer or self.tokenizer, added=added
        )


def open_origin(
    path: Path,
    layout: Layout | None = None,
    *,
    with_frozen: bool = True,
    language_model: str | None = None,
    vision_model: str | None = None,
) -> Origin:
    """The weights of ``path``; no tensor of a file is read yet.

    The checkpoint of a run holds what was trained; ``with_frozen`` adds the rest from the models it names, or from
    ``language_model`` and ``vision_model``, where they lie now. `TrainError` if nothing fitting can be read.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if is_checkpointed(path):
        return _from_checkpoint(path, with_frozen, language_model, vision_model)
    notes = read_notes(path)
    found = neutral_weights(with_spare_rows(read_weights(path)), layout)
    folder = find_weights(path).parent
    origin = Origin(
        tensors=found.tensors,
        layout=found.layout,
        decoder=found.decoder,
        removed=found.removed,
        architecture=ModelConfig.from_json(notes["model"]) if "model" in notes else None,
        tokens=notes.get("added_tokens"),
        template=str(notes.get("template", "otter")),
    )
    if path.is_dir():
        architecture = _architecture(folder, found.tensors) or origin.architecture
        if architecture is not None and origin.layout == "ours":
            again = read_resaved(folder, origin.tensors, architecture)
            origin = origin if again is None else replace(origin, tensors=again)
        origin = replace(origin, architecture=architecture, tokenizer=_tokenizer(folder))
        origin = replace(origin, template=_template(folder, origin.template))
    return _with_places(origin, notes, path, folder, {"language_model": language_model, "vision_model": vision_model})


def _with_places(
    origin: Origin, notes: Mapping[str, Any], path: Path, folder: Path, moved: Mapping[str, str | None]
) -> Origin:
    """``origin`` with the present places of its pretrained models, from ``moved`` or the ``notes`` of its file."""
    if origin.architecture is None:
        return origin
    noted, places = notes.get("model") or {}, notes.get("pretrained") or {}
    lost: dict[str, str] = {}
    now: dict[str, str | None] = {}
    for name, part in (("language_model", "language"), ("vision_model", "vision")):
        source = getattr(origin.architecture, part).pretrained or noted.get(part, {}).get("pretrained")
        if moved[name] is not None:
            source = moved[name]
        elif source is not None and name in places:
            try:
                source = find_part(name, source, places[name], holder=path, folder=folder)
            except UsageError as error:  # which matters only if it is needed
                lost[name] = str(error)
        now[name] = source
    language = replace(origin.architecture.language, pretrained=now["language_model"])
    vision = replace(origin.architecture.vision, pretrained=now["vision_model"])
    return replace(origin, architecture=replace(origin.architecture, language=language, vision=vision), lost=lost)


def _from_checkpoint(path: Path, with_frozen: bool, language_model: str | None, vision_model: str | None) -> Origin:
    checkpoint = open_checkpoint(path)
    stored = read_weights(checkpoint.folder / "model.safetensors")
    adapters = adapters_of(stored, checkpoint.meta["config"])
    if adapters and not with_frozen:
        raise UsageError(f"{path}: trained adapters, which are added to frozen weights; convert it --with-frozen")
    apart = {key.removeprefix(_NEW_ROWS): one for key, one in stored.items() if key.startswith(_NEW_ROWS)}
    if apart and not with_frozen:
        raise UsageError(f"{path}: trained single rows of the frozen embeddings; convert it --with-frozen")
    trained = {key: one for key, one in stored.items() if not key.startswith(_NEW_ROWS) and not is_adapter(key)}
    tensors, _, _, removed = neutral_weights(trained, "ours")
    tokenizer = load_tokenizer(checkpoint.tokenizer_folder)
    architecture = ModelConfig.from_json(checkpoint.meta["model"])
    try:
        parts = find_parts(checkpoint, language_model=language_model, vision_model=vision_model)
    except UsageError:
        if with_frozen:
            raise
    else:
        architecture = replace(
            architecture,
            language=replace(architecture.language, pretrained=parts["language_model"]),
            vision=replace(architecture.vision, pretrained=parts["vision_model"]),
        )
    if with_frozen:
        tensors = _completed(tensors, apart, architecture, added_ids(tokenizer), len(tokenizer))
        tensors |= {name: merged(tensors[name], adapter) for name, adapter in adapters.items()}
    return Origin(
        tensors=tensors,
        layout="ours",
        decoder=None,
        removed=removed,
        architecture=architecture,
        tokens=special_rows(checkpoint.tokenizer_folder),
        tokenizer=checkpoint.tokenizer_folder,
        template=str(checkpoint.meta["template"]["name"]),
    )


def _completed(
    trained: dict[str, LazyTensor],
    apart: dict[str, LazyTensor],
    architecture: ModelConfig,
    added: Sequence[int],
    rows: int,
) -> dict[str, LazyTensor]:
    """Weights that were ``trained`` and those that were not, in the model's order, with the rows ``apart`` put back."""
    empty = empty_model(architecture, rows)
    first = tied_names(empty)
    found = {**frozen_weights(architecture, rows), **trained}
    # Checkpoints of runs hold tied weights under their first name only.
    found |= {name: found[one] for name, one in first.items() if one in found}
    lm = empty.language.lm
    for part, matrix in (("input", lm.get_input_embeddings().weight), ("output", lm.get_output_embeddings().weight)):
        for name, one in empty.named_parameters(remove_duplicate=False):
            if one is matrix and part in apart:
                found[name] = replaced_rows(found[name], added, apart[part])
    names = neutral_state(empty)
    if any(name in names and name not in found for name, _ in empty.named_buffers()):
        built = build_model(architecture, vocab_size=rows, token_ids=empty.token_ids, load_weights=False)
        found = {**neutral_state(built), **found} if (names.keys() - found.keys()) <= _buffers(built) else found
    return {name: found[name] for name in names if name in found}


def _buffers(model: Otter) -> set[str]:
    """The names of buffers, which no training changes: the statistics that convolutional towers normalise with."""
    return {name for name, _ in model.named_buffers()}


def _architecture(folder: Path, tensors: dict[str, LazyTensor]) -> ModelConfig | None:
    config = _json(folder / _CONFIG)
    if config.get("model_type") != "otter":
        return None
    if "cross_attention" in config and "perceiver" in config and "vision" in config:
        return OtterConfig(**config).to_model_config()
    return read_published(config, tensors, folder / _CONFIG)


def _tokenizer(folder: Path) -> Path | None:
    return folder if any((folder / name).is_file() for name in _TOKENIZERS) else None


def _template(folder: Path, otherwise: str) -> str:
    return str(_json(folder / "processor_config.json").get("template", otherwise))


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = orjson.loads(read_regular(path))
    except (OSError, orjson.JSONDecodeError) as error:
        raise TrainError(f"{path}: no JSON ({error})") from None
    return value if isinstance(value, dict) else {}


def read_resaved(
    folder: Path, tensors: Mapping[str, LazyTensor], architecture: ModelConfig
) -> dict[str, LazyTensor] | None:
    """The weights of ``folder`` by our names, if some of its ``tensors`` have other names; None if they have not.

    Each keeps the dtype it was stored in; those under other names get the dtype of most of these. None, too, if
    transformers cannot read them either.
    """
    expected = neutral_state(empty_model(architecture, 1)).keys()
    unknown = [name for name in tensors if name not in expected and name.startswith("language.lm.")]
    if not unknown:
        return None
    from otter_train.pretrained.modeling import OtterForConditionalGeneration

    floating = [one.dtype for one in tensors.values() if one.dtype.is_floating_point]
    widest = max(floating, key=lambda one: one.itemsize, default=torch.float32)
    try:
        model = read_pretrained(OtterForConditionalGeneration, folder, "model", dtype=widest)
    except TrainError:
        return None  # whoever reads the weights says what is wrong with them
    dtypes = Counter(tensors[name].dtype for name in unknown)
    other: torch.dtype = dtypes.most_common(1)[0][0]
    state = neutral_state(model.model)
    return {name: one.cast(tensors[name].dtype if name in tensors else other) for name, one in state.items()}
