"""`OtterProcessor`: prompts, pictures and clips to the tensors of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from mimicit.errors import TrainError, UsageError
from mimicit.prompt import SPECIAL_TOKENS, chunk, template_named
from mimicit.records import Triplet
from otter_train.model.vision import CLIP_MEAN, CLIP_STD
from otter_train.pictures import fit, normalise
from otter_train.tokenizer import special_ids

__all__ = ["OtterProcessor", "Prompt"]


class Prompt(NamedTuple):
    """``text`` with one ``<image>`` for each of ``media``: a picture, or a list of pictures, the frames of a clip."""

    text: str
    media: list[Any]


class OtterProcessor(ProcessorMixin):  # type: ignore[misc]
    """Makes ``input_ids``, ``attention_mask``, ``vision_x`` and ``vision_mask`` for `OtterForConditionalGeneration`.

    ``image_size``, ``image_mean`` and ``image_std`` are those of the vision tower; ``template`` names the prompt
    template (`mimicit.prompt`) that turns are written with.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        image_size: int = 224,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        template: str = "otter",
    ) -> None:
        super().__init__(tokenizer)
        self.image_size = image_size
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.template = template

    def __call__(
        self,
        text: str | Sequence[str],
        images: Sequence[Any] | None = None,
        *,
        padding_side: str = "left",
        **kwargs: Any,
    ) -> BatchFeature:
        """A batch of ``text``, one prompt or several, and the ``images`` of each.

        ``images`` holds one list per prompt (for one prompt: that list). What is in it stands for one ``<image>``
        each: a picture (PIL, a path, uint8 (H, W, 3) or (3, H, W)), or a list of pictures, the frames of one clip.
        Pad on the left to generate and on the right to train. `TrainError` where ``<image>`` tokens and media are not
        equally many.
        """
        if kwargs.pop("return_tensors", "pt") != "pt" or kwargs:
            raise UsageError(f"OtterProcessor gives torch tensors and takes no {', '.join(kwargs) or 'other kind'}")
        texts = [text] if isinstance(text, str) else list(text)
        shown = list(images or ())
        rows = [shown] if isinstance(text, str) else shown or [[] for _ in texts]
        if len(rows) != len(texts):
            raise UsageError(f"{len(texts)} prompts and the images of {len(rows)}; give one list of images per prompt")
        special = special_ids(self.tokenizer)
        encoded = [self._encode(prompt) for prompt in texts]
        for number, (ids, row) in enumerate(zip(encoded, rows, strict=True)):
            if ids.count(special.image) != len(row):
                raise TrainError(
                    f"prompt {number} has {ids.count(special.image)} <image> tokens and {len(row)} media; "
                    "each medium needs one <image>, in order"
                )
        lang_x, mask = _padded(encoded, special.pad, left=padding_side == "left")
        vision_x, vision_mask = self._pictures([[self._frames(medium) for medium in row] for row in rows])
        return BatchFeature(
            {"input_ids": lang_x, "attention_mask": mask, "vision_x": vision_x, "vision_mask": vision_mask}
        )

    def prompt(self, turns: Sequence[Mapping[str, Any]]) -> Prompt:
        """The `Prompt` of a conversation in the format of transformers, ready for the next answer.

        Each turn has a ``role`` (user, assistant) and a ``content``: text, or parts of ``type`` text, image (with
        ``image``) or video (with ``video``, a list of pictures). `UsageError` where they do not alternate.
        """
        template = template_named(self.template)
        questions, answers = turns[::2], [*turns[1::2], None]
        roles = [str(turn.get("role")) for turn in turns]
        if roles != (["user", "assistant"] * len(turns))[: len(turns)] or len(turns) % 2 == 0:
            raise UsageError(f"the roles are {', '.join(roles)}; user and assistant take turns, and the user is last")
        text, media = "", list[Any]()
        for question, answer in zip(questions, answers, strict=True):
            words, shown = _parts(question)
            spoken = "" if answer is None else _parts(answer)[0]
            place = tuple(range(len(media), len(media) + len(shown)))
            triplet = Triplet(id="turn", role="query", media=place, instruction=words, answer=spoken)
            text += "".join(piece.text for piece in chunk(triplet, template, with_answer=answer is not None))
            media += shown
        return Prompt(text, media)

    def converse(self, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> BatchFeature:
        """The batch of several conversations, each as `prompt` takes it, ready to be answered."""
        prompts = [self.prompt(turns) for turns in conversations]
        return self([prompt.text for prompt in prompts], [prompt.media for prompt in prompts])

    def batch_decode(self, rows: Any, **kwargs: Any) -> list[str]:
        """The texts of generated ids, as the tokenizer decodes them."""
        decoded: list[str] = self.tokenizer.batch_decode(rows, **kwargs)
        return decoded

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        bos = special_ids(self.tokenizer).bos
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]

    def _frames(self, medium: Any) -> Tensor:
        """uint8[F, 3, S, S] of a picture (F is 1) or of a list of pictures."""
        frames = medium if isinstance(medium, list | tuple) else [medium]
        if not frames:
            raise UsageError("a clip without frames")
        return torch.stack([fit(_pixels(frame), self.image_size) for frame in frames])

    def _pictures(self, rows: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
        media = max(map(len, rows))
        frames = max((len(clip) for row in rows for clip in row), default=1)
        side = self.image_size
        pixels = torch.zeros(len(rows), media, frames, 3, side, side, dtype=torch.uint8)
        mask = torch.zeros(len(rows), media, frames, dtype=torch.bool)
        for number, row in enumerate(rows):
            for place, clip in enumerate(row):
                pixels[number, place, : len(clip)] = clip
                mask[number, place, : len(clip)] = True
        return normalise(pixels, self.image_mean, self.image_std), mask


def _parts(turn: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The words and the media of one turn."""
    content = turn.get("content")
    parts: Sequence[Mapping[str, Any]] = (
        [{"type": "text", "text": content}] if isinstance(content, str) else content or ()
    )
    words, media = [], []
    for part in parts:
        kind = part.get("type")
        if kind not in ("text", "image", "video") or kind not in part:
            raise UsageError(
                f"a part of a turn is of type {kind!r}; there are text, image and video, each with its own"
            )
        if kind == "text":
            words.append(str(part["text"]))
        else:
            media.append(list(part["video"]) if kind == "video" else part["image"])
    text = " ".join(words)
    if any(token in text for token in SPECIAL_TOKENS):
        raise UsageError(f"{text[:60]!r} holds one of {', '.join(SPECIAL_TOKENS)}; leave it out")
    return text, media


def _pixels(picture: Any) -> Tensor:
    """uint8[3, H, W] of a picture."""
    if isinstance(picture, str | Path):
        try:
            with Image.open(picture) as opened:
                return _pixels(opened.convert("RGB"))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise UsageError(f"{picture}: no picture ({error})") from None
    if isinstance(picture, Image.Image):
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    pixels = torch.as_tensor(picture)
    if pixels.ndim != 3 or pixels.dtype != torch.uint8 or 3 not in (pixels.shape[0], pixels.shape[-1]):
        raise UsageError(
            f"a picture of shape {tuple(pixels.shape)} and {pixels.dtype}; it must be uint8 with 3 colours"
        )
    return pixels if pixels.shape[0] == 3 else pixels.permute(2, 0, 1)


def _padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """The ids, long (B, T), and which of them are real, long (B, T)."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[number, place] = torch.tensor(row)
        mask[number, place] = 1
    return ids, mask
