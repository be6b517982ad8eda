"""``mmc4``: a folder per source with ``XX.jsonl`` and ``images/``, as MMC4 is published, and a ``mimicit.toml``.

``XX`` is the name of the source. Every sample becomes a document. The chunks of an interleaved document are its
sentences again; of any other sample, each instruction and each answer is a sentence, context first, so that no text is
lost. Pictures belong to the sentence that follows them; the frames of a clip are pictures one after the other. As
similarities are not known, a picture gets 1 for its own sentence and 0 for the others. The free fields of a sample are
fields of its document.

The usual policy of MMC4 would drop small pictures and all after the fifth; the ``mimicit.toml``, which `mimicit build`
reads in the folder of ``--src``, switches it off. So a document comes back as it was if each of its chunks after the
first shows a picture, and any other sample as the document that it was written as.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from mimicit.exporting.base import MediaFolder, Written, append_line, file_names
from mimicit.records import Sample, Triplet

_TAKEN: Final = frozenset({"id", "url", "text_list", "could_have_url_duplicate", "image_info", "similarity_matrix"})
_MIXTURE: Final = """\
# Read by `mimicit build --src` on this folder: all pictures of this export were chosen before.
[options.mmc4]
min_similarity = -1
min_bytes = 0
max_pictures = 0
"""


def export_mmc4(samples: Iterable[Sample], folder: Path, scratch: Path) -> Written:
    """See `mimicit.exporting.base.Exporter`."""
    written = Written()
    images: dict[str, MediaFolder] = {}
    for sample in samples:
        target = images.setdefault(sample.source, MediaFolder(folder / sample.source / "images"))
        for medium in sample.media:
            target.add(medium)
            if medium.kind == "video":
                written.lost["clips"] += 1
        append_line(folder / sample.source / f"{sample.source}.jsonl", _document(sample))
        written.records += 1
    written.media = sum(target.count for target in images.values())
    if written.records:
        (folder / "mimicit.toml").write_text(_MIXTURE)
    return written


def _document(sample: Sample) -> dict[str, Any]:
    sentences: list[str] = []
    images: list[dict[str, Any]] = []
    for triplet in sample.triplets:
        images += [
            {
                "image_name": name,
                "raw_url": sample.media[index].origin,
                "matched_text_index": len(sentences),
                "matched_sim": 1.0,
                "face_detections": None,
            }
            for index in triplet.media
            for name in file_names(sample.media[index])
        ]
        sentences += _sentences(triplet)
    url = sample.meta.get("url")
    return {
        **{name: value for name, value in sample.meta.items() if name not in _TAKEN},
        "id": sample.id,
        "url": url if isinstance(url, str) else f"mimicit:{sample.source}/{sample.key}",
        "text_list": sentences,
        "could_have_url_duplicate": 0,
        "image_info": images,
        "similarity_matrix": [
            [float(image["matched_text_index"] == place) for place in range(len(sentences))] for image in images
        ],
    }


def _sentences(triplet: Triplet) -> list[str]:
    return [text for text in (triplet.instruction, triplet.answer) if text]
