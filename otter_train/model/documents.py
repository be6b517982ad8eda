"""Self-attention of documents that share one row: each attends to itself alone, as if it were the only one.

Tokens of all documents lie side by side, without padding between them, so that everything but attention is computed
for real tokens only. Attention is cut at the boundaries: on a GPU by the varlen kernel of flash attention, elsewhere
documents of about the same length are padded and computed as one batch. No mask over the whole row is ever made; it
would be quadratic in the budget of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
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
except ImportError:  # before torch 2.10, GPUs pad as other devices do
    varlen_attn = None

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel

KEYWORD: Final = "otter_documents"
"""The name of this attention in transformers, and of the keyword argument that passes it the documents."""


_ALIKE: Final = 64
"""Documents are padded to a common length if their lengths, divided by this and rounded up, are equal."""


@dataclass(frozen=True, slots=True, eq=False)
class Documents:
    """Where the documents of a row begin.

    ``lengths`` counts their tokens; ``boundaries`` int32 (D + 1,) are its running sums from 0, on the device;
    ``positions`` long (1, N) count the tokens of each document from 0.

    Padded, documents of about the same length form a rectangle; ``shapes`` are (number of documents, tokens of each).
    The rectangles follow each other, P places in all: ``sources`` long (P,) is the token in each place, ``places`` long
    (N,) the place of each token, and ``unused`` long (P - N,) are the places that are padding.
    """

    lengths: tuple[int, ...]
    boundaries: Tensor
    positions: Tensor
    shapes: tuple[tuple[int, int], ...]
    sources: Tensor
    places: Tensor
    unused: Tensor

    def to(self, device: torch.device) -> Documents:
        """The same on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Documents:
        """The same in pinned memory."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Documents:
        names = ("boundaries", "positions", "sources", "places", "unused")
        tensors: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        return replace(self, **tensors)


def documents_of(lengths: Sequence[int]) -> Documents:
    """The `Documents` of ``lengths`` tokens each, on the CPU."""
    counts = np.array(lengths, dtype=np.int64)
    boundaries = np.concatenate([[0], counts.cumsum()])
    groups = -(-counts // _ALIKE)
    shapes, sources, filled = [], [], []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        own = counts[members, None]
        offsets = np.arange(own.max())
        shapes.append((len(members), len(offsets)))
        sources.append((boundaries[members, None] + np.minimum(offsets, own - 1)).ravel())
        filled.append((offsets < own).ravel())
    source, real = np.concatenate(sources), np.concatenate(filled)
    places = np.empty(boundaries[-1], dtype=np.int64)
    places[source[real]] = np.flatnonzero(real)
    return Documents(
        lengths=tuple(lengths),
        boundaries=torch.from_numpy(boundaries.astype(np.int32)),
        positions=torch.from_numpy(np.arange(boundaries[-1]) - np.repeat(boundaries[:-1], counts))[None],
        shapes=tuple(shapes),
        sources=torch.from_numpy(source),
        places=torch.from_numpy(places),
        unused=torch.from_numpy(np.flatnonzero(~real)),
    )


class _Padded(torch.autograd.Function):
    """The tokens (N, ...) of a row at the places (P, ...) of its `Documents`; padding repeats a document's last token.

    No result may depend on padding: the gradient of each token is then in one place, and needs no sum.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, documents: Documents) -> Tensor:
        ctx.documents = documents
        return tokens.index_select(0, documents.sources)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient.index_select(0, ctx.documents.places), None


class _Unpadded(torch.autograd.Function):
    """The inverse of `_Padded`; the gradient of padding is 0."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, documents: Documents) -> Tensor:
        ctx.documents = documents
        return places.index_select(0, documents.places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient.index_select(0, ctx.documents.sources).index_fill_(0, ctx.documents.unused, 0.0), None


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
    sizes = [count * width for count, width in documents.shapes]
    parts = (torch.split(_padded(part, documents), sizes) for part in (queries, keys, values))
    found_in = []
    for shape, *rectangles in zip(documents.shapes, *parts, strict=True):
        # Attention is causal, so no token sees the padding after its document.
        given = [rectangle.unflatten(0, shape).transpose(1, 2) for rectangle in rectangles]
        found_in.append(F.scaled_dot_product_attention(*given, **options).transpose(1, 2).flatten(0, 1))
    whole: Tensor = _Unpadded.apply(torch.cat(found_in), documents)
    return whole[None]


def _padded(part: Tensor, documents: Documents) -> Tensor:
    """(1, heads, N, dim_head) to (P, heads, dim_head)."""
    padded: Tensor = _Padded.apply(part[0].transpose(0, 1), documents)
    return padded


def look_within_documents(lm: PreTrainedModel) -> None:
    """Make ``lm`` able to read packed rows, if its attention allows it; all else it computes as before."""
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


# The lengths of documents differ from batch to batch, so a compiled layer runs this one call eagerly.
_attend = torch.compiler.disable(attend_within)  # type: ignore[no-untyped-call]

AttentionInterface.register(KEYWORD, _attention)
AttentionMaskInterface.register(KEYWORD, sdpa_mask)
