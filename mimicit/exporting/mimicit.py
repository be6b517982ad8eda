"""``mimicit``: MIMIC-IT as released; a folder per source with ``XX_instructions.json``, ``XX.json``, ``XX_train.json``.

``XX`` is the name of the source. Pictures are base64 text under an id made of their hash. A clip is the list of the ids
of its frames, which begin with ``DC_`` as in Dense Captions, so that readers recognise a clip. Its times, and
where it begins and ends among other media, stand in a field of our own (see `mimicit.sources.formats.mimicit_ids`).
``XX_train.json`` holds the queries with their context, nearest first.
"""

from __future__ import annotations

import base64
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from mimicit.exporting.base import Written, stored_files, write_object
from mimicit.exporting.triplets import GatheredTriplet, Shown, TripletStore
from mimicit.records import Media, MediaKind, Sample
from mimicit.sources.formats.mimicit_ids import CLIPS

_META: Final = {"version": "0.0.1", "author": "mimicit export"}


def export_mimicit(samples: Iterable[Sample], folder: Path, scratch: Path) -> Written:
    """See `mimicit.exporting.base.Exporter`."""
    written = Written()
    pictures = _Pictures(folder, scratch)
    with TripletStore(scratch) as store:
        for sample in samples:
            store.add(sample)
            for medium in sample.media:
                pictures.add(sample.source, medium)
        written.media = pictures.finish()
        for source in store.sources():
            place = folder / source
            written.records += write_object(
                place / f"{source}_instructions.json",
                _instructions(store.triplets(source), written),
                start=b'{"meta": ' + orjson.dumps(_META) + b', "data": {\n',
                end=b"\n}}\n",
            )
            queries = ((t.id, t.related) for t in store.triplets(source) if t.is_query and not t.parts)
            write_object(place / f"{source}_train.json", queries)
    return written


def _instructions(triplets: Iterable[GatheredTriplet], written: Written) -> Iterator[tuple[str, dict[str, Any]]]:
    for triplet in triplets:
        if triplet.parts:
            written.lost["documents"] += 1
            continue
        clips = list(_clips(triplet.media))
        yield (
            triplet.id,
            {
                **triplet.meta,
                "instruction": triplet.instruction,
                "answer": triplet.answer,
                "image_ids": [id for shown in triplet.media for id in _picture_ids(shown.kind, shown.names)],
                **({CLIPS: clips} if clips else {}),
                "rel_ins_ids": triplet.related,
            },
        )


def _clips(media: Iterable[Shown]) -> Iterator[dict[str, Any]]:
    """Which of the ids of ``media`` are the frames of clips, and when each is shown."""
    first = 0
    for shown in media:
        if shown.kind == "video":
            times = {"timestamps_s": shown.timestamps_s, "duration_s": shown.duration_s}
            yield {"first": first, "frames": len(shown.names), **times}
        first += len(shown.names)


def _picture_ids(kind: MediaKind, names: Sequence[str]) -> list[str]:
    """The ids of the files called ``names``: by their hash for a picture, by that of the whole clip for its frames."""
    if kind == "image":
        return [f"IMG_{name.partition('.')[0]}" for name in names]
    clip = hashlib.sha256("".join(names).encode()).hexdigest()
    return [f"DC_IMG_{clip}_{number:04d}" for number in range(len(names))]


class _Pictures:
    """The ``XX.json`` of every source, written while the samples go by; each picture and each clip once."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._folder = folder
        self._db = sqlite3.connect(scratch / "pictures.sqlite", isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE picture(source TEXT, id TEXT, PRIMARY KEY(source, id)) WITHOUT ROWID; BEGIN;"
        )
        self._begun: set[Path] = set()
        self._count = 0

    def add(self, source: str, media: Media) -> None:
        """Append the pictures of ``media`` that are not there yet."""
        files = list(stored_files(media))
        ids = _picture_ids(media.kind, [name for name, _ in files])
        for id, (_, data) in zip(ids, files, strict=True):
            if self._db.execute("INSERT OR IGNORE INTO picture VALUES (?, ?)", (source, id)).rowcount:
                self._append(self._folder / source / f"{source}.json", id, data)

    def finish(self) -> int:
        """Close the JSON objects; return how many pictures they hold."""
        self._db.close()
        for path in self._begun:
            with open(path, "ab") as file:
                file.write(b"\n}\n")
        return self._count

    def _append(self, path: Path, id: str, data: bytes) -> None:
        # Opened for each picture: there may be more sources than files may be open.
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(b",\n" if path in self._begun else b"{\n")
            file.write(orjson.dumps(id) + b': "' + base64.b64encode(data) + b'"')
        self._begun.add(path)
        self._count += 1
