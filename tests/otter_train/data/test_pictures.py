"""Stored bytes to the tower's square, as CLIP prepares it."""

from __future__ import annotations

import io

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.Image import Resampling

from mimicit.errors import TrainError
from otter_train.data.batches import decode_media, fit, normalise
from tests.factories.train import image, png, sample, triplet


def photo(width: int, height: int) -> Image.Image:
    """Smooth and detailed at once: what resizing methods disagree about."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7 + channel) * np.cos(y / 5) * 100 + 128 for channel in range(3)]
    return Image.fromarray(np.stack(waves, -1).astype(np.uint8))


def as_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def clip_preprocess(picture: Image.Image, size: int) -> torch.Tensor:
    """The published recipe, in Pillow."""
    scale = size / min(picture.size)
    width, height = (max(size, int(side * scale)) for side in picture.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = picture.resize((width, height), Resampling.BICUBIC)
    return as_tensor(resized.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("shape", [(64, 64), (80, 64), (61, 97), (200, 130), (30, 50)])
def test_a_picture_is_prepared_as_clip_does(shape: tuple[int, int]) -> None:
    picture = photo(*shape)
    difference = (fit(as_tensor(picture), 64).int() - clip_preprocess(picture, 64).int()).abs()
    assert difference.max() <= 2


def test_a_square_of_the_right_size_passes_unchanged() -> None:
    pixels = as_tensor(photo(64, 64))
    assert torch.equal(fit(pixels, 64), pixels)


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_any_shape_becomes_the_square(width: int, height: int, size: int) -> None:
    result = fit(torch.full((3, height, width), 77, dtype=torch.uint8), size)
    assert result.shape == (3, size, size) and result.dtype == torch.uint8
    assert (result == 77).all()


def test_a_line_of_one_pixel_stays_small() -> None:
    assert fit(torch.zeros(3, 1, 200_000, dtype=torch.uint8), 224).shape == (3, 224, 224)


def test_frames_of_a_clip_are_stacked() -> None:
    clip = image(png((255, 0, 0)), png((0, 255, 0)), kind="video")
    frames = decode_media(sample(triplet(media=[0]), media=[clip]), clip, 8)
    assert frames.shape == (2, 3, 8, 8)
    assert frames[0, 0].unique().tolist() == [255] and frames[1, 1].unique().tolist() == [255]


def test_normalising_is_that_of_the_tower() -> None:
    picture = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1)
    result = normalise(picture, (0.5, 0.2, 0.0), (0.5, 0.1, 2.0)).flatten()
    torch.testing.assert_close(result, torch.tensor([-1.0, 0.0, 0.5]))


def gif() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "GIF")
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", png((1, 2, 3))[:50], png((1, 2, 3), (17, 16)), gif()],
    ids=["empty", "text", "cut", "size", "gif"],
)
def test_bad_bytes_name_the_sample_and_the_file(data: bytes) -> None:
    medium = image(data)
    with pytest.raises(TrainError, match=r"bad-1.*000\.png"):
        decode_media(sample(triplet(media=[0]), media=[medium], id="bad-1"), medium, 16)
