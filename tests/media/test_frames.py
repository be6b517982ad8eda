"""Which frames are chosen, and videos that are published as pictures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import RejectedError
from mimicit.media import MediaOptions
from mimicit.media.frames import encode_frames, evenly_spaced
from mimicit.media.image import encode_image
from tests.factories.media import encoded, oriented, scene


@given(count=st.integers(1, 5_000), wanted=st.integers(1, 64))
def test_evenly_spaced_frames_take_both_ends_and_equal_steps(count: int, wanted: int) -> None:
    chosen = evenly_spaced(count, wanted)
    assert len(chosen) == min(count, wanted)
    assert chosen == sorted(set(chosen)) and set(chosen) <= set(range(count))
    if wanted == 1:
        assert chosen == [(count - 1) // 2]
    elif count > wanted:
        assert chosen[0] == 0 and chosen[-1] == count - 1
        steps = wanted - 1  # at most half a frame from the exact place, in whole numbers
        assert all(abs(2 * steps * index - 2 * step * (count - 1)) <= steps for step, index in enumerate(chosen))


def shades(count: int, width: int = 40, height: int = 30) -> list[bytes]:
    """Frames of one size whose brightness tells them apart."""
    return [encoded(scene(width, height).point(lambda value, n=n: value // (n + 1)), "JPEG") for n in range(count)]


def test_each_chosen_frame_is_what_encode_image_makes_of_it() -> None:
    pictures = shades(10)
    options = MediaOptions(size=20, frames=4)
    video = encode_frames(pictures, [float(second) for second in range(10)], options)
    assert video.kind == "video" and video.extension == "jpg"
    assert video.timestamps_s == (0.0, 3.0, 6.0, 9.0)
    assert video.duration_s == 10.0
    assert (video.width, video.height) == (20, 15)
    assert video.files == tuple(encode_image(pictures[index], options).files[0] for index in (0, 3, 6, 9))


def test_times_are_kept_as_given_and_may_be_uneven() -> None:
    video = encode_frames(shades(3), [1.5, 2.0, 4.5], MediaOptions())
    assert video.timestamps_s == (1.5, 2.0, 4.5)
    assert video.duration_s == 6.0  # the last time and the mean interval


def test_a_single_frame_lasts_no_longer_than_its_time() -> None:
    video = encode_frames(shades(1), [0.0], MediaOptions())
    assert (video.timestamps_s, video.duration_s) == ((0.0,), 0.0)


def test_frames_that_are_not_chosen_are_not_decoded() -> None:
    first, _, last = shades(3)
    assert len(encode_frames([first, b"", last], [0, 1, 2], MediaOptions(frames=2)).files) == 2


@pytest.mark.parametrize(
    ("pictures", "times", "options", "reason"),
    [
        ([], [], MediaOptions(), "empty_media"),
        (shades(2), [0.0], MediaOptions(), "bad_media"),
        (shades(2), [1.0, 1.0], MediaOptions(), "bad_media"),
        (shades(2), [1.0, 0.0], MediaOptions(), "bad_media"),
        (shades(2), [-1.0, 0.0], MediaOptions(), "bad_media"),
        (shades(2), [0.0, math.inf], MediaOptions(), "bad_media"),
        (shades(2), [0.0, math.nan], MediaOptions(), "bad_media"),
        (shades(1), [math.nan], MediaOptions(), "bad_media"),
        (shades(2), [0.0, 100.0], MediaOptions(max_duration_s=150.0), "too_long"),
        (shades(3), [0.0, 1.0, 2.0], MediaOptions(max_video_frames=2), "too_many_frames"),
        ([shades(1)[0], encoded(scene(30, 40), "JPEG")], [0.0, 1.0], MediaOptions(), "bad_media"),
        ([shades(1)[0], b"<html>"], [0.0, 1.0], MediaOptions(), "unsupported_media"),
        ([shades(1)[0], shades(1)[0][:-20]], [0.0, 1.0], MediaOptions(), "truncated_image"),
    ],
)
def test_what_is_no_video_is_refused(
    pictures: list[bytes], times: list[float], options: MediaOptions, reason: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        encode_frames(pictures, times, options)
    assert caught.value.reason == reason


def test_sizes_are_compared_as_shown() -> None:
    turned = oriented(scene(40, 30), "JPEG", 6)
    assert encode_frames([shades(1)[0], turned], [0.0, 1.0], MediaOptions()).width == 40
