"""From the JSON of a chat completion request to a `Question`; pure, and strict about everything it uses.

The turns of the conversation become the context of a query, as in training: a user message and the assistant's reply
are one triplet. A system message is put before the first user message, for Otter knows no such role. Fields that
would change the answer and are not supported are refused, others are ignored.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from mimicit.records import Sample
from otter_train.data.question import asking_sample
from otter_train.inference.answer_options import AnswerOptions
from otter_train.serving.fields import ApiError, as_object, flag, number
from otter_train.serving.limits import Limits
from otter_train.serving.messages import read_messages

__all__ = ["Question", "parse_question"]

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
"""What would change the answer, with values that would not, beside those that are false."""
_MAX_STOPS: Final = 4
_MAX_SEED: Final = 2**63 - 1
_LEAST_TOP_P: Final = 1e-9  # 0 means the likeliest token alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request that can be answered: ``sample`` asks, ``stops`` end the answer.

    ``usage`` says that a stream is to end with the numbers of tokens. ``asked_tokens`` is the length of the answer that
    was asked for, which may be more than ``options`` grant; None where none was named.
    """

    sample: Sample
    options: AnswerOptions
    stops: tuple[str, ...]
    stream: bool
    usage: bool
    asked_tokens: int | None


def parse_question(body: bytes, *, model: str, limits: Limits, most_pixels: int | None = None) -> Question:
    """The `Question` of a request for ``model``; `ApiError` (4xx) names the field that cannot be used.

    Decodes the pictures, so it costs some milliseconds for each; `CostlyError` where that would be more than
    ``most_pixels``.
    """
    request = as_object(_json(body), "the body")
    _check_model(request.get("model"), model)
    _check_unsupported(request)
    system, turns = read_messages(request.get("messages"), limits, most_pixels)
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
