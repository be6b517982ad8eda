"""From the messages of a request to the turns of a conversation, with their pictures decoded."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.media import MediaOptions
from mimicit.media.headers import count_scans
from mimicit.media.image_file import probe_image
from mimicit.records import Media
from otter_train.data.question import Turn, media_from_bytes
from otter_train.serving.fields import ApiError, as_object
from otter_train.serving.limits import Limits

__all__ = ["CostlyError", "read_messages"]

_ROLES: Final = ("system", "developer", "user", "assistant")


class CostlyError(Exception):
    """The pictures of a request are more work than was allowed."""


def read_messages(messages: Any, limits: Limits, most_pixels: int | None = None) -> tuple[str, list[Turn]]:
    """The text of the system messages, and the turns; the last one has no answer yet.

    User messages that follow each other are one turn. `ApiError` (400) names the message that cannot be used,
    `CostlyError` says that there are more than ``most_pixels`` to decode, before any of those that are too many.
    """
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "missing_required_parameter", "messages: a list with a user message", param="messages")
    if len(messages) > limits.messages:
        raise ApiError(400, "too_many_messages", f"messages: at most {limits.messages}", param="messages")
    reader = _PictureReader(limits, most_pixels)
    characters = 0
    system: list[str] = []
    turns: list[Turn] = []
    words: list[str] = []
    media: list[Media] = []
    asked = False
    for number, value in enumerate(messages):
        place = f"messages[{number}]"
        message = as_object(value, place)
        role = message.get("role")
        if role not in _ROLES:
            raise ApiError(400, "invalid_value", f"{place}.role: one of {', '.join(_ROLES)}", param=f"{place}.role")
        text, shown = _content(message.get("content"), f"{place}.content", reader, pictures=role == "user")
        characters += len(text)
        _check_characters(characters, limits)
        if role in ("system", "developer"):
            system.append(text)
        elif role == "user":
            words.append(text)
            media.extend(shown)
            asked = True
        elif not asked:
            raise ApiError(400, "invalid_value", f"{place}: a reply without a user message before it", param=place)
        else:
            turns.append(Turn(instruction="\n".join(words), answer=text, media=tuple(media)))
            words, media, asked = [], [], False
    if not asked:
        raise ApiError(400, "invalid_value", "messages: the last one must be the user's", param="messages")
    return "\n".join(system), [*turns, Turn(instruction="\n".join(words), media=tuple(media))]


def _content(content: Any, place: str, reader: _PictureReader, *, pictures: bool) -> tuple[str, list[Media]]:
    if isinstance(content, str):
        return _clean(content, place, reader.limits), []
    if not isinstance(content, list) or not content:
        raise ApiError(400, "invalid_type", f"{place}: text, or a list of parts", param=place)
    words: list[str] = []
    media: list[Media] = []
    for number, value in enumerate(content):
        here = f"{place}[{number}]"
        part = as_object(value, here)
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            words.append(_clean(part["text"], f"{here}.text", reader.limits))
        elif part.get("type") == "image_url" and pictures:
            picture = as_object(part.get("image_url"), f"{here}.image_url")
            media.append(reader.read(picture.get("url"), f"{here}.image_url.url"))
        else:
            known = "text or image_url" if pictures else "text"
            raise ApiError(400, "invalid_value", f"{here}: a part of type {known} is expected", param=here)
    return "\n".join(words), media


def _check_characters(count: int, limits: Limits) -> None:
    if count > limits.characters:
        raise ApiError(
            400,
            "string_above_max_length",
            f"the texts of all messages may have {limits.characters:,} characters; shorten the conversation",
            param="messages",
        )


def _clean(text: str, place: str, limits: Limits) -> str:
    _check_characters(len(text), limits)  # before any of them is looked at
    if any(ord(letter) < 32 and letter not in "\n\r\t" for letter in text):
        raise ApiError(400, "invalid_value", f"{place}: holds control characters", param=place)
    return text


class _PictureReader:
    """Reads the pictures of one request, and counts them."""

    def __init__(self, limits: Limits, most_pixels: int | None) -> None:
        self.limits = limits
        self._options = MediaOptions(max_pixels=limits.pixels)
        self._most_pixels = most_pixels
        self._pixels = 0
        self._count = 0

    def read(self, url: Any, place: str) -> Media:
        """The picture in the data URL ``url``; nothing is ever fetched."""
        self._count += 1
        if self._count > self.limits.pictures:
            raise ApiError(400, "too_many_images", f"at most {self.limits.pictures} pictures", param=place)
        if not isinstance(url, str) or not url.startswith("data:"):
            raise ApiError(
                400,
                "invalid_image_url",
                f"{place}: pictures are taken as data:image/...;base64,... only; nothing is fetched",
                param=place,
            )
        head, _, payload = url.partition(",")
        if not head.endswith(";base64"):
            raise ApiError(400, "invalid_image_url", f"{place}: a data URL in base64 is expected", param=place)
        try:
            data = base64.b64decode(payload, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ApiError(400, "invalid_base64", f"{place}: {error}", param=place) from None
        try:
            self._weigh(data)
            return media_from_bytes(data, self._options, origin=place)
        except RejectedError as error:
            raise ApiError(400, "invalid_image", f"{place}: {error}", param=place) from None

    def _weigh(self, data: bytes) -> None:
        """Count the pixels that decoding ``data`` takes: each scan of a JPEG is a pass over all of them."""
        if self._most_pixels is not None:
            header = probe_image(data, self._options)
            passes = count_scans(data) if header.format == "jpeg" else 1
            self._pixels += header.width * header.height * max(1, passes)
            if self._pixels > self._most_pixels:
                raise CostlyError
