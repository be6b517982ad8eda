"""Vision towers: pictures in, patch tokens of the last block out, **before** the final LayerNorm.

The class token is dropped and nothing is projected. Before the LayerNorm matters: open_clip from 2.24 on normalises
the tokens it returns unless told otherwise, and every feature shifts without a word. open_clip is imported only
when a tower of its layout is built.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn

from mimicit.errors import TrainError

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer
    from transformers import CLIPVisionModel

__all__ = ["CLIP_MEAN", "CLIP_STD", "OpenClipTower", "TransformersTower", "VisionLayout", "VisionTower"]

VisionLayout = Literal["open_clip", "transformers"]

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
"""Mean of the red, green and blue values (0 to 1) that CLIP was trained with."""
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation that goes with `CLIP_MEAN`."""


class VisionTower(nn.Module):
    """Base of the towers; a subclass gives `patch_tokens` and `pooling_head`.

    ``dim`` is the width of a patch token, ``image_size`` the side of the square pictures in pixels; pictures are
    normalised with ``mean`` and ``std``. ``layout`` names the key layout of the weights inside.
    """

    layout: ClassVar[VisionLayout]

    def __init__(self, *, dim: int, image_size: int) -> None:
        super().__init__()
        self.dim = dim
        self.image_size = image_size
        self.mean = CLIP_MEAN
        self.std = CLIP_STD

    def forward(self, pictures: Tensor) -> Tensor:
        """``pictures`` (N, 3, H, W), normalised, to patch tokens (N, v, dim); without gradients while frozen."""
        trained = any(parameter.requires_grad for parameter in self.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            return self.patch_tokens(pictures)

    def set_trainable(self, trainable: bool) -> None:
        """Train the tower or freeze it.

        The pooling head stays frozen: Otter does not use it, and data-parallel training would wait for a gradient
        that never comes.
        """
        self.requires_grad_(trainable)
        for parameter in self.pooling_head():
            parameter.requires_grad_(False)

    def patch_tokens(self, pictures: Tensor) -> Tensor:
        """The patch tokens of ``pictures``, as `forward` describes them."""
        raise NotImplementedError

    def pooling_head(self) -> list[nn.Parameter]:
        """The parameters that only turn the class token into CLIP's picture embedding."""
        raise NotImplementedError


class ConvStem(nn.Module):
    """3x3 convolutions of stride 2 in the place of CLIP's one linear map per patch; ``patch`` is a power of two."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        halvings = patch.bit_length() - 1
        if patch != 1 << halvings or halvings < 1:
            raise TrainError(f"a convolutional stem halves the picture, so a patch of {patch} pixels is not possible")
        widths = [3, *(dim >> (halvings - 1 - number) for number in range(halvings))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(dim, dim, 1))

    @property
    def weight(self) -> Tensor:
        """The first weight; transformers casts pictures to its dtype."""
        first: Tensor = self.layers[0].weight  # type: ignore[assignment]
        return first

    def forward(self, pictures: Tensor) -> Tensor:
        """``pictures`` (N, 3, H, W) to (N, dim, H / patch, W / patch)."""
        grid: Tensor = self.layers(pictures)
        return grid


class TransformersTower(VisionTower):
    """The vision half of CLIP from transformers."""

    layout = "transformers"

    def __init__(self, model: CLIPVisionModel, *, conv_stem: bool = False) -> None:
        super().__init__(dim=model.config.hidden_size, image_size=_side(model.config.image_size))
        # Early releases of transformers 5 hold the transformer in an attribute; weights are named the same either way.
        self.model: Any = getattr(model, "vision_model", model)
        if conv_stem:
            self.model.embeddings.patch_embedding = ConvStem(self.dim, model.config.patch_size)
        self.set_trainable(True)

    def patch_tokens(self, pictures: Tensor) -> Tensor:
        """The last hidden state (transformers normalises the pooled token only) without the class token."""
        tokens: Tensor = self.model(pictures).last_hidden_state
        return tokens[:, 1:]

    def pooling_head(self) -> list[nn.Parameter]:
        """The final LayerNorm, which transformers applies to the class token."""
        return list(self.model.post_layernorm.parameters())


class OpenClipTower(VisionTower):
    """A vision transformer of open_clip (``open_clip.create_model(...).visual``); its output options are set here."""

    layout = "open_clip"

    def __init__(self, visual: VisionTransformer) -> None:
        if getattr(visual, "ln_post", None) is None or getattr(visual, "attn_pool", None) is not None:
            raise TrainError(
                f"{type(visual).__name__} of open_clip has no plain patch tokens; take a ViT such as ViT-L-14"
            )
        super().__init__(dim=visual.conv1.out_channels, image_size=_side(visual.image_size))
        self.visual: Any = visual
        self.visual.output_tokens = True
        self.visual.final_ln_after_pool = True  # else the tokens come back normalised by ln_post
        self.set_trainable(True)

    def patch_tokens(self, pictures: Tensor) -> Tensor:
        """The tokens that open_clip returns beside the pooled one."""
        # open_clip convolves in the dtype of its input; autocast takes care of it where it is on.
        tokens: Tensor = self.visual(pictures.to(self.visual.conv1.weight.dtype))[1]
        return tokens

    def pooling_head(self) -> list[nn.Parameter]:
        """The final LayerNorm and the projection of the class token."""
        projection = [] if self.visual.proj is None else [self.visual.proj]
        return [*self.visual.ln_post.parameters(), *projection]


def _side(image_size: int | tuple[int, int] | list[int]) -> int:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height != width:
        raise TrainError(f"a vision tower for {height}x{width} pictures; only square ones are supported")
    return height
