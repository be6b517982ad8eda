"""Special tokens by name: which row of the embeddings is whose, and the rows in another order.

Published checkpoints add the special tokens in different orders. What a row means is said by a tokenizer; where a
tokenizer was stored without them, by the order in which the programs of that layout add them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from transformers import AutoTokenizer

from mimicit.errors import TrainError
from mimicit.prompt import ANSWER, ENDOFCHUNK, IMAGE
from otter_train.conversion.completeness import EMBEDDINGS
from otter_train.model.layouts import Layout
from otter_train.model.lazy import LazyTensor, with_rows
from otter_train.tokenizer import PAD

__all__ = ["reordered", "row_order", "special_rows"]

_ADDED: Final[dict[Layout, tuple[str, ...]]] = {
    "openflamingo": (ENDOFCHUNK, IMAGE),
    "otter": (ENDOFCHUNK, IMAGE, ANSWER),
    "ours": (ENDOFCHUNK, IMAGE, ANSWER),
}


def special_rows(folder: Path, layout: Layout) -> dict[str, int]:
    """The ids of the special tokens by name, for the tokenizer in ``folder``.

    Tokens that it lacks are those that the programs of ``layout`` add to it, in their order; the padding token comes
    last, and only where it has none.
    """
    tokenizer = _stored(folder)
    vocabulary = tokenizer.get_vocab()
    names = [*_ADDED[layout]]
    if tokenizer.pad_token is None or tokenizer.pad_token == PAD:
        names.append(PAD)
    ids = {name: vocabulary[name] for name in (ENDOFCHUNK, IMAGE, ANSWER, PAD) if name in vocabulary}
    following = len(vocabulary)
    for name in names:
        if name not in ids:
            ids[name] = following
            following += 1
    return ids


def row_order(rows: int, source: Mapping[str, int], target: Mapping[str, int]) -> list[int | None]:
    """Which of ``rows`` rows comes to which place when the ids of the special tokens change from one to the other.

    Each token of both takes its row along. The rows that this uproots fill the places that it leaves, so no row is
    lost, and going back restores the order. A place beyond the rows there are is new (None).
    """
    outside = [f"{name} ({id})" for name, id in source.items() if id >= rows]
    if outside:
        raise TrainError(
            f"the embeddings have {rows} rows, and no row for {', '.join(outside)}; name another tokenizer"
        )
    size = max([rows, *(id + 1 for id in target.values())])
    order: dict[int, int | None] = {target[name]: source[name] for name in source.keys() & target.keys()}
    taken = {place for place in order.values() if place is not None}
    for place in range(rows):
        if place not in order and place not in taken:
            order[place] = place
            taken.add(place)
    homeless = [row for row in range(rows) if row not in taken]
    for place in range(size):
        if place not in order:
            order[place] = homeless.pop(0) if homeless else None
    return [order[place] for place in range(size)]


def reordered(
    tensors: Mapping[str, LazyTensor], source: Mapping[str, int], target: Mapping[str, int]
) -> dict[str, LazyTensor]:
    """``tensors``, by our names, with the rows of the vocabulary where ``target`` wants them."""
    moved = dict(tensors)
    for name in EMBEDDINGS & tensors.keys():
        order = row_order(tensors[name].shape[0], source, target)
        if order != list(range(tensors[name].shape[0])):
            moved[name] = with_rows(tensors[name], order)
    return moved


def _stored(folder: Path) -> Any:
    """The tokenizer as it was stored; `otter_train.tokenizer.load_tokenizer` would add tokens in our order."""
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainError(f"{folder}: no tokenizer can be read ({reason})") from None
