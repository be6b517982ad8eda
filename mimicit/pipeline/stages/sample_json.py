"""Write many samples at a time as the rows of SAMPLES: their JSON, and their columns of the index.

The JSON is byte for byte what `mimicit.schema.canonical_json` makes of each sample; a test compares both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from mimicit.pipeline.parts import ColumnFile
from mimicit.pipeline.ragged import Numbers, Pieces, before, flat, list_array, owners, starts, sums
from mimicit.pipeline.tables import samples_schema
from mimicit.records import FORMAT, sample_key
from mimicit.schema import canonical_json
from mimicit.shards.tar import member_span

_MEDIA_KEPT: Final = 1 << 14  # descriptions of media, some 10 MB
_FIXED: Final = (
    b'{"format":"%b","id":"' % FORMAT.encode(),
    b'","media":[',
    b'],"meta":',
    b'{"answer":"',
    b'","id":"',
    b'","instruction":"',
)
_BEGIN, _MEDIA, _META, _ANSWER, _ID, _INSTRUCTION = range(len(_FIXED))
_PER_SAMPLE: Final = 6  # pieces, without those of its media and triplets
_PER_MEDIUM: Final = 2
_PER_TRIPLET: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Samples before they are written.

    ``said`` has the columns id, instruction, answer and media (rows of MEDIA) of triplets. ``triplets`` are rows of
    ``said``, sample by sample: ``counts`` for each sample, its query last. ``reasons`` gives each of them its place in
    ``why``: (relation, score).
    """

    said: pa.RecordBatch
    triplets: Numbers
    reasons: Numbers
    why: Sequence[tuple[str | None, float | None]]
    counts: Numbers
    sources: Sequence[str]
    meta: pa.Array


class _Medium(NamedTuple):
    """A medium's counts for the index, and its JSON around the names of its files; ``span`` is its bytes in a shard."""

    files: int
    span: int
    videos: int
    before_names: bytes
    extension: str
    after_names: bytes


class SampleWriter:
    """Writes samples whose media are rows of ``media``, the table MEDIA, and whose context has these ``relations``."""

    def __init__(self, media: ColumnFile, relations: Sequence[str]) -> None:
        self.schema = samples_schema(relations)
        self._relations = list(relations)
        self._medium = lru_cache(_MEDIA_KEPT)(partial(_medium, media))

    def rows(self, chosen: Chosen) -> pa.RecordBatch:
        """The rows of SAMPLES."""
        said, counts = chosen.said, chosen.counts
        shows = _shown_anew(said.column("media"), chosen.triplets, owners(counts))
        media, shown = flat(said.column("media"), chosen.triplets[shows])
        new = np.zeros(len(chosen.triplets), np.int64)
        new[shows] = shown
        media_counts = sums(new, counts)
        numbers, which = np.unique(media, return_inverse=True)
        known = [self._medium(number) for number in numbers.tolist()]
        facts = np.array([medium[:3] for medium in known], np.int64).reshape(-1, 3)[which].T
        json = _json(chosen, new, media_counts, known, which)
        queries = chosen.triplets[np.cumsum(counts) - 1]
        ids = said.column("id").take(pa.array(queries))
        characters = sum(pc.utf8_length(said.column(name)).to_numpy() for name in ("instruction", "answer"))
        files, span, videos = (sums(fact, media_counts) for fact in facts)
        sizes = pc.binary_length(json).to_numpy()
        columns: dict[str, Any] = {
            "key": list(map(sample_key, chosen.sources, ids.to_numpy(zero_copy_only=False).tolist())),
            "id": ids,
            "source": chosen.sources,
            "json": json,
            "digest": _digests(json),
            "media": list_array(pa.array(media), media_counts),
            "size": np.array([member_span(size) for size in sizes.tolist()]) + span,
            "relations": _relation_counts(chosen, self._relations),
            "triplets": counts,
            "videos": videos,
            "frames": files,
            "characters": sums(characters[chosen.triplets], counts),
        }
        arrays = (
            values if isinstance(values, pa.Array) else pa.array(values, self.schema.field(name).type)
            for name, values in columns.items()
        )
        return pa.record_batch(list(arrays), schema=self.schema)


def _json(chosen: Chosen, new: Numbers, media_counts: Numbers, known: Sequence[_Medium], media: Numbers) -> pa.Array:
    """The JSON of each sample; ``new`` is how many of ``media`` (places in ``known``) each triplet shows."""
    said, triplets, counts = chosen.said, chosen.triplets, chosen.counts
    first = before(new, counts)
    first[new == 0] = 0
    is_query = np.zeros(len(triplets), np.int64)
    is_query[np.cumsum(counts) - 1] = 1
    tails, tail = _distinct(
        lambda reason, first, count, query: _tail(chosen.why[reason], first, count, is_query=bool(query)),
        *(chosen.reasons, first, new, is_query),
    )
    files = np.array([medium.files for medium in known], np.int64)[media]
    kinds = {kind: place for place, kind in enumerate(sorted({(one.before_names, one.extension) for one in known}))}
    kind = np.array([kinds[one.before_names, one.extension] for one in known], np.int64)[media]
    begins_of_media, begin_of_medium = _distinct(
        partial(_before_and_names, list(kinds)), kind, before(files, media_counts), files
    )
    sources = sorted(set(chosen.sources))
    source = np.array([sources.index(name) for name in chosen.sources])

    pieces = Pieces()
    pieces.add(_FIXED)
    answers, ids, instructions = (pieces.add_texts(said.column(name)) for name in ("answer", "id", "instruction"))
    after_meta = pieces.add([b',"source":%b,"triplets":[' % orjson.dumps(name) for name in sources]) + source
    meta = pieces.add(chosen.meta) + np.arange(len(counts))
    tail += pieces.add(tails)
    medium = (
        pieces.add(begins_of_media) + begin_of_medium,
        pieces.add([medium.after_names for medium in known]) + media,
    )

    lengths = _PER_SAMPLE + _PER_MEDIUM * media_counts + _PER_TRIPLET * counts
    begins = starts(lengths)
    order = np.empty(lengths.sum(), np.int64)
    for place, piece in enumerate((_BEGIN, ids + triplets[np.cumsum(counts) - 1], _MEDIA)):
        order[begins + place] = piece
    media_begins = np.repeat(begins + 3 - _PER_MEDIUM * starts(media_counts), media_counts)
    media_begins += _PER_MEDIUM * np.arange(len(media))
    for place, piece in enumerate(medium):
        order[media_begins + place] = piece
    for place, piece in enumerate((_META, meta, after_meta), 3):
        order[begins + _PER_MEDIUM * media_counts + place] = piece
    triplet = np.repeat(begins + _PER_SAMPLE + _PER_MEDIUM * media_counts - _PER_TRIPLET * starts(counts), counts)
    triplet += _PER_TRIPLET * np.arange(len(triplets))
    texts = (_ANSWER, answers + triplets, _ID, ids + triplets, _INSTRUCTION, instructions + triplets, tail)
    for place, piece in enumerate(texts):
        order[triplet + place] = piece
    return pieces.joined(order, begins)


def _shown_anew(media: pa.ListArray, triplets: Numbers, samples: Numbers) -> Numbers:
    """The places of the triplets that show their media right before their text.

    A triplet does not if exactly its media were the last that the sample showed: its text is then about those. (Text
    attends to the picture right before it, so an earlier picture must be shown again.)
    """
    offsets, values = media.offsets.to_numpy(), media.values.to_numpy()
    if np.diff(offsets).max() <= 1:
        of_said = np.zeros(len(media), np.int64)
        of_said[np.diff(offsets) == 1] = values[offsets[0] : offsets[-1]] + 1
    else:
        known: dict[tuple[int, ...], int] = {(): 0}
        lists = (tuple(values[first:end].tolist()) for first, end in pairwise(offsets.tolist()))
        of_said = np.array([known.setdefault(numbers, len(known)) for numbers in lists])
    about = of_said[triplets]
    showing = np.flatnonzero(about)
    here, there = showing[1:], showing[:-1]
    is_new = (about[here] != about[there]) | (samples[here] != samples[there])
    anew: Numbers = showing[np.append(np.ones(min(1, len(showing)), np.bool_), is_new)]
    return anew


def _distinct(make: Callable[..., bytes], *keys: Numbers) -> tuple[list[bytes], Numbers]:
    """(results of ``make`` for the distinct rows of ``keys``, the place of its result for every row)."""
    codes = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        codes = codes * (int(key.max(initial=0)) + 1) + key
    _, first, places = np.unique(codes, return_index=True, return_inverse=True)
    return [make(*values) for values in zip(*(key[first].tolist() for key in keys), strict=True)], places


def _tail(why: tuple[str | None, float | None], first: int, count: int, *, is_query: bool) -> bytes:
    """The JSON after the instruction of a triplet that shows ``count`` media of its sample, from ``first`` on."""
    (relation, score), role = why, "query" if is_query else "context"
    value = {"media": list(range(first, first + count)), "relation": relation, "role": role, "score": score}
    json = canonical_json({name: part for name, part in value.items() if part is not None})
    return b'",' + json[1:] + (b"]}" if is_query else b",")


def _relation_counts(chosen: Chosen, relations: list[str]) -> pa.StructArray:
    """How many triplets each sample has of each of the ``relations``."""
    places = np.array([-1 if name is None else relations.index(name) for name, _ in chosen.why])[chosen.reasons]
    samples, size = owners(chosen.counts), len(chosen.counts) * len(relations)
    found = np.bincount((samples * len(relations) + places)[places >= 0], minlength=size).reshape(-1, len(relations))
    return pa.StructArray.from_arrays([pa.array(column, pa.int32()) for column in found.T], relations)


def _digests(texts: pa.Array) -> list[bytes]:
    """The SHA-256 of each text."""
    _, offsets, data = texts.buffers()
    whole, ends = memoryview(data), np.frombuffer(offsets, np.int64).tolist()
    return [hashlib.sha256(whole[first:end]).digest() for first, end in pairwise(ends)]


def _medium(media: ColumnFile, number: int) -> _Medium:
    """The medium in row ``number`` of MEDIA."""
    value = {name: part for name, part in orjson.loads(media.data("media", number)).items() if part is not None}
    extension, is_video = value.pop("extension"), value["kind"] == "video"
    sizes = media.integers("sizes", number)
    begin, _, end = canonical_json(value | {"files": []}).partition(b'"files":[')  # no text holds a bare quotation mark
    return _Medium(len(sizes), sum(map(member_span, sizes)), int(is_video), begin + b'"files":[', extension, end)


def _before_and_names(kinds: Sequence[tuple[bytes, str]], kind: int, files_before: int, files: int) -> bytes:
    """The JSON of a medium up to the names of its ``files``; its sample has ``files_before`` files before it."""
    begin, extension = kinds[kind]
    names = ",".join(f'"{place:03d}.{extension}"' for place in range(files_before, files_before + files))
    return (b"," if files_before else b"") + begin + names.encode()
