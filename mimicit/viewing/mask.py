"""Which characters of a prompt a model learns: the label mask of training, drawn over the text instead of tokens.

The rules are those of ``otter_train.data.encoding.label_ids`` (a test compares them); this needs neither a tokenizer
nor torch. The tokenizer's own tokens for the beginning and the end of the text are not part of the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from mimicit.prompt import ANSWER, ENDOFCHUNK, IMAGE, render
from mimicit.records import Sample

__all__ = ["LABEL_MODES", "LabelMode", "Span", "masked_prompt"]

LabelMode = Literal["span", "paper"]
LABEL_MODES: Final = ("span", "paper")

_TOKENS: Final = re.compile("|".join(map(re.escape, (ANSWER, ENDOFCHUNK, IMAGE))))


@dataclass(frozen=True, slots=True)
class Span:
    """A run of the prompt: its text, and whether a model learns to say it."""

    text: str
    is_learned: bool


def masked_prompt(sample: Sample, template: str = "otter", mode: LabelMode = "span") -> list[Span]:
    """The prompt of ``sample`` in runs; their texts joined are `render`'s.

    ``span``: in each chunk what follows ``<answer>`` up to and with ``<|endofchunk|>``; of a chunk without ``<answer>``
    (an interleaved document) all but its pictures. ``paper``: all after the first ``<answer>`` but ``<answer>`` and
    ``<image>``, so also later instructions; a prompt without ``<answer>`` as ``span``. `UsageError` at an unknown
    template.
    """
    pieces = list(_pieces(render(sample, template)))
    marked = _paper(pieces) if mode == "paper" and ANSWER in pieces else _span(pieces)
    return [
        Span("".join(text for text, _ in run), is_learned)
        for is_learned, run in groupby(marked, key=lambda piece: piece[1])
    ]


def _pieces(prompt: str) -> Iterator[str]:
    """The special tokens, and the words between them."""
    start = 0
    for token in _TOKENS.finditer(prompt):
        if token.start() > start:
            yield prompt[start : token.start()]
        yield token.group()
        start = token.end()
    if start < len(prompt):
        yield prompt[start:]


def _paper(pieces: list[str]) -> Iterator[tuple[str, bool]]:
    first = pieces.index(ANSWER)
    for place, piece in enumerate(pieces):
        yield piece, place > first and piece not in (ANSWER, IMAGE)


def _span(pieces: list[str]) -> Iterator[tuple[str, bool]]:
    start = 0
    while start < len(pieces):
        end = pieces.index(ENDOFCHUNK, start) + 1 if ENDOFCHUNK in pieces[start:] else len(pieces)
        chunk = pieces[start:end]
        answer = chunk.index(ANSWER) if ANSWER in chunk else -1
        for place, piece in enumerate(chunk):
            yield piece, place > answer and piece != IMAGE
        start = end
