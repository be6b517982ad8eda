"""Vision towers: pictures in, patch tokens of the last block out, **before** the final LayerNorm.

Class and register tokens are dropped and nothing is projected. The LayerNorm matters: open_clip from 2.24 on applies
it by default to the tokens it returns, which silently shifts every feature. open_clip is imported only when a tower of
its layout is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

import torch
from torch import Tensor, nn

from mimicit.errors import TrainError

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer
    from transformers import PreTrainedConfig, PreTrainedModel

VisionLayout = Literal["open_clip", "transformers"]
Channels = tuple[float, float, float]

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
"""Mean of the red, green and blue values (0 to 1) that CLIP was trained with."""
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation that goes with `CLIP_MEAN`."""
_CLIP: Final = (CLIP_MEAN, CLIP_STD)
_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: Final = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

_AT_ONCE: Final = 64
_PIXELS_AT_ONCE: Final = 4 * 224 * 224  # on a CPU, whose caches cannot hold the activations of more
_PLAIN: Final = {
    "aimv2_vision_model": ("rms_norm", ("head",)),
    "dinov3_vit": ("norm", ()),
    "vit": ("layernorm", ("pooler",)),
}
"""Vision transformers that end in one LayerNorm: the name of its attribute, and of those that come after it."""

NORMALISATION: Final[dict[str, tuple[Channels, Channels]]] = {
    "aimv2_vision_model": _CLIP,
    "clip_vision_model": _CLIP,
    "convnext": _IMAGENET,
    "convnextv2": _IMAGENET,
    "dinov2": _IMAGENET,
    "dinov2_with_registers": _IMAGENET,
    "dinov3_vit": _IMAGENET,
    "mobilenet_v2": _HALF,
    "resnet": _IMAGENET,
    "siglip2_vision_model": _HALF,
    "siglip_vision_model": _HALF,
    "timm_wrapper": _IMAGENET,
    "vit": _HALF,
}
"""Mean and standard deviation that each kind of tower from transformers was trained with.

All networks of timm share one entry; each may name its own values.
"""

_ADDED: Final[dict[str, Callable[[Any], TransformersTower]]] = {}


def add_tower(model_type: str, tower: Callable[[Any], TransformersTower], *, mean: Channels, std: Channels) -> None:
    """Use ``tower(model)`` for models of ``model_type``, which were trained with this ``mean`` and ``std`` (0 to 1).

    For packages that register ``otter_train.models``; see docs/extending.md.
    """
    _ADDED[model_type] = tower
    NORMALISATION[model_type] = (mean, std)


class VisionTower(nn.Module):
    """Base of the towers; a subclass gives `patch_tokens` and `pooling_head`.

    ``dim`` is the width of a patch token, ``image_size`` the side of the square pictures in pixels; pictures are
    normalised with ``mean`` and ``std``. ``layout`` names the key layout of the weights inside.
    """

    layout: ClassVar[VisionLayout]

    def __init__(self, *, dim: int, image_size: int, mean: Channels = CLIP_MEAN, std: Channels = CLIP_STD) -> None:
        super().__init__()
        self.dim = dim
        self.image_size = image_size
        self.mean = mean
        self.std = std

    def forward(self, pictures: Tensor) -> Tensor:
        """``pictures`` (N, 3, H, W), normalised, to patch tokens (N, v, dim); without gradients while frozen.

        Without gradients, a limited number of pictures goes through at a time, which keeps the activations small.
        """
        trained = any(parameter.requires_grad for parameter in self.parameters())
        if trained and torch.is_grad_enabled():
            return self.patch_tokens(pictures)
        at_once = _AT_ONCE
        if pictures.device.type == "cpu":
            at_once = min(at_once, max(1, _PIXELS_AT_ONCE // max(1, pictures.shape[-2:].numel())))
        with torch.no_grad():
            return torch.cat([self.patch_tokens(some) for some in torch.split(pictures, at_once)])

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of the tower alone; the network inside stays in evaluation mode.

        So nothing is dropped at random, and batch normalisation uses its stored statistics: no picture changes the
        tokens of another.
        """
        super().train(mode)
        for part in self.children():
            part.eval()
        return self

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
        """The parameters that patch tokens do not depend on: those that make one embedding of a whole picture."""
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
    """Base of the towers from transformers: ``model`` under its native keys; a subclass handles one kind."""

    layout = "transformers"

    def __init__(self, model: PreTrainedModel, *, dim: int, image_size: int) -> None:
        mean, std = _normalisation(model.config)
        super().__init__(dim=dim, image_size=image_size, mean=mean, std=std)
        # Early releases of transformers 5 hold the transformer in an attribute; weights are named the same either way.
        self.model: Any = getattr(model, "vision_model", model)
        self.set_trainable(True)

    def pooling_head(self) -> list[nn.Parameter]:
        """Empty: not every kind has one."""
        return []


class ClipTower(TransformersTower):
    """The vision half of CLIP."""

    def __init__(self, model: PreTrainedModel, *, conv_stem: bool = False) -> None:
        super().__init__(model, dim=model.config.hidden_size, image_size=_side(model.config.image_size))
        if conv_stem:
            self.model.embeddings.patch_embedding = ConvStem(self.dim, model.config.patch_size)

    def patch_tokens(self, pictures: Tensor) -> Tensor:
        """The last hidden state (transformers normalises the pooled token only) without the class token."""
        tokens: Tensor = self.model(pictures).last_hidden_state
        return tokens[:, 1:]

    def pooling_head(self) -> list[nn.Parameter]:
        """The final LayerNorm, which transformers applies to the class token."""
        return list(self.model.post_layernorm.parameters())


class SiglipTower(TransformersTower):
    """The vision half of SigLIP, which has patch tokens only."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model, dim=model.config.hidden_size, image_size=_side(model.config.image_size))

    def patch_tokens(self, pictures: Tensor) -> Tensor:
        """The output of the encoder; the last hidden state that transformers returns is normalised."""
        dtype = self.model.embeddings.patch_embedding.weight.dtype
        tokens: Tensor = self.model.encoder(self.model.embeddings(pictures.to(dtype))).last_hidden_state
        return tokens

    def pooling_head(self) -> list[nn.Parameter]:
        """The final LayerNorm and the attention that pools the tokens."""
        head = [] if getattr(self.model, "head", None) is None else self.model.head.parameters()
        return [*self.model.post_layernorm.parameters(), *head]


class Dinov2Tower(TransformersTower):
    """DINOv2, with register tokens or without."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model, dim=model.config.hidden_size, image_size=_side(model.config.image_size))
        self.first_patch = 1 + getattr(model.config, "num_register_tokens", 0)

    def patch_tokens(self, pictures: Tensor) -> Tensor:
        """The output of the encoder, without the class token and the registers."""
        tokens: Tensor = self.model.encoder(self.model.embeddings(pictures)).last_hidden_state
        return tokens[:, self.first_patch :]

    def pooling_head(self) -> list[nn.Parameter]:
        """The final LayerNorm, and the mask token of pretraining."""
        return [*self.model.layernorm.parameters(), self.model.embeddings.mask_token]


class GridTower(TransformersTower):
    """A convolutional network (ResNet, MobileNetV2, ConvNeXt, ...): each cell of its last feature map is a token."""

    def __init__(self, model: PreTrainedModel, *, image_size: int) -> None:
        model.eval()
        with torch.no_grad():
            grid = model(next(model.parameters()).new_zeros(1, 3, image_size, image_size)).last_hidden_state
        if grid.ndim != 4:
            raise TrainError(
                f"{type(model).__name__} gives no feature map of rows and columns; take a convolutional one"
            )
        super().__init__(model, dim=grid.shape[1], image_size=image_size)

    def patch_tokens(self, pictures: Tensor) -> Tensor:
        """The cells of the last feature map, row by row."""
        grid: Tensor = self.model(pictures.to(next(self.model.parameters()).dtype)).last_hidden_state
        return grid.flatten(2).transpose(1, 2)

    def pooling_head(self) -> list[nn.Parameter]:
        """The LayerNorm after pooling, if there is one (ConvNeXt)."""
        norm = getattr(self.model, "layernorm", None)
        return [] if norm is None else list(norm.parameters())


class PlainTower(TransformersTower):
    """A vision transformer that ends in one LayerNorm over all tokens; patch tokens are the input of that.

    The first ``prefix`` tokens stand for no patch, ``norm`` is the LayerNorm, and ``after`` what follows it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        image_size: int,
        norm: nn.Module,
        prefix: int,
        after: Sequence[nn.Module | None],
    ) -> None:
        super().__init__(model, dim=model.config.hidden_size, image_size=image_size)
        self._norm, self._prefix = [norm], prefix  # in a list: the module is registered below ``model`` already
        self._unused = [parameter for part in (norm, *after) if part is not None for parameter in part.parameters()]
        self._unused += [one for name, one in model.named_parameters() if name.endswith("mask_token")]
        self.set_trainable(True)

    def patch_tokens(self, pictures: Tensor) -> Tensor:
        """The input of the final LayerNorm, without the tokens that stand for no patch."""
        found: list[Tensor] = []
        handle = self._norm[0].register_forward_pre_hook(lambda module, args: found.append(args[0]))
        try:
            self._run(pictures.to(next(self.model.parameters()).dtype))
        finally:
            handle.remove()
        return found[-1][:, self._prefix :]

    def _run(self, pictures: Tensor) -> None:
        self.model(pictures)

    def pooling_head(self) -> list[nn.Parameter]:
        """The final LayerNorm, what comes after it, and mask tokens of pretraining."""
        return getattr(self, "_unused", [])


class Siglip2Tower(PlainTower):
    """SigLIP 2 for pictures of any shape (NaFlex), given square ones; models for a fixed size are SigLIP towers."""

    def __init__(self, model: PreTrainedModel) -> None:
        inner = getattr(model, "vision_model", model)
        side = math.isqrt(model.config.num_patches) * model.config.patch_size
        after = [getattr(inner, "head", None)]
        super().__init__(model, image_size=side, norm=inner.post_layernorm, prefix=0, after=after)
        self._patch = model.config.patch_size

    def _run(self, pictures: Tensor) -> None:
        count, across = len(pictures), pictures.shape[-1] // self._patch
        grid = pictures.view(count, 3, across, self._patch, across, self._patch)
        patches = grid.permute(0, 2, 4, 3, 5, 1).reshape(count, across * across, -1)
        shapes = torch.full((count, 2), across, device=pictures.device)
        mask = torch.ones(count, across * across, dtype=torch.long, device=pictures.device)
        self.model(patches, mask, shapes)


def transformers_tower(model: PreTrainedModel, *, image_size: int, conv_stem: bool = False) -> TransformersTower:
    """The tower around ``model``, by its ``model_type``; ``image_size`` is for networks that take any size.

    `TrainError` lists the kinds there are.
    """
    kind = model.config.model_type
    if kind not in NORMALISATION:
        raise TrainError(f"a {kind} model is no vision tower of Otter; there are: {', '.join(sorted(NORMALISATION))}")
    if kind in _ADDED:
        return _ADDED[kind](model)
    if kind == "clip_vision_model":
        return ClipTower(model, conv_stem=conv_stem)
    if kind == "siglip_vision_model":
        return SiglipTower(model)
    if kind.startswith("dinov2"):
        return Dinov2Tower(model)
    if kind == "siglip2_vision_model":
        return Siglip2Tower(model)
    if kind in _PLAIN:
        norm, after = _PLAIN[kind]
        prefix = 0 if kind == "aimv2_vision_model" else 1 + getattr(model.config, "num_register_tokens", 0)
        parts = [getattr(model, name, None) for name in after]
        side = _side(model.config.image_size)
        return PlainTower(model, image_size=side, norm=getattr(model, norm), prefix=prefix, after=parts)
    if kind == "timm_wrapper" and hasattr(model.timm_model, "num_prefix_tokens"):
        network = model.timm_model
        prefix = network.num_prefix_tokens
        side = _side(network.patch_embed.img_size)
        unused = [getattr(network, name, None) for name in ("attn_pool", "fc_norm", "head")]
        model.config.hidden_size = network.num_features
        return PlainTower(model, image_size=side, norm=network.norm, prefix=prefix, after=unused)
    return GridTower(model, image_size=image_size)


def _normalisation(config: PreTrainedConfig) -> tuple[Channels, Channels]:
    mean, std = NORMALISATION[config.model_type]
    own = getattr(config, "pretrained_cfg", None) or {}
    return tuple(own.get("mean", mean)), tuple(own.get("std", std))


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
        """The tokens that open_clip returns in addition to the pooled one."""
        # open_clip convolves in the dtype of its input; under autocast, the cast makes no difference.
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
