"""Names and first bytes: what is looked at, and what decodes it."""

from __future__ import annotations

import io
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image

from mimicit.media.sniff import HEAD_BYTES, IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, kind_of, looks_like, sniff
from tests.factories.media import encoded, scene, write_clip

pillow_heif.register_heif_opener()  # so that the tests can write HEIC
PICTURES = {
    "avif": "AVIF",
    "heic": "HEIF",
    "bmp": "BMP",
    "gif": "GIF",
    "jpeg": "JPEG",
    "png": "PNG",
    "tiff": "TIFF",
    "webp": "WEBP",
}
CLIPS = {
    ".mp4": ("mp4", "libx264"),
    ".mov": ("mp4", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("matroska", "libvpx"),
    ".avi": ("avi", "mpeg4"),
    ".ts": ("mpegts", "libx264"),
    ".m2ts": ("mpegts", "libx264"),
    ".mpg": ("mpeg", "mpeg2video"),
    ".flv": ("flv", "libx264"),
    ".wmv": ("asf", "wmv2"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_known_by_their_first_bytes(name: str) -> None:
    head = encoded(scene(), PICTURES[name])[:HEAD_BYTES]
    assert sniff(head) == name
    assert kind_of(head) == "image"


@pytest.mark.parametrize("extension", CLIPS)
def test_clips_are_known_by_their_first_bytes(tmp_path: Path, extension: str) -> None:
    name, codec = CLIPS[extension]
    head = write_clip(tmp_path / f"clip{extension}", codec=codec).read_bytes()[:HEAD_BYTES]
    assert sniff(head) == name
    assert kind_of(head) == "video"
    assert kind_of(f"clip{extension}") == "video"


def test_a_transport_stream_is_known_from_the_middle(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "clip.ts").read_bytes()
    assert sniff(data[1_234 : 1_234 + HEAD_BYTES]) == "mpegts"


def test_names_decide_by_extension_alone_whatever_the_case() -> None:
    assert kind_of("a/b.JPG") == "image"
    assert kind_of("b.Mp4") == "video"
    assert kind_of("b.txt") is kind_of("jpg") is kind_of("") is None
    assert not IMAGE_EXTENSIONS & VIDEO_EXTENSIONS


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"<!DOCTYPE html><html><body>404", "an HTML page"),
        (b"\xef\xbb\xbf\n<html>", "an HTML page"),
        (b'<?xml version="1.0"?><svg xmlns="...">', "an SVG drawing"),
        (b"#EXTM3U\n#EXT-X-STREAM-INF\nhttp://127.0.0.1/", "a playlist"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a Git LFS pointer"),
        (b'{"error": "not found"}', "JSON text"),
        ("naïve words".encode(), "text"),
        (b"%PDF-1.7", "a PDF document"),
        (b"PK\x03\x04....", "a ZIP archive"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0jpeg", "an HEIF picture of another kind"),
        (b"\x00\x01\x02\x03", "unknown bytes (00 01 02 03)"),
    ],
)
def test_what_is_neither_is_told_in_words(head: bytes, words: str) -> None:
    assert sniff(head) is None
    assert kind_of(head) is None
    assert looks_like(head).startswith(words)


def test_every_picture_extension_is_one_that_pillow_writes_to_a_known_format() -> None:
    for extension in IMAGE_EXTENSIONS:
        stream = io.BytesIO()
        scene().save(stream, Image.registered_extensions()[extension])
        assert kind_of(stream.getvalue()) == "image", extension
