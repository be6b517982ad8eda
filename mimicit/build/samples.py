"""From rows of the catalog to finished `Sample`s; the same function serves the plan and the packing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from mimicit.build.catalog import Catalog
from mimicit.context.assemble import Part, assemble
from mimicit.context.choose import Choice
from mimicit.records import Media, Sample

__all__ = ["SampleMaker", "StoredMedia"]

_OPEN_BLOBS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMedia:
    """Where the encoded files of one medium lie: in one file of the work folder, each at an offset (bytes)."""

    file: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class SampleMaker:
    """Makes samples from a frozen catalog, and reads their media bytes; keeps a bounded number of files open."""

    def __init__(self, work: Path) -> None:
        self.catalog = Catalog(work, writable=False)
        self._work = work
        self._blobs: OrderedDict[str, BinaryIO] = OrderedDict()

    def close(self) -> None:
        """Close the catalog and all blob files."""
        self.catalog.close()
        for blob in self._blobs.values():
            blob.close()
        self._blobs.clear()

    def make(self, seq: int, context: Sequence[Choice]) -> tuple[Sample, list[StoredMedia]]:
        """The sample whose query is the triplet ``seq`` with the chosen ``context`` (nearest to the query first)."""
        media: dict[int, Media] = {}
        stored: dict[int, StoredMedia] = {}
        source, id, meta, numbers, texts = self.catalog.db.execute(
            "SELECT source, id, meta, media, parts FROM triplet WHERE seq = ?", (seq,)
        ).fetchone()
        if texts != "[]":
            parts = self._document(id, orjson.loads(numbers), orjson.loads(texts), media, stored)
        else:
            parts = [self._part(choice.seq, media, stored, choice) for choice in reversed(context)]
            parts.append(self._part(seq, media, stored, None))
        sample, shown = assemble(parts, media, id=id, source=self.catalog.source_name(source), meta=orjson.loads(meta))
        return sample, [stored[number] for number in shown]

    def read(self, media: StoredMedia) -> list[bytes]:
        """The bytes of the files of one medium."""
        blob = self._blob(media.file)
        payloads: list[bytes] = []
        for offset, size in zip(media.offsets, media.sizes, strict=True):
            blob.seek(offset)
            payloads.append(blob.read(size))
        return payloads

    def _part(self, seq: int, media: dict[int, Media], stored: dict[int, StoredMedia], choice: Choice | None) -> Part:
        id, instruction, answer, numbers = self.catalog.db.execute(
            "SELECT id, instruction, answer, media FROM triplet WHERE seq = ?", (seq,)
        ).fetchone()
        shown = tuple(orjson.loads(numbers))
        for number in shown:
            if number not in media:
                media[number], stored[number] = self.medium(number)
        return Part(
            id=id,
            media=shown,
            instruction=instruction,
            answer=answer,
            relation=None if choice is None else choice.relation,
            score=None if choice is None else choice.score,
        )

    def _document(
        self,
        id: str,
        numbers: Sequence[int],
        texts: Sequence[tuple[int, str]],
        media: dict[int, Media],
        stored: dict[int, StoredMedia],
    ) -> list[Part]:
        """The parts of an interleaved document: its media in order, each run of them before its text."""
        for number in numbers:
            media[number], stored[number] = self.medium(number)
        parts: list[Part] = []
        start = 0
        for place, (count, text) in enumerate(texts):
            shown = tuple(numbers[start : start + count])
            part_id = id if place == len(texts) - 1 else f"{id}#{place}"
            parts.append(Part(id=part_id, media=shown, instruction="", answer=text, relation="document"))
            start += count
        return parts

    def medium(self, number: int) -> tuple[Media, StoredMedia]:
        """The medium ``number`` of the catalog, and where its bytes lie."""
        text, file, offsets, sizes = self.catalog.db.execute(
            "SELECT media, file, offsets, sizes FROM medium WHERE id = ?", (number,)
        ).fetchone()
        value: dict[str, Any] = orjson.loads(text)
        timestamps = value["timestamps_s"]
        media = Media(
            kind=value["kind"],
            files=tuple(f"{place:03d}.{value['extension']}" for place in range(len(value["sha256"]))),
            width=value["width"],
            height=value["height"],
            sha256=tuple(value["sha256"]),
            origin=value["origin"],
            timestamps_s=None if timestamps is None else tuple(timestamps),
            duration_s=value["duration_s"],
        )
        return media, StoredMedia(file=file, offsets=tuple(orjson.loads(offsets)), sizes=tuple(orjson.loads(sizes)))

    def _blob(self, name: str) -> BinaryIO:
        if name in self._blobs:
            self._blobs.move_to_end(name)
        else:
            if len(self._blobs) >= _OPEN_BLOBS:
                self._blobs.popitem(last=False)[1].close()
            self._blobs[name] = open(self._work / name, "rb")  # noqa: SIM115 - closed by close()
        return self._blobs[name]
