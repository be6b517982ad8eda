"""The formats that sources are read in, and their options; a new one is a file of its own and a line here, or a
package.

Options of a single format, such as the thresholds of MMC4, are numbers and lists of texts that a user may set. A format
declares them as a dataclass of `mimicit.options.option` (see `SourceFormat.options`). What the user has set is in the
`SourceSpec` that is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import orjson

from mimicit import plugins
from mimicit.errors import UsageError, hint
from mimicit.options import Option, check, options_of
from mimicit.sources.format import OptionValue, SourceFormat
from mimicit.sources.formats.alpaca import ALPACA
from mimicit.sources.formats.caption_list import CAPTION_LIST
from mimicit.sources.formats.coco_captions import COCO_CAPTIONS
from mimicit.sources.formats.datasets import DATASETS
from mimicit.sources.formats.folder import FOLDER
from mimicit.sources.formats.imagefolder import IMAGEFOLDER
from mimicit.sources.formats.llava import LLAVA
from mimicit.sources.formats.manifest import MANIFEST
from mimicit.sources.formats.mimicit import MIMICIT
from mimicit.sources.formats.minigpt4 import MINIGPT4
from mimicit.sources.formats.mmc4 import MMC4
from mimicit.sources.formats.obelics import OBELICS
from mimicit.sources.formats.question_answers import QUESTION_ANSWERS
from mimicit.sources.formats.samples import SAMPLES
from mimicit.sources.formats.shards import SHARDS
from mimicit.sources.formats.video_chatgpt import VIDEO_CHATGPT
from mimicit.sources.formats.videochat2 import VIDEOCHAT2
from mimicit.sources.formats.vqav2 import VQAV2
from mimicit.sources.formats.webdataset import WEBDATASET

_OURS: Final[dict[str, SourceFormat]] = {
    # Before the others that read tars: these also hold pictures and JSON.
    "shards": SHARDS,
    # Before the tars of samples: the pictures of these documents may lie in tars, with files that describe them.
    "obelics": OBELICS,
    "mmc4": MMC4,
    "webdataset": WEBDATASET,
    "mimicit": MIMICIT,
    # Before the other tables: these also hold pictures and texts.
    "samples": SAMPLES,
    "datasets": DATASETS,
    "llava": LLAVA,
    # Before the manifest: a list of triplets named like the picture next to it is that picture's sidecar.
    "folder": FOLDER,
    # Of the files with annotations, those that also list the pictures are COCO's.
    "vqav2": VQAV2,
    "question-answers": QUESTION_ANSWERS,
    "coco-captions": COCO_CAPTIONS,
    "minigpt4": MINIGPT4,
    "captions": CAPTION_LIST,
    "video-chatgpt": VIDEO_CHATGPT,
    "videochat2": VIDEOCHAT2,
    "alpaca": ALPACA,
    "manifest": MANIFEST,
    "imagefolder": IMAGEFOLDER,  # takes nothing unless it is asked for
}

SOURCES: Final[dict[str, SourceFormat]] = {**plugins.added(plugins.SOURCES, SourceFormat, _OURS), **_OURS}
"""The formats by name, in the order in which they may claim the files of ``--src``, the most specific first.

Formats of other packages come before ours: they know their own files best.
"""


def declared_options(format: str) -> dict[str, Option]:
    """The options of ``format`` by name; none if there is no such format."""
    declared = SOURCES[format].options if format in SOURCES else None
    return {} if declared is None else {option.key: option for _, option in options_of(declared)}


def checked_options(format: str, values: Mapping[str, object]) -> dict[str, OptionValue]:
    """``values`` as options of ``format``, sorted by name, each of the type of its default.

    `UsageError` if there is no such format or option, or the option does not take the value.
    """
    if format not in SOURCES:
        raise UsageError(f"options: no format {format!r}; {hint(format, sorted(SOURCES))}")
    known = declared_options(format)
    for name in values:
        if name not in known:
            there = hint(name, sorted(known)) if known else "it has none"
            raise UsageError(f"options: the format {format} has no option {name!r}; {there}")
    checked = {name: _of_kind(known[name].kind, f"{format}.{name}", values[name]) for name in sorted(values)}
    if (declared := SOURCES[format].options) is not None:
        check(declared(**checked), f"options: {format}")
    return checked


def parsed_option(text: str) -> tuple[str, str, OptionValue]:
    """(format, name, value) of ``FORMAT.NAME=VALUE``, as the command line takes it; `UsageError` for another form.

    A list of texts is written with commas between them, or as a JSON list.
    """
    place, equals, value = text.partition("=")
    format, dot, name = (part.strip() for part in place.partition("."))
    if not equals or not dot or not name:
        raise UsageError(f"--option: {text!r} is not FORMAT.NAME=NUMBER, such as mmc4.min_similarity=0.2")
    known = declared_options(format)
    if name in known and known[name].kind not in (int, float):
        return format, name, _texts(f"{format}.{name}", _list_or_text(value))
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"--option: {text!r} is not FORMAT.NAME=NUMBER, such as mmc4.min_similarity=0.2")
    return format, name, number


def _list_or_text(text: str) -> object:
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _of_kind(kind: Any, place: str, value: object) -> OptionValue:
    if kind not in (int, float):
        return _texts(place, value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"options: {place} must be a number, not {value!r}")
    if kind is int and value != int(value):
        raise UsageError(f"options: {place} must be a whole number, not {value!r}")
    return kind(value)  # type: ignore[no-any-return]


def _texts(place: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) and text for text in value):
        raise UsageError(f"options: {place} must be a list of texts, not {value!r}")
    return tuple(value)
