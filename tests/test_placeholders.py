from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import RejectedError
from mimicit.placeholders import place_media, with_words
from mimicit.prompt import IMAGE
from mimicit.records import MediaKind

P: MediaKind = "image"
V: MediaKind = "video"


@pytest.mark.parametrize(
    ("questions", "kinds", "texts", "shown"),
    [
        (["<image>\nWhat?"], [P], ["What?"], [(0,)]),
        (["What?\n<image>"], [P], ["What?"], [(0,)]),
        (["What is this <image>"], [P], ["What is this"], [(0,)]),
        (["Is <image> brighter than <image>?"], [P, P], ["Is image 1 brighter than image 2?"], [(0, 1)]),
        (["Compare <image> with <image>"], [P, P], ["Compare image 1 with image 2"], [(0, 1)]),
        (["Q? Image A: <image> Image B: <image>"], [P, P], ["Q? Image A: image 1 Image B: image 2"], [(0, 1)]),
        (["Like <image>? Options: <image>"], [P, P], ["Like image 1? Options:"], [(0, 1)]),
        (["A <image>\nB <image>\nWhich?"], [P, P], ["A image 1\nB image 2\nWhich?"], [(0, 1)]),
        (["<image><image>\nIs<image>it?"], [P, P, P], ["Is image 3 it?"], [(0, 1, 2)]),
        (["<image> Who?", "And?", "Is <image> him?"], [P, P], ["Who?", "And?", "Is image 2 him?"], [(0,), (), (1,)]),
        (["<video>What?"], [V], ["What?"], [(0,)]),
        (["Is <image> in <video>?"], [V, P], ["Is image 1 in video 1?"], [(1, 0)]),
        (["<video>What?"], [P], ["<video>What?"], [(0,)]),
        # By number: the media keep their order.
        (["Which <image 1> is <image 2>?"], [P, P], ["Which image 1 is image 2?"], [(0, 1)]),
        (["<|image_1|>\n<|image_2|>\nWhat?"], [P, P], ["What?"], [(0, 1)]),
        (["Is <image2> <image1>?"], [P, P], ["Is image 2 image 1?"], [(0, 1)]),
        (["By <image_1>?", "By <image_3>?"], [P, P, P], ["By image 1?", "By image 3?"], [(0,), (1, 2)]),
        (["<image><image>\nIs <image 2> red?"], [P, P], ["Is image 2 red?"], [(0, 1)]),
        (["Is <image_0> like <image_1>?"], [P, P], ["Is image 1 like image 2?"], [(0, 1)]),
        # A sentence that begins with one.
        (["<image> or <image>?"], [P, P], ["image 1 or image 2?"], [(0, 1)]),
        (["<image>, <image> and <image>: which?"], [P] * 3, ["image 1, image 2 and image 3: which?"], [(0, 1, 2)]),
        (["<image_1> vs <image_2>?"], [P, P], ["image 1 vs image 2?"], [(0, 1)]),
        (["<image><image> or not?"], [P, P], ["or not?"], [(0, 1)]),
        # The same ones in every question.
        (["<image>A?", "<image>B?"], [P], ["A?", "B?"], [(0,), ()]),
        (["A? <image>", "Why is <image> B?"], [P], ["A?", "Why is image 1 B?"], [(0,), ()]),
        (["<image><image>A?", "<image><image>B?"], [P, P], ["A?", "B?"], [(0, 1), ()]),
        (["<video>A?", "<video>B?"], [V], ["A?", "B?"], [(0,), ()]),
        (["<ImageHere>A?", "<ImageHere>B?"], [P], ["A?", "B?"], [(0,), ()]),
        # Other spellings.
        (["<img>a/1.png</img>\nWhat?"], [P], ["What?"], [(0,)]),
        (["<image>1.jpg</image>What?"], [P], ["What?"], [(0,)]),
        (["<|vision_start|><|image_pad|><|vision_end|>What?"], [P], ["What?"], [(0,)]),
        (["<image>What is in a.png</image>?"], [P], ["What is in a.png</image>?"], [(0,)]),
        (["<ImageHere>What?"], [P], ["What?"], [(0,)]),
        (["<image/>\nWhat?"], [P], ["What?"], [(0,)]),
        (["<image_placeholder>What?"], [P], ["What?"], [(0,)]),
        (["<|image|>What?"], [P], ["What?"], [(0,)]),
        (["<img>\nWhat?"], [P], ["What?"], [(0,)]),
        # Words, where the record has other placeholders or none of these.
        (["<image>\nWhat is <img> in HTML?"], [P], ["What is <img> in HTML?"], [(0,)]),
        (["What is <img> in HTML?"], [P], ["What is <img> in HTML?"], [(0,)]),
        (["<image>\nSay <IMAGE> and </s>."], [P], ["Say <IMAGE> and </s>."], [(0,)]),
        (["What is <image/>?"], [], ["What is <image/>?"], [()]),
        ([None, "<image>What?", 7], [P], [None, "What?", 7], [(), (0,), ()]),
    ],
)  # fmt: skip
def test_what_becomes_of_placeholders(
    questions: list[object], kinds: list[MediaKind], texts: list[object], shown: list[tuple[int, ...]]
) -> None:
    placed = place_media(questions, kinds)
    assert (list(placed.texts), list(placed.shown)) == (texts, shown)


@pytest.mark.parametrize(
    ("questions", "kinds"),
    [
        (["<image>What?"], []),
        (["<image>What?"], [P, P]),
        (["<image><image>What?"], [P]),
        (["Is <video> <video> or <image>?"], [P, P, V]),
        (["<image 3>?"], [P, P]),
        (["<image 0> or <image 2>?"], [P, P]),
        (["<image>A?", "<image>B?", "C?"], [P]),
        (["<image>A?", "<image><image>B?"], [P]),
        (["<|image_1|>What?"], []),
        (["<image 1>A?", "B?"], [P, P]),
        (["<ImageHere>What?"], [P, P]),
    ],
)
def test_placeholders_that_do_not_match_the_media(questions: list[object], kinds: list[MediaKind]) -> None:
    with pytest.raises(RejectedError, match="placeholder_mismatch"):
        place_media(questions, kinds)


def test_media_without_placeholders_are_shown_first() -> None:
    placed = place_media(["What?", "And?"], [P, P])
    assert (placed.shown, placed.is_marked) == (((0, 1), ()), False)
    assert place_media(["What?"], []).is_marked


def test_an_answer_names_media_by_number_alone() -> None:
    assert with_words("<image 2>, not <image1>.", [P, P]) == "image 2, not image 1."
    assert with_words("<image 3> and <img>", [P, P]) == "<image 3> and <img>"
    assert with_words(7, [P]) == 7


pieces = st.sampled_from([IMAGE, "<video>", "<image 1>", "<image2>", "<img>", "word", " ", "\n", ".", "<", "é"])


texts_of_records = st.lists(st.lists(pieces, max_size=8).map("".join), min_size=1, max_size=3)


@given(texts_of_records, st.lists(st.sampled_from([P, V]), max_size=3))
def test_every_medium_is_shown_once_and_no_placeholder_is_left(texts: list[str], kinds: list[MediaKind]) -> None:
    with contextlib.suppress(RejectedError):
        placed = place_media(texts, kinds)
        assert sorted(index for line in placed.shown for index in line) == list(range(len(kinds)))
        assert not any(IMAGE in str(text) for text in placed.texts)
