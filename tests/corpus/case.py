"""What a raw folder of the corpus holds, and every sample that a build of it must give."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mimicit.pipeline import BuildConfig

Colour = tuple[int, int, int]
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


@dataclass(frozen=True, slots=True)
class Says:
    """One sample of a build without context: the colours of the media that it shows, in order, and its text.

    An ``instruction`` of None is any, for captions draw theirs from a pool; so are ``sizes`` (width, height) of None.
    """

    answer: str
    shows: tuple[Colour, ...] = ()
    instruction: str | None = None
    sizes: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One raw folder: ``write`` lays it out, and a build of it gives ``says`` and nothing else.

    ``rejects`` counts the records that are left out, by reason, and ``notes`` what is said of others, by kind;
    ``unused`` are the files that must be named as used by nobody. ``config`` are options of `BuildConfig`.
    """

    name: str
    write: Callable[[Path], None]
    says: tuple[Says, ...]
    rejects: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    def build_config(self) -> BuildConfig:
        return BuildConfig(**{"context": "none", **self.config})


def picture(colour: Colour, format: str = "PNG", size: tuple[int, int] = (64, 48)) -> bytes:
    """A picture of one colour; `seen_colour` finds it again in whatever a build makes of it."""
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, format)
    return data.getvalue()


def numbered(number: int) -> Colour:
    """The colour that stands for the picture ``number`` (0 to 215) of a record; any two are far apart."""
    return number // 36 * 51, number // 6 % 6 * 51, number % 6 * 51


def seen_colour(data: bytes) -> Colour:
    """The colour in the middle of the picture ``data``, with each channel rounded to a multiple of 51."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    red, green, blue = image.getpixel((image.width // 2, image.height // 2))  # type: ignore[misc]
    return tuple(round(channel / 51) * 51 for channel in (red, green, blue))  # type: ignore[return-value]
