"""Shrinking by SIMD: Pillow's picture, the same on every processor and in every thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cykooz_resizer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mimicit.media import image
from mimicit.media.image import resized
from tests.factories.media import difference, scene

SIDES = st.integers(1, 300)


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


def by_pillow(picture: Image.Image, target: tuple[int, int]) -> Image.Image:
    return picture.resize(target, Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("size", "target"), [((750, 500), (336, 224)), ((640, 480), (336, 252)), ((337, 99), (336, 98))]
)
def test_it_is_the_picture_that_pillow_makes(size: tuple[int, int], target: tuple[int, int]) -> None:
    picture = scene(*size)
    ours, theirs = resized(picture, target), by_pillow(picture, target)
    assert (ours.mode, ours.size) == ("RGB", target)
    steps = np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16))
    assert steps.max() <= 2
    assert difference(np.asarray(ours), np.asarray(theirs)) < 0.3


@given(width=SIDES, height=SIDES, columns=SIDES, rows=SIDES)
def test_every_processor_makes_the_same_bytes(width: int, height: int, columns: int, rows: int) -> None:
    target = (min(width, columns), min(height, rows))
    picture = noise(width, height)
    expected = resized(picture, target).tobytes()
    assert image._kept is not None
    found = image._kept.resizer.cpu_extensions
    try:
        for extensions in (cykooz_resizer.CpuExtensions.none, found):
            image._kept.resizer.cpu_extensions = extensions
            assert resized(picture, target).tobytes() == expected
    finally:
        image._kept.resizer.cpu_extensions = found


@given(width=SIDES, height=SIDES, level=st.integers(0, 255))
def test_what_is_flat_stays_flat(width: int, height: int, level: int) -> None:
    flat = Image.new("RGB", (width, height), (level, 255 - level, 7))
    target = ((width + 1) // 2, (height + 2) // 3)
    assert resized(flat, target).getcolors() == [(target[0] * target[1], (level, 255 - level, 7))]


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "LAB"])
def test_other_modes_are_left_to_pillow(mode: str) -> None:
    picture = noise(60, 40, "RGB").convert(mode) if mode != "LAB" else Image.merge("LAB", noise(60, 40).split())
    expected = picture.resize((30, 20), Image.Resampling.BICUBIC, reducing_gap=image.REDUCING_GAP)
    assert resized(picture, (30, 20)).tobytes() == expected.tobytes()


def test_without_the_library_pillow_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = scene(300, 200)
    monkeypatch.setattr(image, "_kept", None)
    assert resized(picture, (150, 100)).tobytes() == by_pillow(picture, (150, 100)).tobytes()


def test_threads_do_not_meet() -> None:
    pictures = [noise(200 + number, 150) for number in range(32)]
    alone = [resized(picture, (90, 70)).tobytes() for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda picture: resized(picture, (90, 70)).tobytes(), pictures * 4))
    assert together == alone * 4
