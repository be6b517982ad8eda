from __future__ import annotations

from collections import Counter

import pytest

from mimicit.errors import RejectedError
from mimicit.sources.items import InFile, MediaRef
from mimicit.sources.records.captions import caption_instruction, instruction_or_caption

PICTURE = MediaRef(kind="image", parts=(InFile("a.jpg"),), origin="a.jpg")
CLIP = MediaRef(kind="video", parts=(InFile("a.mp4"),), origin="a.mp4")


def test_the_instruction_is_a_fixed_function_of_the_id() -> None:
    assert [caption_instruction(id, [PICTURE]) for id in ("a", "b", "c")] == [
        "Tell me what you see in the picture.",
        "Say in a sentence what is in the picture.",
        "What can be seen here?",
    ]


def test_every_instruction_is_used_about_equally_often() -> None:
    for media in ([PICTURE], [CLIP]):
        counts = Counter(caption_instruction(str(number), media) for number in range(4000))
        assert len(counts) == 8
        assert all(400 < count < 600 for count in counts.values())


def test_a_clip_is_never_called_a_picture() -> None:
    for number in range(100):
        assert "picture" not in caption_instruction(str(number), [CLIP])
        assert "video" not in caption_instruction(str(number), [PICTURE])


def test_an_instruction_that_is_no_number_is_no_instruction() -> None:
    with pytest.raises(RejectedError, match="instruction must be text, not float nan"):
        instruction_or_caption(float("nan"), "a", [PICTURE])


@pytest.mark.parametrize("absent", [None, "", "  "])
def test_a_caption_needs_something_to_describe(absent: object) -> None:
    assert instruction_or_caption(absent, "a", [PICTURE]) == caption_instruction("a", [PICTURE])
    with pytest.raises(RejectedError, match="malformed"):
        instruction_or_caption(absent, "a", [])


def test_an_instruction_is_kept() -> None:
    assert instruction_or_caption(" What? ", "a", [PICTURE]) == "What?"
