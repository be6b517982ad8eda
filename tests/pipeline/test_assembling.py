"""Who shows which medium: every medium is used once, in order, and text follows the picture it is about."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mimicit.prompt import IMAGE, render
from mimicit.records import Media
from tests.factories.assembling import Part, assemble


def media(number: int, frames: int = 1) -> Media:
    return Media(
        kind="image" if frames == 1 else "video",
        files=tuple(f"{frame:03d}.jpg" for frame in range(frames)),
        width=8,
        height=8,
        sha256=("0" * 64,) * frames,
        origin=f"{number}.jpg",
    )


def part(number: int, *shown: int) -> Part:
    return Part(id=f"t{number}", media=shown, instruction=f"q{number}", answer=f"a{number}")


@given(st.lists(st.lists(st.integers(0, 3), max_size=3, unique=True), min_size=1, max_size=5))
def test_every_text_is_about_the_picture_shown_last(shown: list[list[int]]) -> None:
    stock = {number: media(number, frames=number + 1) for number in range(4)}
    parts = [part(number, *pictures) for number, pictures in enumerate(shown)]
    sample, keys = assemble(parts, stock, id="x", source="s", meta={})
    assert [index for triplet in sample.triplets for index in triplet.media] == list(range(len(sample.media)))
    assert render(sample).count(IMAGE) == len(sample.media) == len(keys)
    files = [file for medium in sample.media for file in medium.files]
    assert files == [f"{number:03d}.jpg" for number in range(len(files))]
    seen: list[int] = []
    for triplet, pictures in zip(sample.triplets, shown, strict=True):
        seen += [keys[index] for index in triplet.media]
        if pictures:
            assert seen[-len(pictures) :] == pictures


def test_a_talk_about_one_picture_shows_it_once_and_again_after_another() -> None:
    stock = {0: media(0), 1: media(1)}
    parts = [part(0, 0), part(1, 0), part(2, 1), part(3, 0)]
    sample, _ = assemble(parts, stock, id="x", source="s", meta={})
    assert [triplet.media for triplet in sample.triplets] == [(0,), (), (1,), (2,)]
    assert render(sample) == (
        "<image>User:q0 GPT:<answer>a0<|endofchunk|>User:q1 GPT:<answer>a1<|endofchunk|>"
        "<image>User:q2 GPT:<answer>a2<|endofchunk|><image>User:q3 GPT:<answer>a3<|endofchunk|>"
    )
    assert render(sample, with_answer=False).endswith("<image>User:q3 GPT:<answer>")
