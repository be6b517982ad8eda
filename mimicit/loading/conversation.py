"""A sample as a conversation, in the form that chat templates of `transformers` take; no library is needed for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from mimicit.errors import CorruptShardError
from mimicit.records import Media, Sample, Triplet

Message = dict[str, Any]
"""``role`` and ``content``, the latter a list of parts, as `apply_chat_template` of `transformers` takes it."""


def messages(
    sample: Sample,
    *,
    context: Literal["turns", "one-turn"] = "turns",
    clips: Literal["pictures", "video"] = "pictures",
    system: str | None = None,
    with_answer: bool = True,
) -> list[Message]:
    """``sample`` as a conversation for ``processor.apply_chat_template``, with its pictures inside.

    Each triplet is a turn of the user (its media, then its instruction) and one of the assistant (its answer);
    ``context="one-turn"`` puts the context, answers and all, before the query into one turn of the user. A picture is
    ``{"type": "image", "image": …}`` with a Pillow image in RGB; of a clip each frame is one, or with ``clips="video"``
    all are ``{"type": "video", "video": [frame, …]}``. ``system`` is a message that goes first. Without
    ``with_answer`` the answer to the query is left out, for a model to give. `CorruptShardError` names the sample whose
    pictures cannot be read.
    """
    conversation = [text_message("system", system)] if system is not None else []
    asked: list[Message] = []
    for triplet in sample.context:
        shown = list(_media_parts(sample, triplet, clips))
        if context == "turns":
            conversation.append(_message("user", _asked(shown, triplet.instruction)))
            conversation.append(text_message("assistant", triplet.answer))
        else:
            asked += shown
            lines = "\n".join(words for words in (triplet.instruction, triplet.answer) if words)
            _append_text(asked, f"{lines}\n\n")
    asked += _media_parts(sample, sample.query, clips)
    if sample.query.instruction or not asked:
        _append_text(asked, sample.query.instruction)
    conversation.append(_message("user", asked))
    if with_answer:
        conversation.append(text_message("assistant", sample.query.answer))
    return conversation


def text_message(role: str, words: str) -> Message:
    """A message that is text alone."""
    return _message(role, [_text(words)])


def _message(role: str, content: list[Message]) -> Message:
    return {"role": role, "content": content}


def _text(words: str) -> Message:
    return {"type": "text", "text": words}


def _asked(shown: list[Message], instruction: str) -> list[Message]:
    return [*shown, _text(instruction)] if instruction or not shown else shown


def _append_text(parts: list[Message], words: str) -> None:
    """Append ``words``, merged with a text that ends ``parts``: templates differ in what they put between two texts."""
    if parts and parts[-1]["type"] == "text":
        parts[-1] = _text(parts[-1]["text"] + words)
    else:
        parts.append(_text(words))


def _media_parts(sample: Sample, triplet: Triplet, clips: Literal["pictures", "video"]) -> Iterator[Message]:
    for index in triplet.media:
        media = sample.media[index]
        frames = _frames(sample, media)
        if media.kind == "video" and clips == "video":
            yield {"type": "video", "video": frames}
        else:
            for frame in frames:
                yield {"type": "image", "image": frame}


def _frames(sample: Sample, media: Media) -> list[Any]:
    try:
        found = media.to_pil()
    except CorruptShardError as error:
        raise CorruptShardError(f"sample {sample.key}: {error}") from None
    return [frame.convert("RGB") for frame in (found if isinstance(found, list) else [found])]
