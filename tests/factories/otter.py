"""Small Otters, and batches for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from otter_train.model import ModelConfig, Otter, TokenIds, build_model
from otter_train.model.config import LanguageConfig, PerceiverConfig, VisionConfig

VOCABULARY = 40
IDS = TokenIds(image=39, endofchunk=38, answer=37, pad=0)

CONFIG = ModelConfig(
    language=LanguageConfig(
        architecture={
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        }
    ),
    vision=VisionConfig(image_size=16, patch_size=8, width=24, layers=1, heads=2, mlp_ratio=2, projection=8),
    perceiver=PerceiverConfig(depth=2, dim_head=8, heads=2, num_latents=3),
    cross_attention_every=2,
    cross_attention_heads=2,
    cross_attention_dim_head=8,
)


class Inputs(NamedTuple):
    """The arguments of ``Otter.forward``; rows are padded on the right, frames that are not there hold noise."""

    vision_x: Tensor
    lang_x: Tensor
    attention_mask: Tensor
    labels: Tensor
    vision_mask: Tensor

    def to_left(self) -> Inputs:
        """The same rows padded on the left."""
        shift = [int(count) for count in self.attention_mask.shape[1] - self.attention_mask.sum(1)]

        def moved(part: Tensor) -> Tensor:
            return torch.stack([row.roll(by) for row, by in zip(part, shift, strict=True)])

        return self._replace(
            lang_x=moved(self.lang_x), attention_mask=moved(self.attention_mask), labels=moved(self.labels)
        )

    def row(self, index: int) -> Inputs:
        """One row alone, without padding of tokens, media or frames."""
        length = int(self.attention_mask[index].sum())
        media = int(self.vision_mask[index].any(-1).sum())
        frames = max(1, int(self.vision_mask[index].sum(-1).max())) if media else 1
        here = slice(index, index + 1)
        return Inputs(
            self.vision_x[here, :media, :frames],
            self.lang_x[here, :length],
            self.attention_mask[here, :length],
            self.labels[here, :length],
            self.vision_mask[here, :media, :frames],
        )


def otter(config: ModelConfig = CONFIG, *, seed: int = 0, gate: float | None = 0.7, every: int = 2) -> Otter:
    """A random model with open gates, or with its own closed ones where ``gate`` is None."""
    torch.manual_seed(seed)
    model = build_model(replace(config, cross_attention_every=every), vocab_size=VOCABULARY, token_ids=IDS)
    for block in model.language.blocks:
        if gate is not None:
            torch.nn.init.constant_(block.attn_gate, gate)
            torch.nn.init.constant_(block.ff_gate, gate)
    return model.eval()


def inputs(rows: Sequence[Sequence[int]], *, seed: int = 0, words: int = 4) -> Inputs:
    """A batch: row *b* has one medium of ``rows[b][j]`` frames per *j*, each followed by ``words`` words.

    Two words come before the first medium. The last two words of each unit are labelled.
    """
    generator = torch.Generator().manual_seed(seed)
    texts: list[list[int]] = []
    labels: list[list[int]] = []
    for row in rows:
        text = torch.randint(1, 30, (2,), generator=generator).tolist()
        label = [-100] * 2
        for _ in range(max(1, len(row))):
            spoken = torch.randint(1, 30, (words,), generator=generator).tolist()
            text += [IDS.image, *spoken] if row else spoken
            label += [-100] * (words - 1 if row else words - 2) + spoken[-2:]
        texts.append(text)
        labels.append(label)
    length = max(map(len, texts))
    media = max(map(len, rows))
    frames = max((count for row in rows for count in row), default=1)
    mask = torch.zeros(len(rows), media, frames, dtype=torch.bool)
    for index, row in enumerate(rows):
        for place, count in enumerate(row):
            mask[index, place, :count] = True
    return Inputs(
        torch.randn(len(rows), media, frames, 3, 16, 16, generator=generator),
        torch.tensor([text + [IDS.pad] * (length - len(text)) for text in texts]),
        torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts]),
        torch.tensor([label + [-100] * (length - len(label)) for label in labels]),
        mask,
    )
