"""Pictures to training arrays: as CLIP's own preprocessing within a tolerance, and never an array of damaged bytes."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mimicit.errors import CorruptShardError
from mimicit.loading import decode
from mimicit.loading.decode import decode_media, decode_pictures, resize_centre
from mimicit.records import Media, Sample, Triplet
from tests.factories.media import encoded, oriented, scene, vast_png

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def detailed(width: int, height: int) -> Image.Image:
    """Smooth and detailed at once: what resizing methods disagree about."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7 + channel) * np.cos(y / 5) * 100 + 128 for channel in range(3)]
    return Image.fromarray(np.stack(waves, -1).astype(np.uint8))


def medium(*data: bytes, width: int, height: int) -> Media:
    return Media(
        kind="image" if len(data) == 1 else "video",
        files=tuple(f"{n:03d}.{extension(part)}" for n, part in enumerate(data)),
        width=width,
        height=height,
        sha256=tuple(hashlib.sha256(part).hexdigest() for part in data),
        origin="",
        data=data,
    )


def extension(data: bytes) -> str:
    return "png" if data.startswith(b"\x89PNG") else "webp" if data.startswith(b"RIFF") else "jpg"


def reference(data: bytes, size: int) -> np.ndarray:
    """CLIP's published recipe in Pillow, before its last step."""
    with Image.open(io.BytesIO(data)) as opened:
        picture = opened.convert("RGB")
    short = min(picture.size)
    width, height = (int(size * side / short) for side in picture.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size))).astype(int)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 64))
def test_any_shape_is_resized_as_pillow_does(width: int, height: int, size: int) -> None:
    data = encoded(detailed(width, height), "PNG")
    found = resize_centre(np.asarray(detailed(width, height)), size)
    assert found.shape == (size, size, 3) and found.dtype == np.uint8
    assert np.abs(found - reference(data, size)).max() <= 2


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (1500, 1000), (4000, 300)])
@pytest.mark.parametrize("size", [224, 448])
def test_no_product_is_large_enough_for_threads(
    width: int, height: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenBLAS takes threads above 2**18 multiplications; waiting for each other, they took thirty times as long."""
    products: list[int] = []
    real = np.matmul

    def counted(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> np.ndarray:
        products.append(left.size * right.shape[1])
        return real(left, right, out=out)

    monkeypatch.setattr(np, "matmul", counted)
    resize_centre(np.asarray(detailed(width, height)), size)
    assert max(products) <= 1 << 18


@pytest.mark.parametrize("shape", [(640, 480), (300, 431), (224, 224), (224, 500), (31, 17)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_prepared_as_clip_does(shape: tuple[int, int], format: str) -> None:
    data = encoded(detailed(*shape), format)
    found = decode_media(medium(data, width=shape[0], height=shape[1]), 224)
    assert np.abs(found[0] - reference(data, 224)).max() <= 2


@pytest.mark.parametrize("shape", [(1500, 1000), (1001, 777), (2047, 1533)])
@pytest.mark.parametrize("fast", [True, False])
def test_scaled_decoding_stays_near(shape: tuple[int, int], fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if fast:
        pytest.importorskip("simplejpeg", reason="comes with the extra 'fast'")
    else:
        monkeypatch.setattr(decode, "_simplejpeg", lambda: None)
    data = encoded(detailed(*shape), "JPEG", quality=90)
    difference = np.abs(decode_media(medium(data, width=shape[0], height=shape[1]), 224)[0] - reference(data, 224))
    assert difference.max() <= 10 and difference.mean() < 1


def test_both_decoders_give_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg", reason="comes with the extra 'fast'")
    picture = medium(encoded(scene(640, 480), "JPEG"), width=640, height=480)
    fast = decode_media(picture, 224)
    monkeypatch.setattr(decode, "_simplejpeg", lambda: None)
    assert np.array_equal(fast, decode_media(picture, 224))


@pytest.mark.slow  # importing open_clip takes ten seconds
def test_the_reference_is_that_of_open_clip() -> None:
    open_clip = pytest.importorskip("open_clip", reason="comes with the extra 'train'")
    transform = open_clip.image_transform(224, is_train=False, mean=MEAN, std=STD)
    for shape in ((640, 480), (333, 517)):
        data = encoded(detailed(*shape), "JPEG", quality=95)
        with Image.open(io.BytesIO(data)) as picture:
            wanted = transform(picture).permute(1, 2, 0).numpy()
        found = decode_media(medium(data, width=shape[0], height=shape[1]), 224)[0]
        normalised = (found.astype(np.float32) / 255 - MEAN) / STD
        assert np.abs(normalised - wanted).max() * min(STD) * 255 <= 2.01


def test_a_square_of_the_right_size_passes_unchanged() -> None:
    picture = detailed(64, 64)
    found = decode_media(medium(encoded(picture, "PNG"), width=64, height=64), 64)
    assert np.array_equal(found[0], np.asarray(picture))


def test_a_long_line_and_a_large_flat_picture_stay_small() -> None:
    line = encoded(Image.new("RGB", (200_000, 1), "red"), "PNG")
    assert (decode_media(medium(line, width=200_000, height=1), 224)[..., 0] == 255).all()
    large = encoded(Image.new("RGB", (5000, 4000), (1, 2, 3)), "PNG")
    assert (decode_media(medium(large, width=5000, height=4000), 32) == (1, 2, 3)).all()


def test_media_of_a_sample_are_padded_and_masked() -> None:
    frames = [encoded(Image.new("RGB", (20, 10), (shade, 0, 0)), "PNG") for shade in (50, 100)]
    media = (medium(*frames, width=20, height=10), medium(frames[0], width=20, height=10))
    triplet = Triplet(id="t", role="query", media=(0, 1), instruction="", answer="a")
    decoded = decode_pictures(Sample(id="s", source="s", media=media, triplets=(triplet,)), 8)
    assert decoded.pixels.shape == (2, 2, 8, 8, 3)
    assert decoded.mask.tolist() == [[True, True], [True, False]]
    assert decoded.pixels[:, :, 0, 0, 0].tolist() == [[50, 100], [50, 0]]
    text_only = decode_pictures(Sample(id="s", source="s", media=(), triplets=()), 8)
    assert text_only.pixels.shape == (0, 0, 8, 8, 3)


@pytest.mark.parametrize(
    ("data", "width", "height"),
    [
        (b"", 8, 8),
        (b"no picture at all", 8, 8),
        (encoded(scene(96, 64), "JPEG")[:-300], 96, 64),
        (encoded(scene(96, 64), "PNG")[:300], 96, 64),
        (encoded(scene(96, 64), "JPEG"), 64, 96),
        (vast_png(), 30_000, 30_000),
        (encoded(scene(96, 64), "PNG"), 1, 10**308),
    ],
    ids=["empty", "text", "cut-jpeg", "cut-png", "other-size", "bomb", "beyond-floats"],
)
def test_bad_bytes_name_the_place_and_the_file(data: bytes, width: int, height: int) -> None:
    with pytest.raises(CorruptShardError, match=r"shard-007\.tar: sample k: 000\.(jpg|png)"):
        decode_media(medium(data, width=width, height=height), 16, where="shard-007.tar: sample k")


def test_orientation_is_left_as_clip_leaves_it() -> None:
    data = oriented(scene(96, 64), "JPEG", 6)
    with Image.open(io.BytesIO(data)) as stored:
        width, height = stored.size
    assert (width, height) == (64, 96)
    assert np.abs(decode_media(medium(data, width=width, height=height), 32)[0] - reference(data, 32)).max() <= 2
