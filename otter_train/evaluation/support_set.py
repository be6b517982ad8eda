"""Context for queries from another set, as few-shot protocols want it: at random, or most similar to the query.

Similarity by picture is RICES (Yang et al., arXiv 2109.05014). Every query is compared with all examples of its own
source if the set has that source, else with all; the most similar stands nearest to it. No example that shows a picture
of the query, or of an example chosen before, or is the query, is ever chosen: the five captions of a picture of COCO
are one example. A copy of a picture in another size or encoding is not recognised, so keep the splits of published sets
apart.

With fewer shots, the examples are the nearest of those with more shots. Memory: the texts and, if pictures or texts are
compared, one byte for each component of a vector per example.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, TypeVar

import numpy as np

from mimicit.embedding.registry import Embedder, image_embedder, text_embedder
from mimicit.embedding.vectors import Float32, Int8, cosines, quantise
from mimicit.errors import UsageError
from mimicit.prompt import drop_context
from mimicit.records import Media, Sample

Item = TypeVar("Item")

SupportContext = Literal["random", "image-similar", "text-similar"]

_BATCH: Final = 256  # examples embedded at once
_BLOCK: Final = 4096  # vectors compared at once
_OF_OTHERS: Final = frozenset(("random", "text_similar", "image_similar", "both_similar"))
"""Relations of context whose pictures a query that shows none is not about."""
_WEIGHED_TEXTS: Final = 20_000  # that the weights of words come from


class _Example(NamedTuple):
    """What is kept of an example: its source and id, its place in the set, and what it is compared by."""

    source: str
    id: str
    position: int
    text: str
    shown: frozenset[str]  # checksums


class Support:
    """The queries of ``samples``, without their context, as examples for other queries; chosen ``by``.

    ``seed`` and the source and id of a query decide its random examples. ``image`` and ``text`` are embedders as in
    `mimicit.embedding.registry`. ``progress`` is called with the number of examples read so far. `UsageError` if there
    are none.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        by: SupportContext,
        *,
        seed: int = 0,
        image: str = "classical",
        text: str = "hashed",
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self._samples = samples
        self._by: SupportContext = by
        self._seed = seed
        self._embedder: Embedder[Any] | None = image_embedder(image) if by == "image-similar" else None
        examples: list[_Example] = []
        vectors: list[Int8] = []
        for batch in _batches(_queries(samples, must_show=by == "image-similar")):
            examples.extend(_example(position, bare) for position, bare in batch)
            if self._embedder is not None:
                vectors.append(quantise(self._embedder.embed([_picture(bare.media) for _, bare in batch])))
            progress(len(examples))
        if not examples:
            raise UsageError(f"--support: no query {'with a picture ' * (by == 'image-similar')}to make context of")
        if by == "text-similar":
            texts = [example.text for example in examples]
            self._embedder = text_embedder(text, texts[:: len(texts) // _WEIGHED_TEXTS + 1])
            vectors = [quantise(self._embedder.embed(part)) for part in _batches(texts)]
        by_source = sorted(range(len(examples)), key=lambda number: examples[number].source)
        self._examples = [examples[number] for number in by_source]
        self._vectors = np.concatenate(vectors)[by_source] if vectors else None
        self._sources: dict[str, slice] = {}
        for number, example in enumerate(self._examples):
            begun = self._sources.get(example.source)
            self._sources[example.source] = slice(number if begun is None else begun.start, number + 1)

    def with_context(self, sample: Sample, shots: int) -> Sample:
        """The query of ``sample`` with up to ``shots`` examples before it, in place of its own context."""
        bare = _without_context(sample)
        media: list[Media] = []
        triplets = []
        for number, score in reversed(list(self._choices(bare, shots))):
            example = _without_context(self._samples[self._examples[number].position])
            places = tuple(index + len(media) for index in example.query.media)
            relation = self._by.replace("-", "_")
            triplets.append(replace(example.query, role="context", media=places, relation=relation, score=score))
            media.extend(example.media)
        places = tuple(index + len(media) for index in bare.query.media)
        return replace(bare, media=(*media, *bare.media), triplets=(*triplets, replace(bare.query, media=places)))

    def _choices(self, bare: Sample, shots: int) -> Iterator[tuple[int, float | None]]:
        """Numbers of examples with their scores, nearest first."""
        mine = _example(0, bare)
        shown = set(mine.shown)
        group = self._sources.get(bare.source, slice(0, len(self._examples)))
        scores = self._scores(bare, group)
        if scores is None:
            order = np.random.default_rng(_bits(self._seed, bare)).permutation(group.stop - group.start)
        else:
            order = np.argsort(-scores, kind="stable")
        for place in order.tolist():
            if shots <= 0:
                return
            example = self._examples[group.start + place]
            if shown.isdisjoint(example.shown) and (example.source, example.id) != (mine.source, mine.id):
                shots -= 1
                shown |= example.shown
                yield group.start + place, None if scores is None else float(scores[place])

    def _scores(self, bare: Sample, group: slice) -> Float32 | None:
        """float32[group]: the cosine of the query with each of ``group``; None if nothing can be compared."""
        if self._embedder is None or self._vectors is None or (self._by == "image-similar" and not bare.media):
            return None
        item = _picture(bare.media) if self._by == "image-similar" else bare.query.instruction
        query = quantise(self._embedder.embed([item]))
        vectors = self._vectors[group]
        blocks = [cosines(query, vectors[start : start + _BLOCK])[0] for start in range(0, len(vectors), _BLOCK)]
        found: Float32 = np.concatenate(blocks)
        return found


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    left = iter(items)
    while batch := list(islice(left, _BATCH)):
        yield batch


def _queries(samples: Sequence[Sample], *, must_show: bool) -> Iterator[tuple[int, Sample]]:
    for position in range(len(samples)):
        bare = _without_context(samples[position])
        if bare.query.relation != "document" and (bare.media or not must_show):
            yield position, bare


def _without_context(sample: Sample) -> Sample:
    """``sample`` with its query alone; what that is about stays, though a turn or question before it shows it."""
    if not sample.query.media and all(one.relation in _OF_OTHERS for one in sample.context):
        return replace(sample, media=(), triplets=(sample.query,))
    return drop_context(sample, len(sample.context))


def _example(position: int, bare: Sample) -> _Example:
    shown = frozenset(checksum for media in bare.media for checksum in media.sha256)
    return _Example(bare.source, bare.id, position, bare.query.instruction, shown)


def _picture(media: Sequence[Media]) -> bytes:
    """The stored picture that stands for what a query shows: the last, or the middle frame of a clip."""
    frames = media[-1].data
    return frames[len(frames) // 2]


def _bits(seed: int, bare: Sample) -> int:
    """64 random bits that depend on the content alone."""
    text = "\0".join((str(seed), "support", bare.source, bare.id))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
