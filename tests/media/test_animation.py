"""How many frames an animation has, told without decoding it; too many are refused, by every format's own count."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mimicit.errors import RejectedError
from mimicit.media import MediaOptions
from mimicit.media.headers import MAX_FRAMES, gif_frames
from mimicit.media.image import encode_image
from mimicit.media.image_file import probe_image
from tests.factories import hostile
from tests.factories.media import encoded, scene


@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("colours", [2, 64])
def test_frames_are_counted_as_pillow_counts_them(frames: int, colours: int) -> None:
    turned = [scene().rotate(30 * turn).quantize(colours) for turn in range(frames)]
    data = encoded(turned[0], "GIF", save_all=True, append_images=turned[1:], comment=b"x" * 700, loop=0)
    with Image.open(io.BytesIO(data)) as picture:
        assert gif_frames(data, 100) == picture.n_frames == frames


def test_counting_stops_above_the_limit() -> None:
    assert gif_frames(hostile.gif_of_many_frames(1_000), 10) == 11


@given(cut=st.integers(0, 200), noise=st.binary(max_size=40))
def test_a_damaged_gif_is_counted_to_its_fault(cut: int, noise: bytes) -> None:
    assert 0 <= gif_frames(hostile.gif_of_many_frames(10)[:cut] + noise, 100) <= 100


@pytest.mark.parametrize("make", [hostile.gif_of_many_frames, hostile.apng_of_many_frames])
def test_an_animation_as_long_as_a_clip_is_refused(make: Callable[[int], bytes]) -> None:
    assert probe_image(make(MAX_FRAMES - 1), MediaOptions()).animated
    for function in (probe_image, encode_image):
        with pytest.raises(RejectedError, match="too_many_frames: an animation of more than 10,000 frames"):
            function(make(MAX_FRAMES + 1), MediaOptions())
