"""Which parameters are trained.

The paper trains the perceiver, the cross-attention and the embeddings. Its "1.3 billion" is ``input_only``, its text
("input and output embeddings") is ``full``; with LLaMA-7B, 32,004 tokens and ViT-L/14 that makes

- ``input_only`` 1,309,923,344
- ``full``       1,441,011,728
- ``new_rows``   1,178,867,728 (four rows in each of the two matrices)
- ``none``       1,178,834,960
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from torch import nn

from mimicit.errors import UsageError
from otter_train.model.new_rows import NewRows
from otter_train.model.otter import Otter

EmbeddingMode = Literal["full", "input_only", "new_rows", "none"]


def freeze(
    model: Otter,
    embeddings: EmbeddingMode = "input_only",
    train_vision: bool = False,
    train_language: bool = False,
    added_ids: Iterable[int] | None = None,
) -> None:
    """Train the perceiver and the cross-attention, and also what the arguments name.

    ``embeddings`` alone decides about the two embedding matrices, not ``train_language``; if they are tied,
    ``input_only`` and ``full`` mean the same. ``new_rows`` trains the rows of ``added_ids`` in both (None: of the
    special tokens), as ``model.new_rows``; a later change of the mode keeps what they have learned.
    """
    if embeddings not in get_args(EmbeddingMode):
        raise UsageError(f"embeddings {embeddings!r}: there are {', '.join(get_args(EmbeddingMode))}")
    lm = model.language.lm
    model.perceiver.requires_grad_(True)
    model.language.cross_attention.requires_grad_(True)
    model.vision.set_trainable(train_vision)
    lm.requires_grad_(train_language)
    _fold_new_rows(model)
    # The output first: if both are one matrix, the input decides.
    lm.get_output_embeddings().requires_grad_(embeddings == "full")
    lm.get_input_embeddings().requires_grad_(embeddings in ("full", "input_only"))
    if embeddings == "new_rows":
        ids = model.token_ids
        chosen = (ids.image, ids.endofchunk, ids.answer, ids.pad) if added_ids is None else added_ids
        model.new_rows = NewRows(lm.get_input_embeddings(), lm.get_output_embeddings(), chosen)


def _fold_new_rows(model: Otter) -> None:
    if model.new_rows is not None:
        lm = model.language.lm
        model.new_rows.detach()
        model.new_rows.fold(lm.get_input_embeddings(), lm.get_output_embeddings())
        model.new_rows = None


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Name and parameter of everything that is trained, each parameter once."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def trainable_count(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for _, parameter in trainable_parameters(model))
