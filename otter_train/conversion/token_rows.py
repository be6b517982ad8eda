"""Special tokens by name: which row of the embeddings belongs to which token, and how to reorder the rows.

Published checkpoints add the special tokens in different orders, so rows are identified by the names of their tokens,
from notes in the file itself, or from a tokenizer next to it. Two programs always add the same ones: this one, and
OpenFlamingo's. For any other order the user must name the tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from transformers import AutoTokenizer

from mimicit.errors import TrainError, UsageError
from mimicit.prompt import ANSWER, ENDOFCHUNK, IMAGE
from otter_train.data.tokenizer import PAD
from otter_train.model.layouts import Layout
from otter_train.model.lazy import LazyTensor, concatenated, rows_of, with_rows
from otter_train.model.sources import read_pretrained

ADDED_TOKENS: Final = (ENDOFCHUNK, IMAGE, ANSWER, PAD)
_SPARE: Final = "otter_train.rows."
"""Begins the names of rows that a layout has no place for; readers of that layout ignore them."""


class PublishedRows(NamedTuple):
    """``ids`` of the added tokens; the first ``kept`` rows are all that OpenFlamingo makes."""

    ids: dict[str, int]
    kept: int


def special_rows(folder: str | Path) -> dict[str, int]:
    """The ids of the special tokens by name, for the tokenizer in ``folder`` as this program completes it."""
    tokenizer = _stored(folder)
    ids = _ids_in(tokenizer)
    names = [ENDOFCHUNK, IMAGE, ANSWER]
    if tokenizer.pad_token in (None, tokenizer.eos_token, PAD):
        names.append(PAD)
    following = len(tokenizer.get_vocab())
    for name in names:
        if name not in ids:
            ids[name] = following
            following += 1
    return ids


def named_rows(
    rows: int,
    layout: Layout,
    *,
    noted: Mapping[str, int] | None = None,
    tokenizer: str | Path | None = None,
    added: Sequence[str] = (),
) -> dict[str, int]:
    """Which of ``rows`` rows of weights in ``layout`` belong to which added token.

    Sources, in this order: ``added`` (the names in order; their rows follow those of the ``tokenizer``, or are the last
    ones), what the file ``noted``, the vocabulary of the ``tokenizer``. `UsageError` if none of them tells.
    """
    stored = None if tokenizer is None else _stored(tokenizer)
    if added:
        return _given(rows, added, stored)
    if noted is not None:
        return dict(noted)
    if stored is not None:
        ids = _ids_in(stored)
        if ENDOFCHUNK in ids and IMAGE in ids:
            return ids
        assert tokenizer is not None
        if layout == "ours":
            return special_rows(tokenizer)
        published = [ENDOFCHUNK, IMAGE, *([PAD] if stored.pad_token is None else [])]
        if layout == "openflamingo" and rows == len(stored) + len(published):
            return {name: len(stored) + place for place, name in enumerate(published)}
    raise UsageError(
        f"nothing says which of the {rows} rows of the embeddings belong to the added tokens; name their tokenizer "
        f"with --source-tokenizer, or them in their order, such as --added-tokens '{','.join(ADDED_TOKENS)}'"
    )


def published_rows(rows: int, ids: Mapping[str, int], *, pads: bool) -> PublishedRows:
    """Where the added tokens with ``ids`` lie in the published OpenFlamingo, which adds a padding token if it ``pads``.

    Its program appends ``<|endofchunk|>``, ``<image>`` and ``<PAD>``, if the tokenizer lacks them, and makes one row
    per token. All other rows follow.
    """
    names = {id: name for name, id in ids.items()}
    top = max(names, default=-1) + 1
    base = top
    while base - 1 in names:  # tokens further down were in the vocabulary before
        base -= 1
    published = [name for name in (ENDOFCHUNK, IMAGE, *([PAD] if pads else [])) if ids.get(name, -1) >= base]
    others = [names[id] for id in range(base, top) if names[id] not in published]
    placed = {name: base + place for place, name in enumerate([*published, *others])}
    return PublishedRows({**ids, **placed}, min(rows, base + len(published)))


def adds_padding(folder: str | Path) -> bool:
    """Whether OpenFlamingo adds a padding token to the language model in ``folder``: if its tokenizer has none."""
    try:
        return _stored(folder).pad_token is None
    except (TrainError, UsageError):  # it may lie elsewhere now; LLaMA has none
        return True


def row_order(rows: int, source: Mapping[str, int], target: Mapping[str, int]) -> list[int | None]:
    """For each row of the result the row it is copied from (None: new), when ids change from ``source`` to ``target``.

    Each token in both takes its row along. The rows that this displaces fill the places that it leaves, so no row is
    lost, and the reverse change restores the order. A place beyond the present ``rows`` is new.
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
    tensors: Mapping[str, LazyTensor], names: Iterable[str], source: Mapping[str, int], target: Mapping[str, int]
) -> dict[str, LazyTensor]:
    """``tensors``, by our names, with the rows of those called ``names`` moved from ``source`` to ``target`` ids."""
    moved = dict(tensors)
    for name in names:
        order = row_order(tensors[name].shape[0], source, target)
        if order != list(range(tensors[name].shape[0])):
            moved[name] = with_rows(tensors[name], order)
    return moved


def without_spare_rows(tensors: Mapping[str, LazyTensor], keys: Iterable[str], count: int) -> dict[str, LazyTensor]:
    """``tensors`` with the first ``count`` rows of those called ``keys``, and the other rows as extra tensors."""
    cut = dict(tensors)
    for key in keys:
        rows = tensors[key].shape[0]
        if rows > count:
            cut[key] = rows_of(tensors[key], 0, count)
            cut[_SPARE + key] = rows_of(tensors[key], count, rows)
    return cut


def with_spare_rows(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Inverse of `without_spare_rows`."""
    whole = {key: tensor for key, tensor in tensors.items() if _SPARE not in key}
    for key, spare in tensors.items():
        if _SPARE in key:
            of = key.replace(_SPARE, "", 1)  # a training program may have put its own prefix before it
            if of not in whole or whole[of].shape[1:] != spare.shape[1:] or whole[of].dtype != spare.dtype:
                raise TrainError(f"{key}: there is no {of} with rows like these")
            whole[of] = concatenated([whole[of], spare])
    return whole


def _given(rows: int, added: Sequence[str], stored: Any) -> dict[str, int]:
    unknown = [name for name in added if name not in ADDED_TOKENS]
    if unknown or len(set(added)) != len(added):
        raise UsageError(
            f"--added-tokens {','.join(added)}: name each of {', '.join(ADDED_TOKENS)} at most once, in order"
        )
    start = rows - len(added) if stored is None else len(stored)
    if start < 0 or start + len(added) > rows:
        raise UsageError(f"--added-tokens {','.join(added)}: the embeddings have {rows} rows, which is too few")
    return {name: start + place for place, name in enumerate(added)}


def _ids_in(tokenizer: Any) -> dict[str, int]:
    vocabulary = tokenizer.get_vocab()
    return {name: vocabulary[name] for name in ADDED_TOKENS if name in vocabulary}


def _stored(folder: str | Path) -> Any:
    """The tokenizer as it was stored; `otter_train.data.tokenizer.load_tokenizer` would add tokens in our order."""
    return read_pretrained(AutoTokenizer, folder, "tokenizer", trust_remote_code=False)
