"""Self-attention of documents that share one row: each looks at itself alone, as if it were the only one.

Tokens of all documents lie side by side, without padding between them, so that everything but attention is computed
for real tokens only. Attention is cut at the boundaries: on a GPU by the varlen kernel of flash attention, elsewhere
document by document. No mask over the whole row is ever made; it would be quadratic in the budget of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from otter_train.model.families import UNPACKABLE

varlen_attn: Any
try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before torch 2.10 a GPU too goes document by document
    varlen_attn = None

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

__all__ = ["KEYWORD", "Documents", "attend_within", "can_pack", "documents_of", "look_within_documents"]

KEYWORD: Final = "otter_documents"
"""Names the attention among those of transformers, and the keyword argument that tells it the documents."""


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """Where the documents of a row begin.

    ``lengths`` counts their tokens; ``boundaries`` int32 (D + 1,) are its running sums from 0, on the device;
    ``positions`` long (1, N) count the tokens of each document from 0.
    """

    lengths: tuple[int, ...]
    boundaries: Tensor
    positions: Tensor

    def to(self, device: torch.device) -> Documents:
        """The same on ``device``."""
        boundaries = self.boundaries.to(device, non_blocking=True)
        return Documents(self.lengths, boundaries, self.positions.to(device, non_blocking=True))

    def pin_memory(self) -> Documents:
        """The same in pinned memory."""
        return Documents(self.lengths, self.boundaries.pin_memory(), self.positions.pin_memory())


def documents_of(lengths: Sequence[int]) -> Documents:
    """The `Documents` of ``lengths`` tokens each, on the CPU."""
    boundaries = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    positions = torch.cat([torch.arange(length) for length in lengths])
    return Documents(tuple(lengths), boundaries, positions[None])


def attend_within(
    queries: Tensor, keys: Tensor, values: Tensor, documents: Documents, scale: float | None = None
) -> Tensor:
    """Causal attention inside of each document: (1, heads, N, dim_head) to (1, N, heads, dim_head).

    ``keys`` and ``values`` may have fewer heads, each for a group of query heads.
    """
    grouped = keys.shape[1] != queries.shape[1]
    if varlen_attn is not None and queries.is_cuda and queries.dtype in (torch.float16, torch.bfloat16):
        found: Tensor = varlen_attn(
            *(part[0].transpose(0, 1) for part in (queries, keys, values)),
            *(documents.boundaries, documents.boundaries, max(documents.lengths), max(documents.lengths)),
            scale=scale,
            window_size=(-1, 0),
            enable_gqa=grouped,
        )
        return found[None]
    options: dict[str, Any] = {"is_causal": True, "scale": scale, "enable_gqa": grouped}
    pieces = zip(*(torch.split(part, list(documents.lengths), dim=2) for part in (queries, keys, values)), strict=True)
    whole = torch.cat([F.scaled_dot_product_attention(*piece, **options) for piece in pieces], dim=2)
    return whole.transpose(1, 2).contiguous()  # as all attention of transformers is: some families view it


def look_within_documents(lm: PreTrainedModel) -> None:
    """Teach ``lm`` to read packed rows, where it can; all else it computes as before."""
    if lm._supports_attention_backend and lm.config._attn_implementation == "sdpa" and not _looks_otherwise(lm):
        lm.set_attn_implementation(KEYWORD)


def can_pack(lm: PreTrainedModel) -> bool:
    """Whether ``lm`` reads packed rows."""
    return bool(lm.config._attn_implementation == KEYWORD)


def _looks_otherwise(lm: PreTrainedModel) -> bool:
    """Whether its attention is more than causal softmax: it looks at a window, is capped, or knows no positions."""
    config = lm.config
    if config.model_type in UNPACKABLE:
        return True
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    special = ("attn_logit_softcapping", "sliding_window", "attention_chunk_size", "alibi")
    windowed = getattr(config, "use_sliding_window", True)
    named = [name for name in special if getattr(config, name, None) and (name != "sliding_window" or windowed)]
    return kinds != {"full_attention"} or bool(named)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    documents: Documents | None = options.pop(KEYWORD, None)
    if documents is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return found
    return _attend(query, key, value, documents, scaling), None


# The lengths of documents are another number each time: a compiled layer leaves this one call to eager execution.
_attend = torch.compiler.disable(attend_within)  # type: ignore[no-untyped-call]

AttentionInterface.register(KEYWORD, _attention)
AttentionMaskInterface.register(KEYWORD, sdpa_mask)
