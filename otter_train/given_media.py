"""A person's picture or clip as `Media`, prepared exactly as ``mimicit build`` prepares training data."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from mimicit.errors import RejectedError, UsageError
from mimicit.media import EncodedMedia, MediaOptions, encode_image, encode_video
from mimicit.records import Media, MediaKind

__all__ = ["media_from_bytes", "media_from_file"]

_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+]+:/", re.IGNORECASE)


def media_from_file(path: Path, kind: MediaKind, options: MediaOptions) -> Media:
    """The picture or the clip in the file ``path``; `UsageError` names it and says why it cannot be used."""
    if _ADDRESS.match(str(path)):  # in which a path has one slash less
        raise UsageError(f"{path.name}: {kind}s are read from files, not from addresses; download it first")
    try:
        encoded = encode_video(path, options) if kind == "video" else encode_image(path.read_bytes(), options)
    except RejectedError as error:
        raise UsageError(f"{path}: cannot be used ({error})") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    return _media(encoded, str(path))


def media_from_bytes(data: bytes, options: MediaOptions, *, origin: str) -> Media:
    """The picture ``data``; `RejectedError` where it is none, or larger than ``options`` allow."""
    return _media(encode_image(data, options), origin)


def _media(encoded: EncodedMedia, origin: str) -> Media:
    return Media(
        kind=encoded.kind,
        files=tuple(f"{place:03d}.{encoded.extension}" for place in range(len(encoded.files))),
        width=encoded.width,
        height=encoded.height,
        sha256=tuple(hashlib.sha256(data).hexdigest() for data in encoded.files),
        origin=origin,
        timestamps_s=encoded.timestamps_s,
        duration_s=encoded.duration_s,
        data=encoded.files,
    )
