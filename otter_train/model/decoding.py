"""Choosing new tokens one after the other, with a key-value cache or without; both give the same tokens."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mimicit.errors import TrainError, UsageError
from otter_train.model.cross_attention import MediaKV, sight
from otter_train.model.language import ConditionedLanguage, Conditioning
from otter_train.model.padding import positions

if TYPE_CHECKING:
    from transformers import Cache

__all__ = ["PromptReader", "decode"]


class PromptReader:
    """Reads a batch of prompts and what is appended to them, and says what comes next.

    Without a cache it reads everything again each time: slow, and the measure of what the cache must give.
    """

    def __init__(
        self,
        language: ConditionedLanguage,
        media: tuple[MediaKV, ...],
        *,
        text_time: Tensor,
        attention_mask: Tensor | None,
        media_count: int,
        latents: int,
        use_cache: bool,
    ) -> None:
        self._language = language
        self._media = media
        self._text_time = text_time
        self._real = torch.ones_like(text_time, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        if not self._real[:, -1].all():
            raise TrainError("a prompt ends in padding; pad prompts on the left to generate")
        self._media_count = media_count
        self._latents = latents
        self._use_cache = use_cache
        self._cache: Cache | None = None
        self._ids = text_time.new_empty(len(text_time), 0)

    def read(self, tokens: Tensor) -> Tensor:
        """Append ``tokens`` (B, n), the prompts first; returns the logits float32 (B, vocabulary) after the last."""
        self._ids = torch.cat([self._ids, tokens], dim=1)
        grown = self._ids.shape[1] - self._text_time.shape[1]
        if grown > 0:
            # What is appended still looks at the last medium of its prompt.
            last = self._text_time[:, -1:].expand(-1, grown)
            self._text_time = torch.cat([self._text_time, last], dim=1)
            self._real = torch.cat([self._real, torch.ones_like(last, dtype=torch.bool)], dim=1)
        new = tokens.shape[1] if self._use_cache else self._ids.shape[1]
        view = sight(self._text_time[:, -new:], media_count=self._media_count, latents=self._latents)
        state = self._language(
            self._ids[:, -new:],
            Conditioning(self._media, view),
            attention_mask=self._real,
            position_ids=positions(self._real)[:, -new:],
            cache=self._cache,
            use_cache=self._use_cache,
        )
        self._cache = state.cache
        return self._language.logits(state.hidden[:, -1]).float()


def decode(
    reader: PromptReader,
    prompts: Tensor,
    *,
    max_new_tokens: int,
    stop: Collection[int],
    never: int,
    filler: int,
    temperature: float,
    generator: torch.Generator | None,
) -> list[list[int]]:
    """The tokens that follow each of ``prompts`` (B, T), at most ``max_new_tokens``, without the one in ``stop``.

    ``never`` is not chosen; ``filler`` is fed to rows that have ended while others go on. ``temperature`` 0 takes
    the likeliest token, above 0 it samples.
    """
    if max_new_tokens < 1 or temperature < 0:
        raise UsageError(
            f"max_new_tokens is {max_new_tokens} (at least 1) and temperature {temperature} (not negative)"
        )
    rows: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(rows)))
    tokens = prompts
    for _ in range(max_new_tokens):
        logits = reader.read(tokens)
        logits[:, never] = float("-inf")
        chosen = _choose(logits, temperature, generator)
        for row in sorted(open_rows):
            if chosen[row] in stop:
                open_rows.discard(row)
            else:
                rows[row].append(chosen[row])
        if not open_rows:
            break
        following = [token if row in open_rows else filler for row, token in enumerate(chosen)]
        tokens = torch.tensor(following, device=prompts.device)[:, None]
    return rows


def _choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> list[int]:
    if temperature == 0:
        chosen = logits.argmax(dim=-1)
    else:
        chosen = torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator).flatten()
    tokens: list[int] = chosen.tolist()
    return tokens
