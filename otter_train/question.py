"""From a person's files and words to a `Sample`, prepared exactly as ``mimicit build`` prepares training data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from mimicit.errors import RejectedError, UsageError
from mimicit.media import EncodedMedia, MediaOptions, encode_image, encode_video
from mimicit.prompt import SPECIAL_TOKENS
from mimicit.records import Media, MediaKind, Sample, Triplet

__all__ = ["pair_examples", "question_sample"]

Example = tuple[Path, str, str]


def pair_examples(images: Sequence[Path], prompts: Sequence[str], answers: Sequence[str]) -> list[Example]:
    """The in-context examples whose parts were given one by one; `UsageError` where one lacks a part."""
    if not len(images) == len(prompts) == len(answers):
        raise UsageError(
            f"{len(images)} --context-image, {len(prompts)} --context-prompt and {len(answers)} --context-answer; "
            "each example needs one of each"
        )
    return list(zip(images, prompts, answers, strict=True))


def question_sample(
    prompt: str, *, image: Path | None, video: Path | None, examples: Sequence[Example] = (), frames: int = 8
) -> Sample:
    """A sample whose query is ``prompt`` about a picture or a clip (or about nothing), after ``examples``.

    `UsageError` where a file cannot be used, or a text holds a special token.
    """
    if image is not None and video is not None:
        raise UsageError("give --image or --video, not both")
    for text in (prompt, *(words for _, question, answer in examples for words in (question, answer))):
        if any(token in text for token in SPECIAL_TOKENS):
            raise UsageError(f"{text[:60]!r} holds one of {', '.join(SPECIAL_TOKENS)}; leave it out")
    options = MediaOptions(frames=frames)
    media = [_media(path, "image", options) for path, _, _ in examples]
    triplets = [
        Triplet(id=f"context-{n}", role="context", media=(n,), instruction=question, answer=answer, relation="related")
        for n, (_, question, answer) in enumerate(examples)
    ]
    asked = image or video
    if asked is not None:
        media.append(_media(asked, "image" if image is not None else "video", options))
    triplets.append(
        Triplet(
            id="query",
            role="query",
            media=(len(media) - 1,) if asked is not None else (),
            instruction=prompt,
            answer="",
        )
    )
    return Sample(id="question", source="command-line", media=tuple(media), triplets=tuple(triplets))


def _media(path: Path, kind: MediaKind, options: MediaOptions) -> Media:
    try:
        encoded = _encode(path, kind, options)
    except RejectedError as error:
        raise UsageError(f"{path}: cannot be used ({error})") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    return Media(
        kind=encoded.kind,
        files=tuple(f"{place:03d}.{encoded.extension}" for place in range(len(encoded.files))),
        width=encoded.width,
        height=encoded.height,
        sha256=tuple(hashlib.sha256(data).hexdigest() for data in encoded.files),
        origin=str(path),
        timestamps_s=encoded.timestamps_s,
        duration_s=encoded.duration_s,
        data=encoded.files,
    )


def _encode(path: Path, kind: MediaKind, options: MediaOptions) -> EncodedMedia:
    if kind == "video":
        return encode_video(path, options)
    return encode_image(path.read_bytes(), options)
