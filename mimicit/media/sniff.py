"""What a file claims to be (its name) and what it is (its first bytes); no file is opened here.

The name only decides whether a file is looked at as a picture or as a clip. What decodes it is decided by `sniff`
alone, so text that is named ``a.jpg`` never meets a decoder, and a playlist that is named ``a.mp4`` never makes
ffmpeg open another file.
"""

from __future__ import annotations

from typing import Final

from mimicit.records import MediaKind

HEAD_BYTES: Final = 4096
"""How many bytes of a file `sniff` and `looks_like` need; a shorter file has fewer."""

IMAGE_EXTENSIONS: Final = frozenset(
    (
        *(".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff"),
        ".webp",
    )
)

VIDEO_EXTENSIONS: Final = frozenset(
    (
        *(".3g2", ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
        *(".ogv", ".ts", ".webm", ".wmv"),
    )
)

_IMAGE_FORMATS: Final = frozenset(("avif", "bmp", "gif", "heic", "jpeg", "png", "tiff", "webp"))
_VIDEO_FORMATS: Final = frozenset(("asf", "avi", "flv", "matroska", "mp4", "mpeg", "mpegts", "ogg"))

_PREFIXES: Final = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),  # BigTIFF
    (b"MM\0+", "tiff"),
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"\0\0\x01\xba", "mpeg"),
    (b"FLV\x01", "flv"),
    (b"0&\xb2u\x8ef\xcf\x11", "asf"),
    (b"OggS", "ogg"),
)
_BMP_HEADER_SIZES: Final = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
_MP4_FIRST_BOXES: Final = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"))
_STILL_BRANDS: Final = {  # None: a brand of HEIF that leaves the codec to the brands that follow
    **dict.fromkeys((b"avif", b"avis"), "avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "heic"),
    **dict.fromkeys((b"mif1", b"mif2", b"msf1"), None),
}
_MAX_BRANDS: Final = 64
_TS_SYNC: Final = 0x47
_TS_PACKET_SIZES: Final = (188, 192)
_TS_PACKETS_SEEN: Final = 5

_OTHER_PREFIXES: Final = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"(\xb5/\xfd", "Zstandard data"),
    (b"8BPS", "a Photoshop document"),
    (b"\0\0\x01\0", "an icon"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"ID3", "MP3 sound"),
    (b"fLaC", "FLAC sound"),
)


def kind_of(name_or_head: str | bytes) -> MediaKind | None:
    """Picture, clip or neither: by the extension of a name (text), or by the first bytes of a file (bytes)."""
    if isinstance(name_or_head, str):
        name = name_or_head.rpartition("/")[2]
        extension = name[dot:].lower() if (dot := name.rfind(".")) > 0 else ""
        known_images, known_videos, claim = IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, extension
    else:
        known_images, known_videos, claim = _IMAGE_FORMATS, _VIDEO_FORMATS, sniff(name_or_head) or ""
    if claim in known_images:
        return "image"
    return "video" if claim in known_videos else None


def sniff(head: bytes) -> str | None:
    """The format of a file that begins with ``head``, or None.

    One of ``avif bmp gif heic jpeg png tiff webp`` or ``asf avi flv matroska mp4 mpeg mpegts ogg``.
    """
    for prefix, name in _PREFIXES:
        if head.startswith(prefix):
            return name
    if head[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "avi"}.get(head[8:12])
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"
    if head[4:8] in _MP4_FIRST_BOXES:
        return _still_format(head) if head[4:12] in {b"ftyp" + brand for brand in _STILL_BRANDS} else "mp4"
    return "mpegts" if _is_mpegts(head) else None


def looks_like(head: bytes) -> str:
    """What a file that begins with ``head`` seems to be, in words, for the detail of a reject."""
    name = sniff(head)
    if name is not None:
        return f"a {name} {'picture' if name in _IMAGE_FORMATS else 'clip'}"
    if head[4:8] == b"ftyp":
        return "an HEIF picture of another kind than AVIF and HEIC"
    for prefix, words in _OTHER_PREFIXES:
        if head.startswith(prefix):
            return words
    return _text_kind(head) or f"unknown bytes ({head[:8].hex(' ')})"


def _still_format(head: bytes) -> str | None:
    """The codec of an HEIF picture: that of its first brand that names one."""
    end = min(int.from_bytes(head[:4], "big"), 16 + 4 * _MAX_BRANDS)
    brands = (head[8:12], *(head[place : place + 4] for place in range(16, end, 4)))
    return next((format for brand in brands if (format := _STILL_BRANDS.get(brand))), None)


def _is_mpegts(head: bytes) -> bool:
    """Whether sync bytes are equally spaced; the first packet may be cut, as in a recording that starts anywhere."""
    return any(
        all(head[place] == _TS_SYNC for place in range(start, start + _TS_PACKETS_SEEN * size, size))
        for size in _TS_PACKET_SIZES
        for start in range(size)
        if start + (_TS_PACKETS_SEEN - 1) * size < len(head)
    )


def _text_kind(head: bytes) -> str | None:
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n").lower()
    if not text or "\0" in text or text.count("\ufffd") > 1:  # one: a character that is cut at the end of the head
        return None
    if text.startswith("version https://git-lfs"):
        return "a Git LFS pointer (the file itself was not fetched)"
    if text.startswith("#extm3u"):
        return "a playlist"
    if "<svg" in text:
        return "an SVG drawing"
    if text.startswith("<"):
        return "an HTML page" if "<html" in text or "<!doctype html" in text else "XML text"
    return "JSON text" if text[0] in "{[" else "text"
