"""From a person's words and media, prepared as ``mimicit build`` does, to the `Sample` that asks for an answer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mimicit.errors import RejectedError, UsageError
from mimicit.media import EncodedMedia, MediaOptions
from mimicit.media.image import encode_image
from mimicit.media.video import encode_video
from mimicit.placeholders import questions_as_asked
from mimicit.records import Media, MediaKind, Sample, Triplet

Example = tuple[Path, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question with the media shown right before it (none: it is about those shown last), and its answer."""

    instruction: str
    answer: str = ""
    media: tuple[Media, ...] = ()


def asking_sample(turns: Sequence[Turn], *, relation: str, origin: str, system: str = "") -> Sample:
    """A sample whose query is the last of ``turns``; the others are its context, related to it by ``relation``.

    ``origin`` names who asks. ``system`` is put before the first question. Placeholders in questions become
    what they become in training (see `questions_as_asked`).
    """
    asked = questions_as_asked(
        [turn.instruction for turn in turns], [[medium.kind for medium in turn.media] for turn in turns]
    )
    asked[0] = f"{system}\n{asked[0]}" if system else asked[0]
    media: list[Media] = []
    triplets: list[Triplet] = []
    for number, (turn, instruction) in enumerate(zip(turns, asked, strict=True)):
        is_query = number == len(turns) - 1
        triplets.append(
            Triplet(
                id="query" if is_query else f"context-{number}",
                role="query" if is_query else "context",
                media=tuple(range(len(media), len(media) + len(turn.media))),
                instruction=instruction,
                answer="" if is_query else turn.answer,
                relation=None if is_query else relation,
            )
        )
        media.extend(turn.media)
    return Sample(id="question", source=origin, media=tuple(media), triplets=tuple(triplets))


def pair_examples(images: Sequence[Path], prompts: Sequence[str], answers: Sequence[str]) -> list[Example]:
    """The in-context examples whose parts were given one by one; `UsageError` if one lacks a part."""
    if not len(images) == len(prompts) == len(answers):
        raise UsageError(
            f"{len(images)} --context-image, {len(prompts)} --context-prompt and {len(answers)} --context-answer; "
            "each example needs one of each"
        )
    return list(zip(images, prompts, answers, strict=True))


def question_sample(
    prompt: str, *, images: Sequence[Path] = (), video: Path | None, examples: Sequence[Example] = (), frames: int = 8
) -> Sample:
    """A sample whose query is ``prompt`` about pictures or a clip (or about nothing), after ``examples``.

    `UsageError` if a file cannot be used.
    """
    if images and video is not None:
        raise UsageError("give --image or --video, not both")
    options = MediaOptions(frames=frames)
    turns = [
        Turn(instruction=question, answer=answer, media=(media_from_file(path, "image", options),))
        for path, question, answer in examples
    ]
    shown = tuple(media_from_file(image, "image", options) for image in images)
    if video is not None:
        shown = (media_from_file(video, "video", options),)
    return asking_sample([*turns, Turn(instruction=prompt, media=shown)], relation="related", origin="command-line")


_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+]+:/", re.IGNORECASE)


def media_from_file(path: Path, kind: MediaKind, options: MediaOptions) -> Media:
    """The picture or the clip in the file ``path``; `UsageError` names it and says why it cannot be used."""
    if _ADDRESS.match(str(path)):  # `Path` keeps one slash of ``://``
        raise UsageError(f"{path.name}: {kind}s are read from files, not from addresses; download it first")
    try:
        encoded = encode_video(path, options) if kind == "video" else encode_image(path.read_bytes(), options)
    except RejectedError as error:
        raise UsageError(f"{path}: cannot be used ({error})") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    return _media(encoded, str(path))


def media_from_bytes(data: bytes, options: MediaOptions, *, origin: str) -> Media:
    """The picture ``data``; `RejectedError` if it is not a picture, or larger than ``options`` allow."""
    return _media(encode_image(data, options), origin)


def _media(encoded: EncodedMedia, origin: str) -> Media:
    return Media(
        kind=encoded.kind,
        files=tuple(f"{place:03d}.{encoded.extension}" for place in range(len(encoded.files))),
        width=encoded.width,
        height=encoded.height,
        sha256=tuple(hashlib.sha256(data).hexdigest() for data in encoded.files),
        origin=origin,
        timestamps_s=encoded.timestamps_s,
        duration_s=encoded.duration_s,
        data=encoded.files,
    )
