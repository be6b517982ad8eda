"""The layout of the tokens, pictures and labels of several documents in one packed row, computed on the CPU.

Every index that a forward pass needs is made here, before the batch goes to the device, so that nothing in the step
waits for values from the device. Rows are packed for training only: a row of N tokens costs what its documents cost.
Padded batches have a mask and positions instead (`padding_arguments`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimicit.errors import TrainError
from otter_train.model.cross_attention import MediaRuns
from otter_train.model.documents import Documents, documents_of

IGNORED: Final = -100
"""The label of a token that is not to be learned."""


class Document(NamedTuple):
    """Token ``ids``, their ``labels`` (-100: none), and the number of the medium of each ``<image>``."""

    ids: Sequence[int]
    labels: Sequence[int]
    media: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packing:
    """The layout of a packed row of N tokens with M media, L labelled tokens and ``count`` documents.

    ``frames`` long (M, F) says which picture each frame of each medium is; ``frame_mask`` bool (M, F) is True where
    there is one (None: everywhere). ``predicting`` long (L,) are the places of the tokens whose next one is labelled,
    ``targets`` long (L,) those labels, and ``owners`` long (L,) their documents. See `Documents` and `MediaRuns`.
    """

    documents: Documents
    runs: MediaRuns
    frames: Tensor
    frame_mask: Tensor | None
    predicting: Tensor
    targets: Tensor
    owners: Tensor
    count: int

    @property
    def labelled(self) -> int:
        """How many tokens carry a label."""
        return len(self.targets)

    def to(self, device: torch.device) -> Packing:
        """The same on ``device``; copies from pinned memory overlap with the computation."""
        tensors = {name: part.to(device, non_blocking=True) for name, part in self._tensors().items()}
        return replace(self, documents=self.documents.to(device), runs=self.runs.to(device), **tensors)

    def pin_memory(self) -> Packing:
        """The same in pinned memory."""
        tensors = {name: part.pin_memory() for name, part in self._tensors().items()}
        return replace(self, documents=self.documents.pin_memory(), runs=self.runs.pin_memory(), **tensors)

    def _tensors(self) -> dict[str, Any]:
        names = ("frames", "frame_mask", "predicting", "targets", "owners")
        return {name: part for name in names if (part := getattr(self, name)) is not None}


def lay_out(
    documents: Sequence[Document], frame_counts: Sequence[int], *, image: int, pad: int, multiple: int = 1
) -> tuple[Tensor, Packing]:
    """The row ``lang_x`` long (1, N) of ``documents`` and its `Packing`.

    ``frame_counts`` are the numbers of frames of each medium; the pictures of all of them follow each other. Without
    any medium there must be one blank picture, which no token sees. One more document of ``pad``, without labels, pads
    N to a multiple of ``multiple``. `TrainError` if a document does not have one ``image`` token per medium.
    """
    ids = [np.asarray(document.ids, dtype=np.int64) for document in documents]
    lengths = [len(row) for row in ids]
    filler = -sum(lengths) % multiple
    starts = [0, *accumulate(lengths)]
    labels = np.concatenate([_without_first(document.labels) for document in documents])
    labelled = np.flatnonzero(labels != IGNORED)
    frames, frame_mask = _frames(frame_counts or [1])
    lang_x = np.concatenate([*ids, np.full(filler, pad, dtype=np.int64)])
    packing = Packing(
        documents=documents_of([*lengths, filler] if filler else lengths),
        runs=_runs(ids, starts, [document.media for document in documents], image),
        frames=frames,
        frame_mask=frame_mask,
        predicting=torch.from_numpy(labelled - 1),
        targets=torch.from_numpy(labels[labelled]),
        owners=torch.from_numpy(np.repeat(np.arange(len(ids)), lengths)[labelled]),
        count=len(ids),
    )
    return torch.from_numpy(lang_x)[None], packing


def _without_first(labels: Sequence[int]) -> NDArray[np.int64]:
    """The labels of one document; its first token is not learned, as nothing before it could predict it."""
    row = np.array(labels, dtype=np.int64)
    row[:1] = IGNORED
    return row


def _runs(
    ids: Sequence[NDArray[np.int64]], starts: Sequence[int], media: Sequence[Sequence[int]], image: int
) -> MediaRuns:
    begins, ends, seen = [], [], []
    for number, (row, start, shown) in enumerate(zip(ids, starts, media, strict=False)):
        images = np.flatnonzero(row == image).tolist()
        if len(images) != len(shown):
            raise TrainError(
                f"row {number} of the batch has {len(images)} <image> tokens and {len(shown)} media; each medium needs"
                " one <image>, in order"
            )
        for (begin, end), medium in zip(pairwise([*images, len(row)]), shown, strict=True):
            begins.append(start + begin)
            ends.append(start + end)
            seen.append(medium)
    width = max((end - begin for begin, end in zip(begins, ends, strict=True)), default=0)
    tokens = [place for begin, end in zip(begins, ends, strict=True) for place in range(begin, end)]
    places = [
        run * width + offset
        for run, (begin, end) in enumerate(zip(begins, ends, strict=True))
        for offset in range(end - begin)
    ]
    return MediaRuns(_long(tokens), _long(seen), _long(places), width)


def _frames(counts: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    most = max(counts)
    firsts = torch.tensor([0, *accumulate(counts)])[:-1]
    there = torch.arange(most) < torch.tensor(counts)[:, None]
    frames = (firsts[:, None] + torch.arange(most)).where(there, 0)
    return frames, None if bool(there.all()) else there


def _long(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def padding_arguments(attention_mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The ``attention_mask`` and ``position_ids`` for a decoder that reads a whole batch.

    Padding on the right needs neither: no earlier token sees it, and without a mask attention runs on its fast
    causal kernels. Padding on the left, or inside, needs both.
    """
    if attention_mask is None:
        return None, None
    real = attention_mask.bool()
    if not (real[:, 1:] & ~real[:, :-1]).any():
        return None, None
    return real, positions(real)


def positions(real: Tensor) -> Tensor:
    """Position of every token of ``real`` bool (B, T) among the tokens of its row that are not padding."""
    return (real.cumsum(dim=-1) - 1).clamp(min=0)
