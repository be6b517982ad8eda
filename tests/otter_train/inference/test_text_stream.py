"""Streamed text adds up to the decoded tokens, in whole characters, without what comes after a stop."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from hypothesis import example, given
from hypothesis import strategies as st

from otter_train.inference.streaming import TextStream
from tests.factories.train import TOKENIZER

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(lambda text: "<" not in text)


def pieces(text: str, stops: Sequence[str] = ()) -> tuple[list[str], bool]:
    stream = TextStream(TOKENIZER, stops)
    given = []
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        given.append(stream.add(token))
        if stream.stopped:
            break
    return [*given, stream.end()], stream.stopped


@given(TEXT)
def test_pieces_add_up_and_hold_whole_characters(text: str) -> None:
    given, stopped = pieces(text)
    assert "".join(given) == text.strip() and not stopped
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in given)


@example("a aa", ["aa"])  # the stop begins after white space, in a token of its own
@given(st.text("ab c", max_size=40), st.lists(st.text("ab c", min_size=1, max_size=4), min_size=1, max_size=3))
def test_nothing_is_given_from_the_stop_on_that_is_complete_first(text: str, stops: list[str]) -> None:
    given, stopped = pieces(text, stops)
    told = "".join(given)
    begun = text.lstrip()
    met = [(place + len(stop), place) for stop in stops if (place := begun.find(stop)) >= 0]
    if stopped:
        assert not any(stop in told for stop in stops) and begun.startswith(told)
    else:
        assert told == text.strip()
    assert bool(met) == stopped
    if met:
        assert told == begun[: min(met)[1]].strip()


def test_unfinished_bytes_at_the_end_are_given_as_they_are() -> None:
    first = TOKENIZER.encode("é", add_special_tokens=False)[:1]
    stream = TextStream(TOKENIZER)
    assert stream.add(first[0]) == ""
    assert stream.end() == "\ufffd"


def test_special_tokens_are_no_text() -> None:
    stream = TextStream(TOKENIZER)
    ids = TOKENIZER.encode("red<|endofchunk|></s> blue", add_special_tokens=False)
    assert "".join([*map(stream.add, ids), stream.end()]) == "red blue"
