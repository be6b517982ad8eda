"""From a stream of tokens to a stream of text that never takes anything back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

__all__ = ["TextStream"]

_UNFINISHED: Final = "\ufffd"
"""What a tokenizer shows for the first bytes of a character whose last have not come yet."""


class TextStream:
    """The text of one answer as its tokens arrive.

    White space at either end is left out, characters are given once they are whole, and nothing is given from that of
    ``stops`` on which is complete first; ``stopped`` says that one was met. Cost: each token is decoded with the few
    before it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        self._ids: list[int] = []
        self._window = 0  # tokens before it are never looked at again
        self._read = 0  # tokens before it have been turned into text
        self._held = ""  # text that may yet be white space at the end, or the beginning of a stop
        self._begun = False

    def add(self, token: int) -> str:
        """The text that is certain after one more token; often empty."""
        self._ids.append(token)
        before = self._decode(self._window, self._read)
        now = self._decode(self._window, len(self._ids))
        if now.endswith(_UNFINISHED):
            return ""
        self._window, self._read = self._read, len(self._ids)
        return self._give(now[len(before) :], at_end=False)

    def end(self) -> str:
        """The rest of the text."""
        before = self._decode(self._window, self._read)
        return self._give(self._decode(self._window, len(self._ids))[len(before) :], at_end=True)

    def _decode(self, start: int, end: int) -> str:
        text: str = self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True)
        return text

    def _give(self, text: str, *, at_end: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        if not self._begun:
            text = text.lstrip()
        met = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if met:
            self.stopped = True
            text, at_end = text[: min(met)[1]], True
        sure = len(text.rstrip()) if at_end else min(len(text.rstrip()), self._before_possible_stop(text))
        self._held = "" if at_end else text[sure:]
        self._begun = self._begun or sure > 0
        return text[:sure]

    def _before_possible_stop(self, text: str) -> int:
        """The length of ``text`` without an end that may be the beginning of a stop."""
        for start in range(max(0, len(text) - max(map(len, self._stops), default=0) + 1), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stops):
                return start
        return len(text)
