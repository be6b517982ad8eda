"""From a `ModelConfig` to an `Otter`: the one place that knows transformers' and open_clip's constructors."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import orjson
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    Aimv2VisionModel,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedConfig,
    PreTrainedModel,
    Siglip2VisionModel,
    SiglipVisionModel,
)
from transformers import __version__ as transformers_version
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mimicit.errors import TrainError, UsageError
from otter_train.model.config import LanguageConfig, ModelConfig, PerceiverConfig, VisionConfig
from otter_train.model.cross_attention import GatedCrossAttentionBlock
from otter_train.model.families import check_family, decoder_in
from otter_train.model.lazy import parameters_on_meta
from otter_train.model.otter import Otter, TokenIds
from otter_train.model.perceiver import PerceiverResampler
from otter_train.model.sources import quiet_downloads, read_pretrained, register_added_models
from otter_train.model.vision import OpenClipTower, VisionTower, transformers_tower

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

_RANDOM: Final = re.compile(r"drop|jitter")
_VISION_HALVES: Final = {
    "aimv2_vision_model": Aimv2VisionModel,
    "clip_vision_model": CLIPVisionModel,
    "siglip2_vision_model": Siglip2VisionModel,
    "siglip_vision_model": SiglipVisionModel,
}
_INSIDE: Final = {"aimv2_vision_model": "aimv2"}
_VISION_OPTIONS: Final[dict[str, dict[str, Any]]] = {"vit": {"add_pooling_layer": False}}
"""A classifier of pictures has no pooler, and no tower needs one."""
_PER_LAYER: Final = "embed_tokens_per_layer."
_NEW_ROWS_SEED: Final = 0


def build_model(
    config: ModelConfig,
    *,
    vocab_size: int,
    token_ids: TokenIds,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    load_weights: bool = True,
    empty: bool = False,
) -> Otter:
    """Build the model of ``config`` for a tokenizer of ``vocab_size`` tokens; everything in it is trainable.

    ``dtype`` is that of the language model and the vision tower; what joins them is float32. (Casting the model
    afterwards would also round the rotary frequencies.) With ``load_weights`` false, because a checkpoint brings them,
    no pretrained weights are read; on the meta device they never are. Random weights are drawn on the CPU from torch's
    global generator, so that a seed gives the same model on every device. With ``empty``, the parameters of all but the
    vision tower are on the meta device, to be filled later (`otter_train.assembly.models`). Embeddings grow to
    ``vocab_size`` but never shrink: some models have more rows than tokens. `TrainError` if weights can't be read or
    do not fit.
    """
    place = torch.device(device)
    meta = place.type == "meta"
    load_weights = load_weights and not meta
    biggest = max(token_ids.image, token_ids.endofchunk, token_ids.answer, token_ids.pad)
    if biggest >= vocab_size:
        raise TrainError(f"token id {biggest} lies outside of a vocabulary of {vocab_size}")
    with torch.device("meta" if meta else "cpu"):
        vision = _vision(config.vision, dtype, load_weights)
        with parameters_on_meta() if empty else contextlib.nullcontext():
            language = new_language(config.language, vocab_size, dtype, load_weights=load_weights and not empty)
            perceiver = new_perceiver(config.perceiver, vision.dim)
            model = Otter(
                vision=vision,
                perceiver=perceiver,
                language=language,
                token_ids=token_ids,
                cross_attention_every=config.cross_attention_every,
                cross_attention_heads=config.cross_attention_heads,
                cross_attention_dim_head=config.cross_attention_dim_head,
                cross_attention_gate=config.cross_attention_gate,
            )
    return model if empty else model.to(place)


def new_perceiver(config: PerceiverConfig, media_dim: int) -> PerceiverResampler:
    """The perceiver of ``config`` over tokens of ``media_dim`` numbers, with random weights."""
    return PerceiverResampler(
        config.width or media_dim,
        depth=config.depth,
        dim_head=config.dim_head,
        heads=config.heads,
        num_latents=config.num_latents,
        ff_mult=config.ff_mult,
        max_num_frames=config.max_num_frames,
        latent_std=config.latent_std,
        media_dim=media_dim if config.width else None,
    )


def new_block(config: ModelConfig, dim: int, vis_dim: int) -> GatedCrossAttentionBlock:
    """One cross-attention block of ``config`` between a decoder of width ``dim`` and a perceiver of ``vis_dim``."""
    return GatedCrossAttentionBlock(
        dim,
        vis_dim,
        dim_head=config.cross_attention_dim_head,
        heads=config.cross_attention_heads,
        gate=config.cross_attention_gate,
    )


def architecture_of(config: PreTrainedConfig) -> dict[str, Any]:
    """``config`` as JSON holds it: its ``model_type`` and what differs from the defaults.

    Infinite numbers are written as transformers writes them, in an object.
    """
    return {**orjson.loads(config.to_json_string(use_diff=True)), "model_type": config.model_type}


def config_of(architecture: Mapping[str, Any]) -> PreTrainedConfig:
    """Inverse of `architecture_of`; `TrainError` if no installed package knows the ``model_type``."""
    register_added_models()
    model_type = architecture["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise TrainError(
            f"a model of type {model_type} is not known to transformers {transformers_version}; install the release or"
            " the package that knows it"
        )
    kind = CONFIG_MAPPING[model_type]
    # Some configurations also write values that follow from the rest, and do not accept them.
    known = {name: value for name, value in architecture.items() if not _follows(getattr(kind, name, None))}
    return AutoConfig.for_model(**PreTrainedConfig._decode_special_floats(known))


def _follows(attribute: object) -> bool:
    return isinstance(attribute, property) and attribute.fset is None


def clip_config(config: VisionConfig) -> CLIPVisionConfig:
    """The configuration of ``config`` as transformers writes it."""
    return CLIPVisionConfig(
        hidden_size=config.width,
        intermediate_size=config.width * config.mlp_ratio,
        projection_dim=config.projection,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_act="quick_gelu" if config.quick_gelu else "gelu",
    )


def language_config(config: LanguageConfig, vocab_size: int) -> PreTrainedConfig:
    """The configuration of ``config`` as transformers writes it, with at least ``vocab_size`` rows of embeddings."""
    architecture = dict(config.architecture)
    rows = max(vocab_size, architecture.get("vocab_size", 0))
    # These ids concern transformers' own generation; a padding id would keep a row of the embedding from training.
    made: Any = config_of({**architecture, "vocab_size": rows})
    if (known := getattr(made, "vocab_size_per_layer_input", None)) is not None:
        made.vocab_size_per_layer_input = max(vocab_size, known)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        with contextlib.suppress(StrictDataclassFieldValidationError):  # some families insist on a number
            setattr(made, name, None)
    return _without_dropout(made)


def new_language(
    config: LanguageConfig, vocab_size: int, dtype: torch.dtype, *, load_weights: bool = True
) -> PreTrainedModel:
    """The language model of ``config``: its pretrained weights, or random ones."""
    if config.pretrained is None or not load_weights:
        lm: PreTrainedModel = AutoModelForCausalLM.from_config(language_config(config, vocab_size), dtype=dtype)
        lm.get_input_embeddings().padding_idx = None  # it would keep one row, maybe a new token's, from being trained
        return lm
    return load_language(config, vocab_size, dtype)


def load_language(config: LanguageConfig, vocab_size: int, dtype: torch.dtype | Literal["auto"]) -> PreTrainedModel:
    """The pretrained language model of ``config`` with at least ``vocab_size`` rows; ``auto``: as stored."""
    assert config.pretrained is not None
    stored = _without_dropout(read_pretrained(AutoConfig, config.pretrained, "configuration"))
    if stored.model_type == config.architecture["model_type"]:
        lm = _weights_from(AutoModelForCausalLM, config.pretrained, dtype, config=stored)
    else:
        lm = _text_part(config.pretrained, stored, dtype)
    if lm.get_input_embeddings().num_embeddings < vocab_size:
        _grow_vocabulary(lm, vocab_size)
    lm.get_input_embeddings().padding_idx = None  # it would keep one row, maybe a new token's, from being trained
    return lm


def text_config(config: PreTrainedConfig, source: str) -> PreTrainedConfig:
    """``config``, or that of its text part if the model reads more than text.

    `TrainError` if transformers has no language model for it.
    """
    check_family(config.model_type)
    text: PreTrainedConfig = config.get_text_config(decoder=True)
    known = text.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or type(text) in MODEL_FOR_CAUSAL_LM_MAPPING
    if known and not hasattr(text, "text_config"):
        return text
    part = "" if text is config else f", and its text part, {text.model_type}, none either"
    raise TrainError(
        f"{source}: a {config.model_type} model is no language model of transformers on its own{part}; take a "
        "decoder-only model of text, such as one of the same family"
    )


def _text_part(source: str, config: PreTrainedConfig, dtype: torch.dtype | Literal["auto"]) -> PreTrainedModel:
    """The language model inside of a model that also reads pictures or sounds."""
    whole = _weights_from(AutoModelForMultimodalLM, source, dtype)
    decoder = decoder_in(whole)
    with torch.device("meta"):
        lm: PreTrainedModel = AutoModelForCausalLM.from_config(text_config(config, source))
    if type(decoder) is type(lm):  # Llama 4 and BLIP-2 have a whole language model inside
        decoder.config = _without_dropout(decoder.config)
        return cast("PreTrainedModel", decoder)
    if type(decoder_in(lm)) is not type(decoder):
        raise TrainError(f"{source}: the text part of a {config.model_type} model cannot be taken out of it")
    for empty, full in ((decoder_in(lm), decoder), (lm.get_output_embeddings(), whole.get_output_embeddings())):
        (name,) = [name for name, child in lm.named_children() if child is empty]
        setattr(lm, name, full)
    lm.config = _without_dropout(decoder.config)
    return lm


def _grow_vocabulary(lm: PreTrainedModel, vocab_size: int) -> None:
    """Add rows that are as far from the mean row as the others.

    They are the same each time: checkpoints do not store frozen embeddings, so they could not restore random ones.
    """
    matrices = {id(part.weight): part for part in (lm.get_input_embeddings(), lm.get_output_embeddings())}
    before = lm.get_input_embeddings().num_embeddings
    rows = [
        grown_rows(part.weight.detach(), vocab_size - before, number) for number, part in enumerate(matrices.values())
    ]
    tied = len(matrices) == 1
    # Gemma 4 has one more table of tokens, for its layers, which grows together with these.
    others = {name: one.detach() for name, one in lm.named_parameters() if _PER_LAYER in name}
    with torch.random.fork_rng(devices=[]):  # transformers draws rows, which are not used
        lm.resize_token_embeddings(vocab_size, mean_resizing=False)
    for name, old in others.items():
        table = lm.get_parameter(name)
        with torch.no_grad():
            table[len(old) :] = grown_rows(old, len(table) - len(old), 2)
    grown = [lm.get_input_embeddings()] if tied else [lm.get_input_embeddings(), lm.get_output_embeddings()]
    with torch.no_grad():
        for part, new in zip(grown, rows, strict=True):
            part.weight[before:] = new


def grown_rows(matrix: Tensor, count: int, number: int) -> Tensor:
    """``count`` more rows (count, d) for ``matrix`` (V, d): the input embeddings (``number`` 0) or the output's (1)."""
    mean, std = matrix.float().mean(0), matrix.float().std(0)
    generator = torch.Generator().manual_seed(_NEW_ROWS_SEED)
    for _ in range(number + 1):
        noise = torch.randn(count, matrix.shape[1], generator=generator)
    return (mean + std * noise).to(matrix.dtype)


def _without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    """``config`` with every rate of what is dropped or jittered at 0.

    Decoders stay in evaluation mode anyway, except for layers whose activations are recomputed.
    """
    for part in (config, getattr(config, "attn_config", None)):
        for name, rate in list(vars(part).items()) if part is not None else ():
            if _RANDOM.search(name) and isinstance(rate, float) and rate:
                setattr(part, name, 0.0)
    return config


def _vision(config: VisionConfig, dtype: torch.dtype, load_weights: bool) -> VisionTower:
    return _tower(config, dtype, config.pretrained if load_weights else None).to(dtype)


def load_vision(config: VisionConfig) -> VisionTower:
    """The pretrained vision tower of ``config`` as it was stored."""
    return _tower(config, "auto", config.pretrained)


def _tower(config: VisionConfig, dtype: torch.dtype | Literal["auto"], source: str | None) -> VisionTower:
    plain_clip = config.layout == "transformers" and config.architecture is None
    if config.stem == "conv" and (not plain_clip or config.pretrained is not None):
        raise UsageError("a vision tower with a convolutional stem starts from random weights, in transformers' layout")
    tower: VisionTower
    if config.layout == "open_clip":
        tower = OpenClipTower(_open_clip_visual(config, source))
    else:
        model = _transformers_vision(config, source, dtype)
        tower = transformers_tower(model, image_size=config.image_size, conv_stem=config.stem == "conv")
    if (tower.dim, tower.image_size) != (config.width, config.image_size):
        raise TrainError(
            f"{source or 'vision'}: a vision tower of width {tower.dim} for {tower.image_size} pixels, but the"
            f" configuration says {config.width} and {config.image_size}"
        )
    return tower


def _transformers_vision(
    config: VisionConfig, source: str | None, dtype: torch.dtype | Literal["auto"]
) -> PreTrainedModel:
    kind = "clip_vision_model" if config.architecture is None else config.architecture["model_type"]
    # A whole CLIP or SigLIP folder holds its text half too; the other kinds are vision models as a whole.
    model_class = _VISION_HALVES.get(kind, AutoModel)
    options = _VISION_OPTIONS.get(kind, {})
    if source is not None and kind in _INSIDE:
        stored = read_pretrained(AutoConfig, source, "configuration")
        if stored.model_type == _INSIDE[kind]:  # transformers does not look for the half inside of the whole
            return cast("PreTrainedModel", _weights_from(AutoModel, source, dtype).vision_model)
    if source is not None:
        return _weights_from(model_class, source, dtype, **options)
    if config.architecture is None:
        return _random_clip(config)
    return AutoModel.from_config(config_of(config.architecture), **options)


def _random_clip(config: VisionConfig) -> CLIPVisionModel:
    """A CLIP tower of random weights whose position vectors are about as long as its patch embeddings.

    transformers draws the weights of both with one standard deviation, which leaves positions so faint that a small
    model needs many times the steps to learn where things are.
    """
    model = CLIPVisionModel(clip_config(config))
    pixels = model.get_input_embeddings().weight[0].numel()
    positions = next(module for module in model.modules() if isinstance(module, nn.Embedding))
    nn.init.normal_(positions.weight, std=model.config.initializer_range * math.sqrt(pixels))
    return model


def _open_clip_visual(config: VisionConfig, source: str | None) -> VisionTransformer:
    import open_clip  # heavy (it brings torchvision), and needed for this layout only
    from open_clip.transformer import QuickGELU, VisionTransformer

    if source is None:
        return VisionTransformer(
            image_size=config.image_size,
            patch_size=config.patch_size,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            output_dim=config.projection,
            act_layer=QuickGELU if config.quick_gelu else nn.GELU,
        )
    architecture, _, weights = source.partition(":")
    if not weights:
        raise UsageError(f"open_clip weights {source!r}: write ARCHITECTURE:TAG_OR_FILE, such as ViT-L-14:openai")
    # Weights of OpenAI were trained with QuickGELU, and open_clip no longer infers that from their name.
    try:
        with quiet_downloads():
            return open_clip.create_model(architecture, pretrained=weights, force_quick_gelu=config.quick_gelu).visual
    except Exception as error:  # of the file, or of whatever library fetches a tag
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TrainError(f"{source}: no weights of open_clip can be read ({reason})") from None


def _weights_from(kind: Any, source: str, dtype: torch.dtype | Literal["auto"], **options: Any) -> Any:
    model, report = read_pretrained(kind, source, "weights", dtype=dtype, output_loading_info=True, **options)
    if report["missing_keys"]:  # transformers would continue with random numbers
        raise TrainError(f"{source}: weights are missing: {', '.join(sorted(report['missing_keys']))}")
    return model
