"""What the families of decoders in transformers do differently: their logits, and those that cannot be an Otter's.

``docs/models.md`` has the whole table, which ``python -m tools.model_families`` makes by trying every family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from mimicit.errors import TrainError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["REFUSED", "UNPACKABLE", "check_family", "family_logits"]

_POSITIONS: Final = "its positions count padding, so answers would depend on what is asked beside them"
_STATE: Final = "its state runs over the padding, so answers would depend on what is asked beside them"
_CACHE: Final = "its cache is not that of other decoders, so it could not answer token by token"
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
    "trocr": _POSITIONS,
    "falcon_mamba": _CACHE,
    "mamba": _CACHE,
    "deepseek_v4": _STREAMS,
    "hy_v4": _STREAMS,
    "recurrent_gemma": _STATE,
    "rwkv": _STATE,
    "xlstm": _STATE,
}
"""Why a decoder of this ``model_type`` cannot be used."""

UNPACKABLE: Final = frozenset(("doge", "nemotron"))
"""Those that mask attention themselves, so that documents cannot share a row."""


def check_family(lm: PreTrainedModel) -> None:
    """`TrainError` where ``lm`` is of a family that would give wrong numbers."""
    if reason := REFUSED.get(lm.config.model_type):
        raise TrainError(f"a {lm.config.model_type} model cannot be the language model: {reason}")


def family_logits(lm: Any, hidden: Tensor) -> Tensor:
    """The logits (..., vocabulary) that ``lm`` makes of its decoder's last hidden states (..., d).

    Most multiply by a matrix; Cohere, Granite and Falcon-H1 also scale, and Gemma and NanoChat cap what comes out.
    """
    config = lm.config
    logits: Tensor = lm.get_output_embeddings()(hidden)
    scale = getattr(config, "logit_scale", None)
    if scale is not None and config.model_type.startswith("cohere"):  # MPT has one, which transformers passes over
        logits = logits * scale
    if (scale := getattr(config, "logits_scaling", None)) is not None:
        logits = logits * scale if config.model_type == "hyperclovax" else logits / scale
    if (scale := getattr(config, "lm_head_multiplier", None)) is not None:
        logits = logits * scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
