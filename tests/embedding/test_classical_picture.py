"""Pictures without a model: copies are near, other palettes and outlines are far, plain ones are no trouble."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mimicit.embedding.light import ClassicalPicture
from mimicit.embedding.vectors import cosines, quantise
from tests.factories.raw import picture


def likeness(*pictures: bytes) -> np.ndarray:
    vectors = quantise(ClassicalPicture().embed(pictures))
    return cosines(vectors, vectors)


def saved(image: Image.Image, format: str = "JPEG", quality: int = 90) -> bytes:
    data = io.BytesIO()
    image.save(data, format, quality=quality)
    return data.getvalue()


def shape(kind: str, colour: str, place: int) -> bytes:
    image = Image.new("RGB", (200, 150), "white")
    getattr(ImageDraw.Draw(image), kind)((place, 30, place + 90, 120), fill=colour)
    return saved(image)


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_in_another_size_format_and_quality_is_nearest(seed: int) -> None:
    original = picture(seed, 300, 200)
    image = Image.open(io.BytesIO(original))
    copies = [saved(image.resize((150, 100)), quality=60), saved(image, "PNG"), saved(image, "WEBP", 50)]
    scores = likeness(original, *copies, *(picture(seed + 50 + n, 300, 200) for n in range(5)))[0]
    assert scores[1:4].min() > 0.9
    assert scores[1:4].min() > scores[4:].max() + 0.1


def test_colour_and_outline_both_count() -> None:
    scores = likeness(
        shape("ellipse", "red", 50), shape("ellipse", "red", 60), shape("ellipse", "blue", 50),
        shape("rectangle", "blue", 50),
    )[0]  # fmt: skip
    assert scores[1] > scores[2] > scores[3]


def test_plain_pictures_have_finite_vectors() -> None:
    plain = [saved(Image.new(mode, (40, 1), "white"), "PNG") for mode in ("L", "RGB", "RGBA")]
    scores = likeness(*plain, saved(Image.new("RGB", (1, 900), "black")))
    assert np.isfinite(scores).all()
    assert scores[0, 1] == pytest.approx(1, abs=1e-6)


def test_the_vectors_are_pinned() -> None:
    """A change here changes the shards of every build that compares pictures: raise the number in the fingerprint."""
    vector = quantise(ClassicalPicture().embed([saved(Image.open(io.BytesIO(picture(3))), "PNG")]))[0]
    assert ClassicalPicture.fingerprint == "classical-picture/1"
    assert vector.shape == (848,)
