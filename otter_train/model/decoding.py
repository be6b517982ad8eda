"""Reading a prompt and its answer token by token, with a key-value cache or without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mimicit.errors import TrainError
from otter_train.model.cross_attention import MediaKV, media_mask
from otter_train.model.language import ConditionedLanguage, Conditioning
from otter_train.model.packing import positions

if TYPE_CHECKING:
    from transformers import Cache

__all__ = ["PromptReader"]


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
        view = media_mask(self._text_time[:, -new:], media_count=self._media_count, latents=self._latents)
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
