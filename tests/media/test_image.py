"""Pictures: every kind becomes upright RGB over white within the size; what is already so passes untouched."""

from __future__ import annotations

import io
import random
import resource
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from mimicit.errors import RejectedError
from mimicit.media import EncodedMedia, MediaOptions, image_file
from mimicit.media.image import encode_image
from mimicit.media.image_file import probe_image
from mimicit.schema import schema
from tests.factories.media import (
    STORED_FOR,
    difference,
    encoded,
    oriented,
    pixels,
    png_chunk,
    scene,
    swapped_profile,
    vast_png,
)

pillow_heif.register_heif_opener()  # so that the tests can write HEIC
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
LOSSLESS = MediaOptions(size=0, image_format="png")
REASONS = set(schema("reject")["properties"]["reason"]["enum"])


def reason_of(data: bytes, options: MediaOptions | None = None) -> str:
    with pytest.raises(RejectedError) as caught:
        encode_image(data, options or MediaOptions())
    assert caught.value.reason in REASONS
    return caught.value.reason


def assert_stays(stored: EncodedMedia, options: MediaOptions) -> None:
    """What was stored once passes through untouched from then on."""
    again = encode_image(stored.files[0], options)
    assert (again.files, again.width, again.height) == (stored.files, stored.width, stored.height)


# What pictures become


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_becomes_a_small_rgb_jpeg(format: str) -> None:
    stored = encode_image(encoded(scene(120, 80), format), MediaOptions(size=60))
    assert (stored.kind, stored.extension, stored.width, stored.height) == ("image", "jpg", 60, 40)
    assert (stored.original_width, stored.original_height) == (120, 80)
    assert stored.timestamps_s is None and stored.duration_s is None
    assert difference(pixels(stored.files[0]), np.asarray(scene(60, 40))) < 6


@pytest.mark.parametrize("image_format", ["jpg", "png", "webp"])
def test_every_stored_format_is_what_it_says(image_format: str) -> None:
    stored = encode_image(encoded(scene(), "BMP"), MediaOptions(image_format=image_format))  # type: ignore[arg-type]
    with Image.open(io.BytesIO(stored.files[0])) as picture:
        assert {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[str(picture.format)] == stored.extension == image_format
    assert difference(pixels(stored.files[0]), np.asarray(scene())) < 4


@pytest.mark.parametrize("orientation", STORED_FOR)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    data = oriented(scene(), format, orientation)
    stored = encode_image(data, MediaOptions(size=48, image_format="png"))
    assert (stored.width, stored.height) == (48, 32)
    assert difference(pixels(stored.files[0]), np.asarray(scene(48, 32))) < 6


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12", b"Exif\0\0" + bytes(40)])
def test_damaged_exif_does_not_reject_a_sound_picture(exif: bytes) -> None:
    header = probe_image(encoded(scene(), "JPEG", exif=exif), MediaOptions())
    assert (header.width, header.height, header.orientation) == (96, 64, 1)


def transparent_pictures() -> dict[str, bytes]:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    red = Image.new("RGB", (64, 64), (200, 0, 0))
    rgba = red.copy()
    rgba.putalpha(mask)
    grey = Image.merge("LA", (Image.new("L", (64, 64), 90), mask))
    palette = Image.new("P", (64, 64), 0)
    palette.putpalette([0, 90, 0, 200, 0, 0])
    palette.paste(1, (32, 0, 64, 64))
    keyed = Image.new("RGB", (64, 64), (1, 2, 3))
    keyed.paste((200, 0, 0), (32, 0, 64, 64))
    return {
        "RGBA": encoded(rgba, "PNG"),
        "LA": encoded(grey, "PNG"),
        "palette with one clear colour": encoded(palette, "PNG", transparency=0),
        "palette with an alpha table": encoded(palette, "PNG", transparency=b"\0\xff"),
        "GIF": encoded(palette, "GIF", transparency=0),
        "RGB with one clear colour": encoded(keyed, "PNG", transparency=(1, 2, 3)),
        "WebP": encoded(rgba, "WEBP", lossless=True),
        "TIFF": encoded(rgba, "TIFF"),
        "AVIF": encoded(rgba, "AVIF", quality=100),
        "HEIC": encoded(rgba, "HEIF", quality=100),
    }


@pytest.mark.parametrize("name", transparent_pictures())
def test_transparency_is_blended_over_white(name: str) -> None:
    stored = pixels(encode_image(transparent_pictures()[name], MediaOptions(size=32, image_format="png")).files[0])
    assert (stored[:, :14] == 255).all()
    assert not (stored[:, 18:] == 255).any()


def ramp() -> np.ndarray:
    return np.tile(np.linspace(0, 1, 256), (8, 1))


def grey_pictures() -> dict[str, bytes]:
    """A ramp from black to white in every depth."""
    deep = Image.fromarray((ramp() * 65535).astype(np.uint16))
    return {
        "8 bit": encoded(Image.fromarray((ramp() * 255).astype(np.uint8)), "PNG"),
        "16 bit PNG": encoded(deep, "PNG"),
        "16 bit TIFF": encoded(deep, "TIFF"),
        "32 bit, 0 to 65535": encoded(Image.fromarray((ramp() * 65535).astype(np.int32)), "TIFF"),
        "32 bit, wide": encoded(Image.fromarray(((ramp() - 0.5) * 2e9).astype(np.int32)), "TIFF"),
        "float, 0 to 1": encoded(Image.fromarray(ramp().astype(np.float32)), "TIFF"),
        "float, 0 to 255": encoded(Image.fromarray((ramp() * 255).astype(np.float32)), "TIFF"),
        "float, wide": encoded(Image.fromarray((ramp() * 1e6 - 5e5).astype(np.float32)), "TIFF"),
        "grey and alpha": encoded(Image.fromarray((ramp() * 255).astype(np.uint8)).convert("LA"), "PNG"),
    }


@pytest.mark.parametrize("name", grey_pictures())
def test_every_depth_of_grey_keeps_its_whole_range(name: str) -> None:
    stored = pixels(encode_image(grey_pictures()[name], LOSSLESS).files[0])
    expected = np.repeat((ramp() * 255)[..., None], 3, axis=2)
    assert np.abs(stored.astype(float) - expected).max() <= 1.01


def test_floats_that_are_not_numbers_become_black_or_in_range() -> None:
    values = ramp().astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    stored = pixels(encode_image(encoded(Image.fromarray(values), "TIFF"), LOSSLESS).files[0])
    assert (stored[0, :3] == 0).all() and stored[1].max() == 255


def test_bilevel_pictures_become_grey_before_they_are_shrunk() -> None:
    checkers = Image.fromarray(np.indices((64, 64)).sum(axis=0) % 2 == 0)
    for format in ("PNG", "BMP", "GIF", "TIFF"):
        stored = pixels(encode_image(encoded(checkers, format), MediaOptions(size=16, image_format="png")).files[0])
        assert abs(float(stored.mean()) - 127.5) < 3


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(format: str) -> None:
    data = encoded(scene().convert("CMYK"), format)
    assert difference(pixels(encode_image(data, LOSSLESS).files[0]), np.asarray(scene())) < 8


def test_an_icc_profile_other_than_srgb_is_applied() -> None:
    red = Image.new("RGB", (40, 40), (220, 30, 30))
    for format in ("JPEG", "PNG"):
        stored = encode_image(encoded(red, format, icc_profile=swapped_profile()), LOSSLESS).files[0]
        red_channel, green, _ = pixels(stored)[20, 20]
        assert green > 180 > 80 > red_channel
        with Image.open(io.BytesIO(stored)) as picture:
            assert "icc_profile" not in picture.info


def test_an_icc_profile_that_cannot_be_used_is_ignored() -> None:
    plain = encode_image(encoded(scene(), "PNG"), MediaOptions())
    for profile in (b"nonsense", swapped_profile()[:300]):
        assert encode_image(encoded(scene(), "PNG", icc_profile=profile), MediaOptions()).files == plain.files
    grey = scene().convert("L")
    with_wrong_space = encode_image(encoded(grey, "PNG", icc_profile=swapped_profile()), LOSSLESS)
    assert with_wrong_space.files == encode_image(encoded(grey, "PNG"), LOSSLESS).files


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_the_first_frame_stands_for_an_animation(format: str) -> None:
    data = encoded(scene(), format, save_all=True, append_images=[scene().rotate(180)])
    assert probe_image(data, MediaOptions()).animated
    assert difference(pixels(encode_image(data, LOSSLESS).files[0]), np.asarray(scene())) < 8


def test_a_large_jpeg_that_is_decoded_at_reduced_scale_looks_like_the_full_decode() -> None:
    data = encoded(scene(1500, 1000), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as picture:
        full = np.asarray(picture.resize((150, 100), Image.Resampling.BICUBIC))
    stored = encode_image(data, MediaOptions(size=150, image_format="png"))
    assert difference(pixels(stored.files[0]), full) < 1


def test_nothing_of_the_input_but_pixels_is_stored_again() -> None:
    exif = Image.Exif()
    exif[0x010F] = "SECRET"
    data = encoded(scene(400, 300), "JPEG", exif=exif, comment=b"SECRET", icc_profile=swapped_profile())
    text = encoded(scene(400, 300), "TIFF", tiffinfo={270: "SECRET"})
    for image_format in ("jpg", "png", "webp"):
        options = MediaOptions(image_format=image_format)
        for source in (data, text):
            stored = encode_image(source, options).files[0]
            assert b"SECRET" not in stored and b"swap" not in stored
            assert stored == encode_image(source, options).files[0]


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "YCbCr", "LAB")


@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    mode=st.sampled_from(MODES),
    size=st.integers(1, 120),
    image_format=st.sampled_from(["jpg", "png", "webp"]),
)
def test_any_picture_ends_within_the_size_and_stays(
    width: int, height: int, mode: str, size: int, image_format: str
) -> None:
    picture = scene(width, height)
    picture = picture.convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
    options = MediaOptions(size=size, image_format=image_format)  # type: ignore[arg-type]
    stored = encode_image(encoded(picture, "PNG" if mode in ("LA", "P") else "TIFF"), options)

    longest = max(width, height)
    scale = min(1, size / longest)
    assert max(stored.width, stored.height) == min(longest, size)
    assert abs(stored.width - width * scale) < 1 and abs(stored.height - height * scale) < 1
    assert pixels(stored.files[0]).shape == (stored.height, stored.width, 3)
    assert_stays(stored, options)


# What passes through


@pytest.mark.parametrize(("format", "image_format"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_a_compliant_file_passes_through_untouched(format: str, image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encoded(scene(), format, exif=exif)
    for size in (0, 96, 336):
        stored = encode_image(data, MediaOptions(size=size, image_format=image_format))  # type: ignore[arg-type]
        assert stored.files == (data,)
        assert (stored.width, stored.height) == (96, 64)


def test_a_profile_that_says_srgb_does_not_keep_a_file_from_passing_through() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(scene(), "JPEG", icc_profile=profile)
    assert encode_image(data, MediaOptions()).files == (data,)


def deep_colour_png() -> bytes:
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    body = zlib.compress(b"\0" + bytes(6))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "image_format"),
    [
        (encoded(scene(), "JPEG"), "png"),
        (encoded(scene(400, 300), "JPEG"), "jpg"),
        (encoded(scene().convert("L"), "JPEG"), "jpg"),
        (encoded(scene().convert("CMYK"), "JPEG"), "jpg"),
        (oriented(scene(), "JPEG", 3), "jpg"),
        (encoded(scene(), "JPEG", icc_profile=swapped_profile()), "jpg"),
        (encoded(scene().convert("RGBA"), "PNG"), "png"),
        (encoded(scene(), "PNG", transparency=(1, 2, 3)), "png"),
        (encoded(scene().quantize(16), "PNG"), "png"),
        (encoded(scene(), "PNG", save_all=True, append_images=[scene().rotate(180)]), "png"),
        (deep_colour_png(), "png"),
        (encoded(scene(), "WEBP", save_all=True, append_images=[scene().rotate(180)]), "webp"),
    ],
)
def test_what_is_not_compliant_is_encoded_anew_and_then_is(data: bytes, image_format: str) -> None:
    options = MediaOptions(image_format=image_format)  # type: ignore[arg-type]
    stored = encode_image(data, options)
    assert stored.files != (data,)
    assert_stays(stored, options)


# What is refused


def test_a_vast_png_is_refused_by_its_header_in_no_memory() -> None:
    data = vast_png()
    reason_of(data)  # imports are done
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reason_of(data) == "too_many_pixels"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes; whole it would be 2.7 GB


def with_size(format: str, width: int, height: int) -> bytes:
    """A small file of ``format`` whose header says ``width`` x ``height``."""
    data = bytearray(encoded(scene(), format))
    if format == "JPEG":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", height, width)
    elif format == "WEBP":
        place = data.index(b"\x9d\x01\x2a") + 3
        data[place : place + 4] = struct.pack("<HH", width, height)
    elif format == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif format in ("AVIF", "HEIF"):
        place = data.index(b"ispe") + 8
        data[place : place + 8] = struct.pack(">II", width, height)
    elif format == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "BMP", "AVIF", "HEIF"])
def test_every_header_is_checked_before_decoding(format: str) -> None:
    data = with_size(format, 16_000, 16_000)
    for max_pixels in (1_000_000, 100_000_000):
        assert reason_of(data, MediaOptions(max_pixels=max_pixels)) == "too_many_pixels"


def test_heic_without_its_extra_is_a_reject_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    image_file._register_heif.cache_clear()
    with pytest.raises(RejectedError, match=r"pip install 'mimicit\[heic\]'") as caught:
        encode_image(encoded(scene(), "HEIF"), MediaOptions())
    assert caught.value.reason == "unsupported_media"


def test_the_limit_is_inclusive() -> None:
    data = encoded(scene(100, 50), "PNG")
    assert encode_image(data, MediaOptions(max_pixels=5_000)).width == 100
    assert reason_of(data, MediaOptions(max_pixels=4_999)) == "too_many_pixels"


def test_pictures_above_pillows_warning_pass_without_a_warning() -> None:
    data = encoded(Image.new("1", (10_000, 9_500)), "PNG")
    assert probe_image(data, MediaOptions()).width == 10_000


@pytest.mark.parametrize("image_format", ["jpg", "png", "webp"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_file_is_refused_also_where_it_would_pass_through(format: str, image_format: str) -> None:
    data = encoded(scene(), format)
    options = MediaOptions(image_format=image_format)  # type: ignore[arg-type]
    for length in {*range(30, len(data) - 5, len(data) // 12), len(data) - 5}:
        assert reason_of(data[:length], options) == "truncated_image", length


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "empty_media", "0 bytes"),
        (b"<html><body>404 Not Found</body></html>", "unsupported_media", "an HTML page"),
        (b"just some text", "unsupported_media", "text"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "truncated_image", "the AVIF ends early"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1jpeg", "unsupported_media", "another kind than AVIF and HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp41", "unsupported_media", "a mp4 clip"),
        (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", bytes(13)) + png_chunk(b"IEND", b""), "bad_media", "PNG"),
    ],
)
def test_other_things_are_refused_with_a_reason_in_words(data: bytes, reason: str, words: str) -> None:
    for function in (encode_image, probe_image):
        with pytest.raises(RejectedError) as caught:
            function(data, MediaOptions())
        assert caught.value.reason == reason
        assert words in caught.value.detail


@pytest.mark.parametrize("image_format", ["jpg", "png"])
def test_the_checksums_of_a_png_are_checked(image_format: str) -> None:
    whole = encoded(scene(), "PNG")
    for place in range(whole.index(b"IDAT") + 10, len(whole) - 20, 37):
        data = bytearray(whole)
        data[place] ^= 0x10
        assert reason_of(bytes(data), MediaOptions(image_format=image_format)) == "bad_media"  # type: ignore[arg-type]


def sources_of_mutants() -> list[bytes]:
    grey = scene(40, 30).convert("L")
    small = scene(40, 30)
    return [
        *(encoded(small, format) for format in FORMATS),
        oriented(small, "JPEG", 6),
        encoded(small.convert("CMYK"), "JPEG", progressive=True, icc_profile=swapped_profile()),
        encoded(small.convert("RGBA"), "PNG", icc_profile=swapped_profile()),
        encoded(small.quantize(16), "PNG", transparency=3),
        encoded(small, "PNG", save_all=True, append_images=[small.rotate(180)]),
        encoded(small, "WEBP", save_all=True, append_images=[small.rotate(180)]),
        encoded(small.quantize(16), "GIF", save_all=True, append_images=[small.rotate(180).quantize(8)]),
        encoded(small, "TIFF", compression="tiff_lzw"),
        encoded(grey.convert("F"), "TIFF", compression="tiff_adobe_deflate"),
        encoded(grey.convert("1"), "BMP"),
    ]


def mutated(data: bytes, rng: random.Random) -> bytes:
    mutant = bytearray(data)
    kind = rng.randrange(4)
    if kind == 0:
        for _ in range(rng.choice((1, 3, 20))):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
    elif kind == 1:
        for _ in range(rng.choice((1, 2, 5))):
            mutant[rng.randrange(min(len(mutant), 250))] = rng.choice((0, 1, 127, 128, 255))
    elif kind == 2:
        del mutant[rng.randrange(len(mutant)) :]
    else:
        start, other = rng.randrange(len(mutant)), rng.randrange(len(mutant))
        mutant[start : start + rng.randrange(60)] = mutant[other : other + rng.randrange(90)]
    return bytes(mutant)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # a JPEG that passes through keeps its metadata, damaged or not
@pytest.mark.parametrize("seed", range(4))
def test_mutants_are_stored_or_rejected_and_nothing_else(seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(seed)
    sources = sources_of_mutants()
    reasons = set()
    for _ in range(100):
        data = mutated(rng.choice(sources), rng)
        options = MediaOptions(size=rng.choice((0, 16)), image_format=rng.choice(("jpg", "png")), max_pixels=1_000_000)
        try:
            stored = encode_image(data, options)
        except RejectedError as error:
            reasons.add(error.reason)
        else:
            assert pixels(stored.files[0]).shape == (stored.height, stored.width, 3)
    assert {"truncated_image", "bad_media"} <= reasons <= REASONS


def test_the_settings_of_pillow_and_of_warnings_are_left_alone() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    encode_image(encoded(scene(), "TIFF"), MediaOptions())
    reason_of(vast_png())
    reason_of(encoded(scene(), "JPEG")[:-30])
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))


def test_importing_the_package_loads_no_decoder_of_clips() -> None:
    program = "import sys, mimicit.media; print([name for name in ('av', 'decord', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
