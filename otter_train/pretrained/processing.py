"""`OtterProcessor`: prompts, pictures and clips to the tensors of a batch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import load_image

from mimicit.errors import TrainError, UsageError
from mimicit.placeholders import questions_as_asked
from mimicit.prompt import ENDOFCHUNK, SPECIAL_TOKENS, Piece, chunk, joined, template_named
from mimicit.records import MediaKind, Triplet
from otter_train.data.batches import fit, normalise
from otter_train.data.tokenizer import PromptTokenizer, special_ids
from otter_train.model.vision import CLIP_MEAN, CLIP_STD
from otter_train.pretrained.configuration import PROCESSOR_MAP, Portable

_IMAGE_FIELDS: Final = ("image", "url", "path", "base64")


class PromptText(str):
    """A prompt as text that keeps its ``pieces``: which parts are a person's words, and contain no special tokens."""

    pieces: tuple[Piece, ...]

    def __new__(cls, pieces: Iterable[Piece]) -> Self:
        """The text that `mimicit.prompt.joined` makes of the ``pieces``."""
        kept = tuple(pieces)
        text = super().__new__(cls, joined(kept))
        text.pieces = kept
        return text


class Prompt(NamedTuple):
    """``text`` with one ``<image>`` for each of ``media``: a picture, or a list of pictures, the frames of a clip."""

    text: PromptText
    media: list[Any]


class _Conversation(NamedTuple):
    """The chunks before the last question, that question up to ``<answer>``, its answer or None, and all media."""

    before: list[Piece]
    question: list[Piece]
    spoken: str | None
    media: list[Any]


class OtterProcessor(Portable, ProcessorMixin):  # type: ignore[misc]
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
        self.auto_map = dict(PROCESSOR_MAP)

    def __call__(
        self,
        text: str | Sequence[str],
        images: Sequence[Any] | None = None,
        *,
        padding_side: str = "left",
        **kwargs: Any,
    ) -> BatchFeature:
        """A batch of ``text``, one prompt or several, and the ``images`` of each.

        In what `prompt` and `apply_chat_template` return, a person's words stay words. In any other text the tokens of
        the template are tokens (``<image>``, ``<answer>``, ``<|endofchunk|>``; bos and eos at its ends), and the names
        of other special tokens are words.

        ``images`` holds one list per prompt (for one prompt: that list, or one picture), or the pictures of all
        prompts one after the other. Each item of a list stands for one ``<image>``: a picture (PIL, a path or an
        address, uint8 (H, W, 3) or (3, H, W)), or a list of pictures, the frames of one clip. Rows are always padded:
        on the left to generate, on the right to train. `TrainError` if the numbers of ``<image>`` tokens and of media
        differ.
        """
        kwargs.pop("padding", None)
        if kwargs.pop("return_tensors", "pt") != "pt" or kwargs:
            raise UsageError(f"OtterProcessor gives torch tensors and takes no {', '.join(kwargs) or 'other kind'}")
        texts = [text] if isinstance(text, str) else list(text)
        special = special_ids(self.tokenizer)
        encoded = [self._encode(prompt) for prompt in texts]
        rows = _rows(images, [ids.count(special.image) for ids in encoded])
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

        Each turn has a ``role`` (system first, then user and assistant) and a ``content``: text, or parts of ``type``
        text, image (with ``image``, ``url``, ``path`` or ``base64``) or video (with ``video``, a list of pictures).
        `UsageError` if they do not alternate, or the user is not last.
        """
        made = self._conversation(turns)
        if made.spoken is not None:
            raise UsageError("the last turn is the assistant's; user and assistant take turns, and the user is last")
        return Prompt(PromptText([*made.before, *made.question]), made.media)

    def converse(self, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> BatchFeature:
        """The batch of several conversations, each as `prompt` takes it, ready to be answered."""
        prompts = [self.prompt(turns) for turns in conversations]
        return self([prompt.text for prompt in prompts], [prompt.media for prompt in prompts])

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = True,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """A conversation, or several, as text, or with ``tokenize`` as a batch; arguments are those of transformers.

        The text is always the prompt of ``template``; `UsageError` for another ``chat_template``. The names of special
        tokens in what people say stay words if the texts are given to the processor as they are: a part of one, or two
        joined, is plain text (see `__call__`).
        """
        if chat_template is not None:
            raise UsageError(f"Otter was trained with the template {self.template!r}; leave out chat_template")
        several = not isinstance(conversation[0], Mapping)
        texts, media = [], []
        for turns in conversation if several else [conversation]:
            made = self._conversation(turns)
            if made.spoken is None:
                ending = made.question if add_generation_prompt else made.question[:-1]  # up to its answer
            else:
                ending = [*made.question, Piece(made.spoken, is_words=True)]
                ending += [] if continue_final_message else [Piece(ENDOFCHUNK)]
            texts.append(PromptText([*made.before, *ending]))
            media.append(made.media)
        if not tokenize:
            return texts if several else texts[0]
        batch = self(texts, media, **{**kwargs, **(processor_kwargs or {})})
        return batch if return_dict else batch["input_ids"]

    def _conversation(self, turns: Sequence[Mapping[str, Any]]) -> _Conversation:
        template = template_named(self.template)
        turns = list(turns)
        system = "".join(f"{_parts(turn)[0]}\n" for turn in turns if turn.get("role") == "system")
        roles = [str(turn.get("role")) for turn in turns]
        turns = [turn for turn in turns if turn.get("role") != "system"]
        expected = ["system"] * (len(roles) - len(turns)) + (["user", "assistant"] * len(turns))[: len(turns)]
        if roles != expected or not turns:
            raise UsageError(
                f"the roles are {', '.join(roles) or 'none'}; system comes first, then user and assistant take turns"
            )
        before, question, spoken, media = list[Piece](), list[Piece](), None, list[Any]()
        parts = list(map(_parts, turns[::2]))
        asked = questions_as_asked([words for words, _ in parts], [list(map(_kind_of, shown)) for _, shown in parts])
        for number, (words, (_, shown)) in enumerate(zip(asked, parts, strict=True)):
            if spoken is not None:
                before += [*question, Piece(spoken, is_words=True), Piece(ENDOFCHUNK)]
            place = tuple(range(len(media), len(media) + len(shown)))
            triplet = Triplet(id="turn", role="query", media=place, instruction=(system if not number else "") + words,
                              answer="")  # fmt: skip
            question = list(chunk(triplet, template, with_answer=False))
            spoken = _parts(turns[2 * number + 1])[0] if 2 * number + 1 < len(turns) else None
            media += shown
        return _Conversation(before, question, spoken, media)

    def batch_decode(self, rows: Any, **kwargs: Any) -> list[str]:
        """The texts of generated ids, as the tokenizer decodes them."""
        decoded: list[str] = self.tokenizer.batch_decode(rows, **kwargs)
        return decoded

    def _encode(self, text: str) -> list[int]:
        pieces = text.pieces if isinstance(text, PromptText) else self._pieces_of(text)
        ids = _prompt_tokenizer(self.tokenizer, len(self.tokenizer)).encode(pieces)
        if ids is None:
            raise UsageError(f"{text[:60]!r}: the name of a special token, which this tokenizer cannot read as words")
        bos = special_ids(self.tokenizer).bos
        return ids if bos is None else [bos, *ids]

    def _pieces_of(self, text: str) -> Iterator[Piece]:
        """The pieces of a prompt that is plain text, without bos."""
        template = template_named(self.template)
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        names = {*SPECIAL_TOKENS, *(name for name in added if name in template.before + template.between)}
        if self.tokenizer.bos_token:
            text = text.removeprefix(self.tokenizer.bos_token)
        end = self.tokenizer.eos_token if text.endswith(f"{ENDOFCHUNK}{self.tokenizer.eos_token}") else ""
        start, text = 0, text.removesuffix(end)
        for name in re.finditer("|".join(map(re.escape, sorted(names, key=len, reverse=True))), text):
            yield Piece(text[start : name.start()], is_words=True)
            yield Piece(name[0])
            start = name.end()
        yield Piece(text[start:], is_words=True)
        yield Piece(end)

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


@lru_cache(maxsize=4)
def _prompt_tokenizer(tokenizer: Any, size: int) -> PromptTokenizer:
    """The `PromptTokenizer` of ``tokenizer``, as long as it has ``size`` tokens."""
    return PromptTokenizer(tokenizer)


def _rows(images: Any, counts: Sequence[int]) -> list[list[Any]]:
    """The media of each prompt; ``counts`` are their ``<image>`` tokens."""
    if images is None:
        return [[] for _ in counts]
    given = list(images) if isinstance(images, list | tuple) else [images]
    nested = all(isinstance(one, list | tuple) for one in given)
    if len(counts) == 1:
        # A list in a list is the media of the one prompt, or else the frames of its one clip.
        return [list(given[0]) if nested and len(given) == 1 and len(given[0]) == counts[0] else given]
    if nested:
        if len(given) != len(counts):
            raise UsageError(
                f"{len(counts)} prompts and the images of {len(given)}; give one list of images per prompt"
            )
        return [list(one) for one in given]
    ends = [*accumulate(counts)]
    if ends[-1] != len(given):
        raise TrainError(f"the prompts have {ends[-1]} <image> tokens and {len(given)} media; each needs the other")
    return [given[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _parts(turn: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The words and the media of one turn."""
    content = turn.get("content")
    parts: Sequence[Mapping[str, Any]] = (
        [{"type": "text", "text": content}] if isinstance(content, str) else content or ()
    )
    words, media = [], []
    for part in parts:
        kind = part.get("type")
        if kind == "text" and "text" in part:
            words.append(str(part["text"]))
        elif kind == "image" and (found := [name for name in _IMAGE_FIELDS if part.get(name) is not None]):
            media.append(part[found[0]])
        elif kind == "video" and isinstance(part.get("video"), list | tuple):
            media.append(list(part["video"]))
        else:
            raise UsageError(
                f"a part of a turn is of type {kind!r}; there are text, image (with {', '.join(_IMAGE_FIELDS)}) and "
                "video (with its pictures in a list), each with its own"
            )
    return " ".join(words), media


def _kind_of(medium: Any) -> MediaKind:
    return "video" if isinstance(medium, list | tuple) else "image"


def _pixels(picture: Any) -> Tensor:
    """uint8[3, H, W] of a picture."""
    if isinstance(picture, str | Path):
        try:
            return _pixels(load_image(str(picture)))
        except Exception as error:  # of the file, the picture, or whatever library fetches an address
            raise UsageError(f"{str(picture)[:200]}: no picture ({' '.join(str(error).split())[:300]})") from None
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
