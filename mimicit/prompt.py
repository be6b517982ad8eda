"""From a `Sample` to the text that the model reads; pure strings, no tokenizer.

One ``<image>`` stands for one medium: a picture, or all frames of a video. It comes right before the text of the
triplet that shows it, so the order of ``<image>`` tokens is the order of `Sample.media`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from mimicit.errors import UsageError
from mimicit.records import Sample, Triplet

IMAGE: Final = "<image>"
ANSWER: Final = "<answer>"
ENDOFCHUNK: Final = "<|endofchunk|>"
SPECIAL_TOKENS: Final = (ENDOFCHUNK, IMAGE, ANSWER)
"""The tokens a model must know. Inside a person's words, their names are plain text: see `Piece` and `render`."""

_NAMED: Final = re.compile("|".join(f"(?<=<){re.escape(token[1:])}" for token in SPECIAL_TOKENS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How one triplet becomes text: ``before`` + instruction + ``between`` + ``<answer>`` + answer.

    ``version`` is stored in checkpoints; a template never changes under the same name and version.
    """

    name: str
    version: int
    before: str
    between: str


class Piece(NamedTuple):
    """A part of a prompt: a person's own words, in which nothing is a special token, or text that a template adds."""

    text: str
    is_words: bool = False


TEMPLATES: Final[dict[str, Template]] = {
    # Otter's training prompt, as its paper and code write it.
    "otter": Template(name="otter", version=1, before="User:", between=" GPT:"),
    # The prompt of Otter's published demos: one more space.
    "otter-demo": Template(name="otter-demo", version=1, before="User: ", between=" GPT:"),
    # ChatML, which Qwen, SmolLM and MPT-chat were tuned with; `<|endofchunk|>` ends the answer instead of `<|im_end|>`.
    "chat": Template(
        name="chat", version=1, before="<|im_start|>user\n", between="<|im_end|>\n<|im_start|>assistant\n"
    ),
    # The prompt of LLaMA 2's chat models.
    "llama2": Template(name="llama2", version=1, before="[INST] ", between=" [/INST] "),
    # Nothing but the words: for base models, captions and examples that speak for themselves.
    "plain": Template(name="plain", version=1, before="", between=" "),
}
"""Every template ends an answer with ``<|endofchunk|>`` and puts ``<image>`` before its own words."""


PICTURE_CAPTIONS: Final = (
    "Describe this picture.",
    "What does this picture show?",
    "Write a caption for this picture.",
    "What can be seen here?",
    "Give a short description of the picture.",
    "Say in a sentence what is in the picture.",
    "How would you caption this picture?",
    "Tell me what you see in the picture.",
)
CLIP_CAPTIONS: Final = (
    "Describe this video.",
    "What happens in this video?",
    "Write a caption for this video.",
    "What can be seen in this clip?",
    "Give a short description of the video.",
    "Say in a sentence what happens in the clip.",
    "How would you caption this video?",
    "Tell me what you see in the video.",
)
"""Instructions for a picture or a clip that has only a caption; a hash of the record's id picks one of them."""


def is_caption_instruction(text: str) -> bool:
    """Whether ``text`` is one of `PICTURE_CAPTIONS` or `CLIP_CAPTIONS`, which all ask the same."""
    return text in PICTURE_CAPTIONS or text in CLIP_CAPTIONS


def template_named(name: str) -> Template:
    """The template called ``name``; `UsageError` lists the names there are."""
    try:
        return TEMPLATES[name]
    except KeyError:
        raise UsageError(f"no template {name!r}; there are: {', '.join(sorted(TEMPLATES))}") from None


def chunk(triplet: Triplet, template: Template, *, with_answer: bool = True) -> Iterator[Piece]:
    """The pieces of one triplet: its ``<image>`` tokens, its words, and ``<|endofchunk|>``.

    Without the answer it ends at ``<answer>``, for a model to continue.
    """
    yield Piece(IMAGE * len(triplet.media))
    if triplet.relation != "document":
        yield Piece(template.before)
        yield Piece(triplet.instruction, is_words=True)
        yield Piece(template.between + ANSWER)
    if with_answer:
        yield Piece(triplet.answer, is_words=True)
        yield Piece(ENDOFCHUNK)


def pieces(sample: Sample, template: str = "otter", *, with_answer: bool = True) -> Iterator[Piece]:
    """The prompt of ``sample``: the chunks of its context triplets and then that of its query.

    ``with_answer=False`` leaves out the query's answer (the context keeps its answers). The beginning- and
    end-of-text tokens belong to the tokenizer and are not part of it.
    """
    chosen = template_named(template)
    for triplet in sample.context:
        yield from chunk(triplet, chosen)
    yield from chunk(sample.query, chosen, with_answer=with_answer)


def render(sample: Sample, template: str = "otter", *, with_answer: bool = True) -> str:
    """The `pieces` of the prompt of ``sample`` as one text, with no special tokens but those of the template."""
    return joined(pieces(sample, template, with_answer=with_answer))


def joined(prompt: Iterable[Piece]) -> str:
    """The pieces of a ``prompt`` as one text, in which words hold no special token (see `without_tokens`)."""
    return "".join(without_tokens(piece.text) if piece.is_words else piece.text for piece in prompt)


def without_tokens(words: str) -> str:
    """``words`` for a text that a program parses: each name of a special token gets a space, ``< image>``."""
    return _NAMED.sub(lambda name: f" {name[0]}", words)


def drop_context(sample: Sample, count: int) -> Sample:
    """``sample`` without its ``count`` farthest context triplets and the media that only they need.

    If the first triplet that stays shows nothing itself, it is about the media last shown before it, which then move
    to it.
    """
    kept = sample.triplets[count:]
    if not kept[0].media:
        shown = [triplet.media for triplet in sample.triplets[:count] if triplet.media]
        kept = (replace(kept[0], media=shown[-1] if shown else ()), *kept[1:])
    return with_triplets(sample, kept)


def with_triplets(sample: Sample, triplets: Sequence[Triplet]) -> Sample:
    """``sample`` with ``triplets``, which name its media by their present indices; the media follow their order."""
    order = [index for triplet in triplets for index in triplet.media]
    place = {index: place for place, index in enumerate(order)}
    return replace(
        sample,
        media=tuple(sample.media[index] for index in order),
        triplets=tuple(replace(triplet, media=tuple(place[index] for index in triplet.media)) for triplet in triplets),
    )
