"""``files``: a folder per source with ``manifest.jsonl`` and ``media/``, which `mimicit build` reads again.

One row per triplet. ``related`` are the ids of its context, nearest first, as the publisher of a manifest would write
them; ``query: false`` marks a triplet that is never asked about. A clip is the list of its frames with their times. An
interleaved document is one row with ``document``. The folder of a source can be moved by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from mimicit.exporting.base import MediaFolder, Written, write_lines
from mimicit.exporting.triplets import GatheredTriplet, Shown, TripletStore
from mimicit.records import Sample

_MEDIA: Final = "media"


def export_files(samples: Iterable[Sample], folder: Path, scratch: Path) -> Written:
    """See `mimicit.exporting.base.Exporter`."""
    written = Written()
    with TripletStore(scratch) as store:
        written.media = gather(samples, store, folder)
        for source in store.sources():
            rows = map(_row, store.triplets(source))
            written.records += write_lines(folder / source / "manifest.jsonl", rows)
    return written


def gather(samples: Iterable[Sample], store: TripletStore, folder: Path) -> int:
    """Add all ``samples`` to ``store`` and their media to the folders of their sources; return the number of files."""
    media: dict[str, MediaFolder] = {}
    for sample in samples:
        store.add(sample)
        target = media.setdefault(sample.source, MediaFolder(folder / sample.source / _MEDIA))
        for medium in sample.media:
            target.add(medium)
    return sum(target.count for target in media.values())


def media_value(shown: Shown) -> str | dict[str, Any]:
    """A picture as its path from the table; a clip as an object with its frames and their times (s)."""
    paths = [f"{_MEDIA}/{name}" for name in shown.names]
    if shown.kind == "image":
        return paths[0]
    return {"frames": paths, "timestamps_s": shown.timestamps_s, "duration_s": shown.duration_s}


def _row(triplet: GatheredTriplet) -> dict[str, Any]:
    row: dict[str, Any] = {"id": triplet.id}
    if triplet.parts:
        row["document"] = list(_pieces(triplet))
    else:
        row["media"] = [media_value(shown) for shown in triplet.media]
        row["instruction"] = triplet.instruction
        row["answer"] = triplet.answer
    if triplet.related:
        row["related"] = triplet.related
    if not triplet.is_query:
        row["query"] = False
    if triplet.meta:
        row["meta"] = triplet.meta
    return row


def _pieces(triplet: GatheredTriplet) -> Iterator[dict[str, Any]]:
    start = 0
    for count, text in triplet.parts:
        if count:
            yield {"media": [media_value(shown) for shown in triplet.media[start : start + count]]}
        yield {"text": text}
        start += count
