"""Filters: pure functions that return why a text or a medium is left out, or ``None``.

They know no language: a rule counts characters, pixels and bytes. A limit of 0 is off, as is a share of 1; so the only
filter that is on by default is that against control characters, which no proper text holds (they come from damaged
files and from terminals, and no tokenizer was trained on them).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from mimicit.options import option

# C0 controls except tab and the two characters that end lines. (A NUL is malformed anyway.)
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
_PIECE: Final = 16  # characters; shorter pieces are repeated in normal text, too
_EXAMINED: Final = 100_000  # characters; bounds the memory that one record takes


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterConfig:
    """What is left out of a source; sides and bytes are those of the original (of all its files together)."""

    min_side: int = option(0, "Leave out pictures with a side shorter than this, in pixels.", least=0)
    max_side: int = option(0, "Leave out pictures with a side longer than this; 0 for no limit.", least=0, flag=False)
    max_aspect: float = option(
        0.0, "Leave out pictures of a higher aspect ratio, long to short; 0 for no limit.", least=0
    )
    min_bytes: int = option(0, "Leave out pictures and clips of fewer bytes.", least=0, flag=False)
    max_bytes: int = option(0, "Leave out pictures and clips of more bytes; 0 for no limit.", least=0, flag=False)
    min_characters: int = option(0, "Leave out records with less text, in characters.", least=0, flag=False)
    max_characters: int = option(0, "Leave out records with more text; 0 for no limit.", least=0, flag=False)
    max_repetition: float = option(1.0, "Leave out texts that repeat a larger share.", least=0, most=1, flag=False)
    control_characters: bool = option(False, "Keep control characters other than tabs and line ends.", flag=False)

    @property
    def limits_media(self) -> bool:
        """Whether any limit on pictures and clips is set."""
        return any((self.min_side, self.max_side, self.max_aspect, self.min_bytes, self.max_bytes))

    @property
    def examines_texts(self) -> bool:
        """Whether any filter of texts is set, other than that against control characters."""
        return bool(self.min_characters or self.max_characters or self.max_repetition < 1)


class MediaFacts(NamedTuple):
    """The original of a medium: pixels before it was scaled down, and bytes as read."""

    width: int
    height: int
    bytes: int


class Fault(NamedTuple):
    """Why something is left out: a reason of ``schemas/reject.json``, and what was found, in words."""

    reason: str
    detail: str


def media_fault(facts: MediaFacts, filters: FilterConfig) -> Fault | None:
    """The first filter that a medium does not pass.

    Reasons: ``small_picture``, ``large_picture``, ``aspect_ratio``, ``file_size``.
    """
    short, long = sorted((facts.width, facts.height))
    size = f"{facts.width} x {facts.height} pixels"
    if short < filters.min_side:
        return Fault("small_picture", f"{size}; min_side is {filters.min_side}")
    if filters.max_side and long > filters.max_side:
        return Fault("large_picture", f"{size}; max_side is {filters.max_side}")
    if filters.max_aspect and long > filters.max_aspect * short:
        return Fault("aspect_ratio", f"{size}, a ratio of {long / short:.2f}; max_aspect is {filters.max_aspect:g}")
    if facts.bytes < filters.min_bytes:
        return Fault("file_size", f"{facts.bytes:,} bytes; min_bytes is {filters.min_bytes:,}")
    if filters.max_bytes and facts.bytes > filters.max_bytes:
        return Fault("file_size", f"{facts.bytes:,} bytes; max_bytes is {filters.max_bytes:,}")
    return None


def text_fault(texts: Sequence[str], filters: FilterConfig) -> Fault | None:
    """The first filter that a record's texts do not pass: ``control_characters``, ``text_length``, ``repeated_text``.

    ``texts`` are instruction and answer, or the texts of a document.
    """
    if not filters.control_characters:
        for text in texts:
            if not text.isprintable() and (found := _CONTROL.search(text)):
                where = f"at character {found.start()} of {text[:40]!a}"
                return Fault("control_characters", f"U+{ord(found[0]):04X} {where}")
    characters = sum(map(len, texts))
    if characters < filters.min_characters:
        return Fault("text_length", f"{characters:,} characters; min_characters is {filters.min_characters:,}")
    if filters.max_characters and characters > filters.max_characters:
        return Fault("text_length", f"{characters:,} characters; max_characters is {filters.max_characters:,}")
    if filters.max_repetition < 1:
        share, text = max(((repetition(text), text) for text in texts), default=(0.0, ""))
        if share > filters.max_repetition:
            detail = f"{share:.0%} of {text[:40]!a} was said before; max_repetition is {filters.max_repetition:.0%}"
            return Fault("repeated_text", detail)
    return None


def repetition(text: str) -> float:
    """The share of characters, 0 to 1, that lie in a piece of 16 characters that also occurs earlier in ``text``.

    The share of the *most frequent* piece, the usual measure, misses a loop that is longer than the piece; this one
    tends to 1 for a loop of any length. Only the first 100,000 characters are looked at.
    """
    examined = text[:_EXAMINED]
    seen: set[str] = set()
    repeated = covered = 0  # characters before `covered` are counted already
    for start in range(len(examined) - _PIECE + 1):
        piece = examined[start : start + _PIECE]
        if piece in seen:
            end = start + _PIECE
            repeated += end - max(start, covered)
            covered = end
        else:
            seen.add(piece)
    return repeated / len(examined) if examined else 0.0
