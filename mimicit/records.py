"""The three records of the shard format: `Media`, `Triplet`, `Sample`.

They mirror ``schemas/sample.json`` field by field (a test compares them); `sample_to_json` and `sample_from_json`
convert them, and are inverse to each other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from mimicit.errors import CorruptShardError
from mimicit.notebook import decode_stored, media_html, sample_html, triplet_html

if TYPE_CHECKING:
    from PIL import Image

FORMAT: Final = "mimicit/1"

MediaKind = Literal["image", "video"]
Role = Literal["context", "query"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One picture, or one video as an ordered list of frames.

    ``files`` are the member suffixes inside the shard (``"000.jpg"``), one for a picture, one per frame for
    a video; ``sha256`` are the hashes of the stored bytes, in the same order. ``width`` and ``height`` are in
    pixels. ``timestamps_s`` (seconds from the start of the clip, one per frame) and ``duration_s`` exist for
    videos only. ``data`` holds the stored bytes of each file if they have been read, else it is empty; it is not
    part of the JSON.
    """

    kind: MediaKind
    files: tuple[str, ...]
    width: int
    height: int
    sha256: tuple[str, ...]
    origin: str
    timestamps_s: tuple[float, ...] | None = None
    duration_s: float | None = None
    data: tuple[bytes, ...] = field(default=(), repr=False)

    def to_pil(self) -> Image.Image | list[Image.Image]:
        """The picture, or the frames of a video; `CorruptShardError` if the bytes were not read or are damaged."""
        if len(self.data) != len(self.files):
            raise CorruptShardError(f"{self.origin}: the bytes of {len(self.files)} file(s) have not been read")
        frames = [decode_stored(data, self.width, self.height) for data in self.data]
        return frames if self.kind == "video" else frames[0]

    def _repr_html_(self) -> str:
        return media_html(self.kind, (self.width, self.height), self.origin, len(self.files), self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Triplet:
    """The paper's image-instruction-answer triplet.

    ``media`` are indices into `Sample.media`: what is shown right before this triplet's text, in order. A
    later turn about the picture that was just shown has none. ``relation`` says why a context triplet was
    chosen (``related``, ``conversation``, ``same_media``, ``random``, ...), or is ``document`` on every
    triplet of an interleaved web document; ``score`` is the similarity if the relation has one.
    """

    id: str
    role: Role
    media: tuple[int, ...]
    instruction: str
    answer: str
    relation: str | None = None
    score: float | None = None

    def _repr_html_(self) -> str:
        return self._html("")

    def _html(self, media: str) -> str:
        why = f"{self.relation or ''}{'' if self.score is None else f' {self.score:.3f}'}"
        return triplet_html(self.role, why.strip(), self.id, self.instruction, self.answer, media)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One in-context sample: context triplets and, last, the query (the paper's MIMIC-IT sample).

    Every index of ``media`` is used by exactly one triplet, in order; so the number of ``<image>`` tokens of
    the prompt always equals ``len(media)``.
    """

    id: str
    source: str
    media: tuple[Media, ...]
    triplets: tuple[Triplet, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The WebDataset key, a function of source and id (see `sample_key`)."""
        return sample_key(self.source, self.id)

    @property
    def query(self) -> Triplet:
        """The queried triplet: the last one."""
        return self.triplets[-1]

    @property
    def context(self) -> tuple[Triplet, ...]:
        """The context triplets, farthest from the query first."""
        return self.triplets[:-1]

    def _repr_html_(self) -> str:
        shown = ["".join(self.media[index]._repr_html_() for index in triplet.media) for triplet in self.triplets]
        parts = [triplet._html(media) for triplet, media in zip(self.triplets, shown, strict=True)]
        return sample_html(self.id, self.source, parts)


_NOT_IN_KEY = re.compile(r"[^a-z0-9_-]+")


def sample_key(source: str, id: str) -> str:
    """The WebDataset key of the sample ``id`` of ``source``: a readable slug and 64 bits of a hash.

    Matches ``[a-z0-9_-]{1,80}`` whatever the id holds (WebDataset cuts keys at the first dot, Windows ignores
    case); the hash keeps ids apart that share a slug, and the same id of two sources.
    """
    slug = _NOT_IN_KEY.sub("-", id.lower()).strip("-")[:63]
    digest = hashlib.blake2b(f"{source}\0{id}".encode(), digest_size=8).hexdigest()
    return f"{slug}-{digest}" if slug else digest


def sample_to_json(sample: Sample) -> dict[str, Any]:
    """The value of ``{key}.json`` for ``sample``; optional fields that are absent are left out."""
    return {
        "format": FORMAT,
        "id": sample.id,
        "source": sample.source,
        "media": [_media_to_json(media) for media in sample.media],
        "triplets": [_triplet_to_json(triplet) for triplet in sample.triplets],
        "meta": dict(sample.meta),
    }


def sample_from_json(value: Mapping[str, Any], data: Sequence[Sequence[bytes]] | None = None) -> Sample:
    """The `Sample` of a JSON value that matches ``schemas/sample.json``.

    ``data[i]`` are the stored bytes of the files of medium *i*, if they have been read.
    """
    return Sample(
        id=value["id"],
        source=value["source"],
        media=tuple(
            Media(
                kind=media["kind"],
                files=tuple(media["files"]),
                width=media["width"],
                height=media["height"],
                sha256=tuple(media["sha256"]),
                origin=media["origin"],
                timestamps_s=tuple(media["timestamps_s"]) if "timestamps_s" in media else None,
                duration_s=media.get("duration_s"),
                data=tuple(data[index]) if data is not None else (),
            )
            for index, media in enumerate(value["media"])
        ),
        triplets=tuple(
            Triplet(
                id=triplet["id"],
                role=triplet["role"],
                media=tuple(triplet["media"]),
                instruction=triplet["instruction"],
                answer=triplet["answer"],
                relation=triplet.get("relation"),
                score=triplet.get("score"),
            )
            for triplet in value["triplets"]
        ),
        meta=dict(value["meta"]),
    )


def _media_to_json(media: Media) -> dict[str, Any]:
    value: dict[str, Any] = {
        "kind": media.kind,
        "files": list(media.files),
        "width": media.width,
        "height": media.height,
        "sha256": list(media.sha256),
        "origin": media.origin,
    }
    if media.timestamps_s is not None:
        value["timestamps_s"] = list(media.timestamps_s)
    if media.duration_s is not None:
        value["duration_s"] = media.duration_s
    return value


def _triplet_to_json(triplet: Triplet) -> dict[str, Any]:
    value: dict[str, Any] = {
        "id": triplet.id,
        "role": triplet.role,
        "media": list(triplet.media),
        "instruction": triplet.instruction,
        "answer": triplet.answer,
    }
    if triplet.relation is not None:
        value["relation"] = triplet.relation
    if triplet.score is not None:
        value["score"] = triplet.score
    return value
