"""The formats that sources are read in; a new one is a file of its own and a line here, or comes with a package."""

from __future__ import annotations

from typing import Final

from mimicit import plugins
from mimicit.sources.format import SourceFormat
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
