"""From samples to HTML: the values for the templates, which escape every text; no text is ever marked as safe.

`masked_prompt` shows which characters of a prompt a model learns: the label mask of training, drawn over the text
instead of tokens. The rules are those of ``otter_train.data.encoding.label_ids`` (a test compares them); this needs
neither a tokenizer nor torch. The tokenizer's own tokens for the beginning and the end of the text are not part of the
prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Literal
from urllib.parse import urlencode

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined

from mimicit.errors import CorruptShardError, MimicitError
from mimicit.inspecting.context_quality import Pair
from mimicit.inspecting.stored_samples import StoredSamples
from mimicit.prompt import ANSWER, ENDOFCHUNK, IMAGE, render
from mimicit.records import Media, Sample, Triplet
from mimicit.sources.shown_media import media_of_triplets
from mimicit.viewing.gallery import Criteria

LONG_TEXT: Final = 4000
"""Characters of a text that are shown before the rest is folded."""

LONGEST_TEXT: Final = 1_000_000
_FRAMES_IN_STRIP: Final = 64

LabelMode = Literal["span", "paper"]
LABEL_MODES: Final = ("span", "paper")

_TOKENS: Final = re.compile("|".join(map(re.escape, (ANSWER, ENDOFCHUNK, IMAGE))))


@dataclass(frozen=True, slots=True)
class Figure:
    """A medium, and the number of its first file over all media of the sample."""

    media: Media
    first: int

    @property
    def strip(self) -> range:
        """The numbers of the files that are shown side by side, at most 64."""
        return range(self.first, self.first + min(len(self.media.files), _FRAMES_IN_STRIP))


@dataclass(frozen=True, slots=True)
class Turn:
    """A triplet with the figures that it shows."""

    triplet: Triplet
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """One sample in a list; ``fault`` says why there is no ``sample``.

    ``seen`` are the figures that the query is about; ``earlier`` is true if the query does not show them itself.
    """

    row: int
    sample: Sample | None
    turns: tuple[Turn, ...]
    fault: str
    seen: tuple[Figure, ...] = ()
    earlier: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """A context triplet next to the query that it was chosen for, each with the figures that it is about."""

    pair: Pair
    sample: Sample
    sides: tuple[Turn, Turn]


def card_at(stored: StoredSamples, row: int) -> Card:
    """The sample at ``row``, or what is wrong with it; its media are not read."""
    try:
        sample = stored.peek(row)
        turns = turns_of(sample)
        return Card(row, sample, turns, "", _seen(sample, turns)[-1], earlier=not sample.query.media)
    except MimicitError as error:
        return Card(row, None, (), str(error))


def comparison_at(stored: StoredSamples, pair: Pair) -> Comparison:
    """What ``pair`` compares; errors as `StoredSamples.peek` and `turns_of`."""
    sample = stored.peek(pair.row)
    seen = _seen(sample, turns_of(sample))
    context, query = (Turn(sample.triplets[place], seen[place]) for place in (pair.place, -1))
    return Comparison(pair, sample, (context, query))


def turns_of(sample: Sample) -> tuple[Turn, ...]:
    """The triplets of ``sample`` with their figures; `CorruptShardError` if one shows a medium that is not there."""
    firsts = [0]
    for media in sample.media:
        firsts.append(firsts[-1] + len(media.files))
    if any(index >= len(sample.media) for triplet in sample.triplets for index in triplet.media):
        raise CorruptShardError(f"sample {sample.key}: a triplet shows a medium that it does not have")
    return tuple(
        Turn(triplet, tuple(Figure(sample.media[index], firsts[index]) for index in triplet.media))
        for triplet in sample.triplets
    )


def render_page(name: str, values: Mapping[str, Any]) -> str:
    """The page of the template ``name``."""
    return _ENVIRONMENT.get_template(name).render(values)


@dataclass(frozen=True, slots=True)
class Span:
    """A run of the prompt: its text, and whether a model learns to say it."""

    text: str
    is_learned: bool


def masked_prompt(sample: Sample, template: str = "otter", mode: LabelMode = "span") -> list[Span]:
    """The prompt of ``sample`` in runs; their texts joined are `render`'s.

    Learned with ``span``: in each chunk what follows ``<answer>`` up to and including ``<|endofchunk|>``; in a chunk
    without ``<answer>`` (an interleaved document) all but its ``<image>``. Learned with ``paper``: all after the first
    ``<answer>`` but ``<answer>`` and ``<image>``, so later instructions too; without any ``<answer>``, as with
    ``span``. `UsageError` for an unknown template.
    """
    pieces = list(_pieces(render(sample, template)))
    marked = _paper(pieces) if mode == "paper" and ANSWER in pieces else _span(pieces)
    return [
        Span("".join(text for text, _ in run), is_learned)
        for is_learned, run in groupby(marked, key=lambda piece: piece[1])
    ]


def _seen(sample: Sample, turns: tuple[Turn, ...]) -> list[tuple[Figure, ...]]:
    """For each triplet the figures that it is about; an earlier triplet may be the one that shows them."""
    figures = {index: figure for t in turns for index, figure in zip(t.triplet.media, t.figures, strict=True)}
    return [tuple(figures[index] for index in about.media) for about in media_of_triplets(sample)]


def _address(path: str, criteria: Criteria | None, **parameters: Any) -> str:
    """``path`` with the filter and the ``parameters``; empty ones are left out."""
    parts = [
        criteria.query if criteria else "",
        urlencode({name: value for name, value in parameters.items() if value not in ("", None)}),
    ]
    query = "&".join(part for part in parts if part)
    return f"{path}?{query}" if query else path


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most].rstrip()}…"


def _json_text(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mimicit.viewing"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(address=_address, LONG_TEXT=LONG_TEXT, LONGEST_TEXT=LONGEST_TEXT)
    environment.filters.update(cut=_cut, json_text=_json_text, number=lambda value: f"{value:,}")
    return environment


_ENVIRONMENT: Final = _environment()


def _pieces(prompt: str) -> Iterator[str]:
    """The special tokens, and the words between them."""
    start = 0
    for token in _TOKENS.finditer(prompt):
        if token.start() > start:
            yield prompt[start : token.start()]
        yield token.group()
        start = token.end()
    if start < len(prompt):
        yield prompt[start:]


def _paper(pieces: list[str]) -> Iterator[tuple[str, bool]]:
    first = pieces.index(ANSWER)
    for place, piece in enumerate(pieces):
        yield piece, place > first and piece not in (ANSWER, IMAGE)


def _span(pieces: list[str]) -> Iterator[tuple[str, bool]]:
    start = 0
    while start < len(pieces):
        end = pieces.index(ENDOFCHUNK, start) + 1 if ENDOFCHUNK in pieces[start:] else len(pieces)
        chunk = pieces[start:end]
        answer = chunk.index(ANSWER) if ANSWER in chunk else -1
        for place, piece in enumerate(chunk):
            yield piece, place > answer and piece != IMAGE
        start = end
