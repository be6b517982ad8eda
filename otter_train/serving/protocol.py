"""From the JSON of a chat completion request to a `Question`; pure, and strict about everything it uses.

The turns of the conversation become the context of a query, as in training: a user message and the assistant's reply
are one triplet. A system message is put before the first user message, for Otter knows no such role. Fields that
would change the answer and are not supported are refused, others are ignored.

Pictures in messages are decoded here.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from mimicit.errors import RejectedError
from mimicit.media import MediaOptions
from mimicit.media.headers import count_scans
from mimicit.media.image_file import probe_image
from mimicit.records import Media, Sample
from otter_train.data.question import Turn, asking_sample, media_from_bytes
from otter_train.inference import AnswerOptions
from otter_train.serving.limits import ApiError, Limits, as_object, flag, number

_UNSUPPORTED: Final[dict[str, tuple[Any, ...]]] = {
    **dict.fromkeys(("tools", "functions", "logprobs", "audio", "logit_bias", "web_search_options"), ()),
    "modalities": (["text"],),
    # of other servers
    **dict.fromkeys(("bad_words", "guided_choice", "guided_grammar", "guided_json", "guided_regex", "ignore_eos"), ()),
    **dict.fromkeys(("min_p", "min_tokens", "no_repeat_ngram_size", "stop_token_ids", "use_beam_search"), ()),
    "best_of": (1,),
    "length_penalty": (1,),
    "top_k": (-1,),
    "typical_p": (1,),
}
"""Fields that would change the answer, with the values that would not; false values never do."""

_MAX_STOPS: Final = 4
_MAX_SEED: Final = 2**63 - 1
_LEAST_TOP_P: Final = 1e-9  # 0 means the likeliest token alone

_ROLES: Final = ("system", "developer", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request that can be answered: ``sample`` asks, ``stops`` end the answer.

    ``usage`` says that a stream is to end with the numbers of tokens. ``asked_tokens`` is the requested length of the
    answer, which may be more than ``options`` grant; None if the request names none.
    """

    sample: Sample
    options: AnswerOptions
    stops: tuple[str, ...]
    stream: bool
    usage: bool
    asked_tokens: int | None


def parse_question(body: bytes, *, model: str, limits: Limits, most_pixels: int | None = None) -> Question:
    """The `Question` of a request for ``model``; `ApiError` (4xx) names the field that cannot be used.

    Decodes the pictures, so it costs some milliseconds for each; `CostlyError` if that would be more than
    ``most_pixels``.
    """
    request = as_object(_json(body), "the body")
    _check_model(request.get("model"), model)
    _check_unsupported(request)
    system, turns = _read_messages(request.get("messages"), limits, most_pixels)
    sample = asking_sample(turns, relation="conversation", origin="endpoint", system=system)
    stream_options = request.get("stream_options")
    asked_tokens = _asked_tokens(request)
    return Question(
        sample=sample,
        options=_answer_options(request, asked_tokens, limits),
        stops=_stops(request.get("stop")),
        stream=flag(request, "stream"),
        usage=stream_options is not None and flag(as_object(stream_options, "stream_options"), "include_usage"),
        asked_tokens=asked_tokens,
    )


class CostlyError(Exception):
    """The pictures of a request are more work than was allowed."""


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "invalid_json", f"the body is no JSON: {error}") from None


def _check_model(named: Any, model: str) -> None:
    if not isinstance(named, str):
        raise ApiError(400, "missing_required_parameter", f"name the model: {model!r}", param="model")
    if named != model:
        raise ApiError(404, "model_not_found", f"there is no model {named[:80]!r}, only {model!r}", param="model")


def _check_unsupported(request: Mapping[str, Any]) -> None:
    for name, neutral in _UNSUPPORTED.items():
        if request.get(name) and request[name] not in neutral:
            raise ApiError(400, "unsupported_parameter", f"{name} is not supported; leave it out", param=name)
    if request.get("n") not in (None, 1):
        raise ApiError(400, "unsupported_value", "n: only one answer is given; ask again for another", param="n")
    form = request.get("response_format")
    if form is not None and form != {"type": "text"}:
        raise ApiError(400, "unsupported_value", "response_format: only text is supported", param="response_format")


def _asked_tokens(request: Mapping[str, Any]) -> int | None:
    name = "max_completion_tokens" if request.get("max_completion_tokens") is not None else "max_tokens"
    tokens = number(request, name, least=1, most=_MAX_SEED, whole=True)
    return None if tokens is None else int(tokens)


def _answer_options(request: Mapping[str, Any], asked_tokens: int | None, limits: Limits) -> AnswerOptions:
    seed = number(request, "seed", least=-_MAX_SEED, most=_MAX_SEED, whole=True)
    temperature = number(request, "temperature", least=0, most=2)
    top_p = number(request, "top_p", least=0, most=1)
    presence = number(request, "presence_penalty", least=-2, most=2)
    frequency = number(request, "frequency_penalty", least=-2, most=2)
    repetition = number(request, "repetition_penalty", least=0.01, most=100)
    return AnswerOptions(
        max_new_tokens=limits.tokens if asked_tokens is None else min(asked_tokens, limits.tokens),
        temperature=0.0 if temperature is None else float(temperature),
        top_p=1.0 if top_p is None else max(_LEAST_TOP_P, float(top_p)),
        seed=secrets.randbits(63) if seed is None else int(seed),
        presence_penalty=float(presence or 0),
        frequency_penalty=float(frequency or 0),
        repetition_penalty=1.0 if repetition is None else float(repetition),
    )


def _stops(value: Any) -> tuple[str, ...]:
    stops: Sequence[Any] = [] if value is None else value if isinstance(value, list) else [value]
    if len(stops) > _MAX_STOPS or not all(isinstance(stop, str) and 0 < len(stop) <= 100 for stop in stops):
        raise ApiError(400, "invalid_value", f"stop: at most {_MAX_STOPS} texts of 1 to 100 characters", param="stop")
    return tuple(stops)


def _read_messages(messages: Any, limits: Limits, most_pixels: int | None = None) -> tuple[str, list[Turn]]:
    """The text of the system messages, and the turns; the last one has no answer yet.

    User messages that follow each other are one turn. `ApiError` (400) names the message that cannot be used;
    `CostlyError` is raised before the picture is decoded that would exceed ``most_pixels``.
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
    for index, value in enumerate(messages):
        place = f"messages[{index}]"
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
    for index, value in enumerate(content):
        here = f"{place}[{index}]"
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
