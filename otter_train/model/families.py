"""How the families of decoders in transformers differ: their logits, and which of them an Otter cannot use.

``docs/models.md`` has the whole table, which ``python -m tools.model_families`` makes by trying every family.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from mimicit.errors import TrainError

_POSITIONS: Final = "its positions count padding, so answers would depend on what is asked beside them"
_STATE: Final = "its state runs over the padding, so answers would depend on what is asked beside them"
_CACHE: Final = "its cache is not that of other decoders, so it could not answer token by token"
_DRAFTS: Final = "it drafts for another model, whose states it needs"
_STREAMS: Final = "its layers hand on several streams of states, and no one state to look from"

REFUSED: Final[dict[str, str]] = {
    "bart": _POSITIONS,
    "bigbird_pegasus": _POSITIONS,
    "blenderbot": _POSITIONS,
    "blenderbot-small": _POSITIONS,
    "marian": _POSITIONS,
    "mbart": _POSITIONS,
    "mvp": _POSITIONS,
    "pegasus": _POSITIONS,
    "plbart": _POSITIONS,
    "prophetnet": _POSITIONS,
    "trocr": _POSITIONS,
    "falcon_mamba": _CACHE,
    "mamba": _CACHE,
    "mamba2": _CACHE,
    "openai-gpt": "it keeps no cache, so it could not answer token by token",
    "blt": "it reads patches of bytes, not tokens",
    "gemma4_assistant": _DRAFTS,
    "gemma4_unified_assistant": _DRAFTS,
    "deepseek_v4": _STREAMS,
    "gemma3n_text": _STREAMS,
    "qwen4_exp_text": _STREAMS,
    "hy_v4": _STREAMS,
    "recurrent_gemma": _STATE,
    "rwkv": _STATE,
    "xlstm": _STATE,
}
"""Why a decoder of this ``model_type`` cannot be used."""

UNPACKABLE: Final = frozenset(("doge", "nemotron"))
"""The ``model_type`` of decoders that mask attention themselves, so that documents cannot share a row."""


def check_family(model_type: str) -> None:
    """`TrainError` if decoders of this ``model_type`` would give wrong numbers."""
    if reason := REFUSED.get(model_type):
        raise TrainError(f"a model of type {model_type} cannot be the language model: {reason}")


def decoder_in(lm: Any) -> Any:
    """The decoder of ``lm`` without its output matrix.

    For Llama 4, transformers itself finds none; for ModernBERT, it finds the output matrix, which is called decoder.
    """
    found = lm.get_decoder()
    return found if found is not lm and hasattr(found, "config") else getattr(lm, "model", found)


def family_logits(lm: Any, hidden: Tensor) -> Tensor:
    """The logits (..., vocabulary) that ``lm`` makes of its decoder's last hidden states (..., d).

    Most multiply by a matrix; Cohere, Granite, Falcon-H1 and Inkling also scale, and Gemma and NanoChat cap what comes
    out.
    """
    config = lm.config
    if (width := getattr(config, "logits_mup_width_multiplier", None)) is not None:
        hidden = hidden / width
    if config.model_type == "modernbert-decoder":  # the network that predicts, before the matrix
        hidden = lm.lm_head(hidden)
    logits: Tensor = lm.get_output_embeddings()(hidden)
    scale = getattr(config, "logit_scale", None)
    if scale is not None and config.model_type.startswith("cohere"):  # MPT has one, which transformers ignores
        logits = logits * scale
    if (scale := getattr(config, "logits_scaling", None)) is not None:
        logits = logits * scale if config.model_type == "hyperclovax" else logits / scale
    if (scale := getattr(config, "lm_head_multiplier", None)) is not None:
        logits = logits * scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
