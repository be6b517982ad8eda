"""Small Otters, and batches for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otter_train.model import ModelConfig, Otter, TokenIds, build_model, trainable_parameters
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

_DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LANGUAGES: dict[str, dict[str, Any]] = {
    "falcon": {"model_type": "falcon", **_DECODER},
    "gemma": {"model_type": "gemma", **_DECODER, "head_dim": 8},
    "gpt_neox": {"model_type": "gpt_neox", **_DECODER},
    "llama": {"model_type": "llama", **_DECODER},
    "mistral": {"model_type": "mistral", **_DECODER},
    "mpt": {"model_type": "mpt", "d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 64, "expansion_ratio": 2},
    "opt": {"model_type": "opt", **_DECODER, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi": {"model_type": "phi", **_DECODER},
    "qwen2": {"model_type": "qwen2", **_DECODER},
    "qwen3": {"model_type": "qwen3", **_DECODER, "head_dim": 8},
    "smollm": {"model_type": "llama", **_DECODER, "tie_word_embeddings": True},
    "smollm3": {"model_type": "smollm3", **_DECODER},
}
"""The smallest language model of each family; every one of 4 layers of width 32."""

_TRANSFORMER = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip


def _other(width: int, **architecture: Any) -> VisionConfig:
    return VisionConfig(image_size=16, width=width, architecture=architecture)


VISIONS: dict[str, VisionConfig] = {
    "aimv2": _other(24, model_type="aimv2_vision_model", **_TRANSFORMER),
    "clip": CONFIG.vision,
    "conv stem": replace(CONFIG.vision, stem="conv"),
    "convnext": _other(16, model_type="convnext", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    "dinov2": _other(24, model_type="dinov2", **_TRANSFORMER),
    "dinov2 with registers": _other(24, model_type="dinov2_with_registers", num_register_tokens=3, **_TRANSFORMER),
    "dinov3": _other(24, model_type="dinov3_vit", num_register_tokens=2, **_TRANSFORMER),
    "mobilenet": _other(128, model_type="mobilenet_v2", depth_multiplier=0.1, finegrained_output=False),
    "open_clip": replace(CONFIG.vision, layout="open_clip"),
    "resnet": _other(
        16, model_type="resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    ),
    "siglip": _other(24, model_type="siglip_vision_model", **_TRANSFORMER),
    "siglip2 naflex": _other(
        24,
        model_type="siglip2_vision_model",
        num_patches=4,
        **{name: value for name, value in _TRANSFORMER.items() if name != "image_size"},
    ),
    "timm": _other(256, model_type="timm_wrapper", architecture="test_efficientnet"),
    "vit": _other(24, model_type="vit", **_TRANSFORMER),
}
"""A small vision tower of each kind, for pictures of 16 pixels."""


def with_language(name: str, **changes: Any) -> ModelConfig:
    """`CONFIG` with another language model."""
    return replace(CONFIG, language=LanguageConfig(architecture={**LANGUAGES[name], **changes}))


def with_vision(name: str) -> ModelConfig:
    """`CONFIG` with another vision tower."""
    return replace(CONFIG, vision=VISIONS[name])


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


def trained_losses(model: Otter, batch: Inputs, *, steps: int) -> list[float]:
    """The loss of each of so many steps on one batch; the model is trained by them."""
    optimizer = torch.optim.AdamW([p for _, p in trainable_parameters(model)], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(
            batch.vision_x, batch.lang_x, batch.attention_mask, batch.labels, vision_mask=batch.vision_mask
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def greedy(model: Otter, batch: Inputs, new: int, *, use_cache: bool = True) -> list[list[int]]:
    """The likeliest ``new`` tokens after each row of ``batch``."""
    rows: list[list[int]] = [[] for _ in batch.lang_x]
    with torch.no_grad():
        reader = model.prompt_reader(
            batch.vision_x, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask, use_cache=use_cache
        )
        tokens = batch.lang_x
        for _ in range(new):
            logits = reader.read(tokens)
            logits[:, IDS.image] = float("-inf")
            tokens = logits.argmax(dim=-1, keepdim=True)
            for row, token in zip(rows, tokens.flatten().tolist(), strict=True):
                row.append(token)
    return rows
