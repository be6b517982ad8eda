"""ANLS (Biten et al., arXiv 1905.13648), the score of questions about text in pictures.

An answer that is nearly spelt as a true one counts nearly in full: 1 less the edits that part them, as a share of the
longer of both. Less than a half counts nothing. Capitals and spaces do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["anls"]

_LEAST: Final = 0.5


def anls(answer: str, truths: Sequence[str]) -> float:
    """0 to 1: how near ``answer`` is to the nearest of ``truths``; time grows with the product of their lengths."""
    said = _plain(answer)
    best = max((_similarity(said, _plain(truth)) for truth in truths), default=0.0)
    return best if best >= _LEAST else 0.0


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _similarity(one: str, other: str) -> float:
    longer = max(len(one), len(other))
    if not longer:
        return 1.0
    if abs(len(one) - len(other)) > longer * (1 - _LEAST):  # so many edits at least
        return 0.0
    return 1 - _edits(one, other) / longer


def _edits(one: str, other: str) -> int:
    """The Levenshtein distance: the fewest characters to insert, delete or replace."""
    row = list(range(len(other) + 1))
    for place, character in enumerate(one, 1):
        diagonal, row[0] = row[0], place
        for column, wanted in enumerate(other, 1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (character != wanted)),
            )
    return row[-1]
