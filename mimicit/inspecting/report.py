"""``mimicit inspect --html``: the `Findings` as one file that needs nothing else, neither scripts nor a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from mimicit.errors import MimicitError
from mimicit.inspecting.findings import Findings, Progress, Quoted, find_out, warnings_of
from mimicit.inspecting.stored_samples import StoredSamples, open_samples
from mimicit.notebook import thumbnail_url
from mimicit.shards.files import write_atomically
from mimicit.sources.shown_media import media_of_triplets

_SHEET_PICTURES: Final = 24
_THUMBNAIL: Final = 160  # pixels
_SMALL_THUMBNAIL: Final = 64
_MOST_BARS: Final = 12
_ALT_CHARACTERS: Final = 160


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart: its name, its count, and its length against the longest, 0 to 1."""

    name: str
    count: int
    length: float


@dataclass(frozen=True, slots=True)
class Picture:
    """A thumbnail as a ``data:`` URL, and what it shows."""

    url: str
    alt: str


def write_report(path: Path, out: Path, *, on_progress: Progress | None = None) -> Findings:
    """Write the report of a finished folder or a shard file to ``out``; return the findings that it shows.

    `ShardError` and its subclasses if ``path`` is neither.
    """
    stored = open_samples(path)
    try:
        findings = find_out(stored, on_progress=on_progress)
        write_atomically(out, [report_html(findings, stored).encode()])
    finally:
        stored.close()
    return findings


def report_html(findings: Findings, stored: StoredSamples) -> str:
    """The page; of ``stored`` only the pictures to show are read."""
    values: dict[str, Any] = {
        "findings": findings,
        "warnings": warnings_of(findings),
        "manifest": stored.manifest,
        "sources": _ranked(findings.sources),
        "relations": _bars((name.replace("_", " "), count) for name, count in findings.relations.most_common()),
        "context": _bars((str(n), findings.context[n]) for n in sorted(findings.context)),
        "instructions": _doubling(findings.instruction_lengths),
        "answers": _doubling(findings.answer_lengths),
        "sides": _doubling(findings.sides),
        "frames": _doubling(findings.frames),
        "scores": _bars((_tenth_name(tenth), findings.scores[tenth / 10]) for tenth in _tenths(findings.scores)),
        "sheet": [picture for row in _spread(len(stored)) if (picture := _query_picture(stored, row))],
        "shared": [(one, _shared_picture(stored, one)) for one in findings.shared_pictures],
    }
    return _environment().get_template("report.html").render(values)


def _bars(counted: Iterable[tuple[str, int]]) -> list[Bar]:
    rows = list(counted)
    most = max((count for _, count in rows), default=0) or 1
    return [Bar(name, count, count / most) for name, count in rows]


def _ranked(counts: Counter[str]) -> list[Bar]:
    ranked = counts.most_common()
    rest = sum(count for _, count in ranked[_MOST_BARS:])
    return _bars([*ranked[:_MOST_BARS], *([(f"{len(ranked) - _MOST_BARS} others", rest)] if rest else [])])


def _doubling(counts: Mapping[int, int]) -> list[Bar]:
    """Classes 0, 1, 2 to 3, 4 to 7, ..., from the first to the last that occurs."""
    if not counts:
        return []
    least, most = min(counts), max(counts)
    starts = [start for start in (0, *(1 << power for power in range(most.bit_length()))) if least <= start <= most]
    return _bars(
        (str(start) if start < 2 else f"{start:,}–{2 * start - 1:,}", counts.get(start, 0)) for start in starts
    )


def _tenths(scores: Mapping[float, int]) -> range:
    return range(round(min(scores) * 10), round(max(scores) * 10) + 1) if scores else range(0)


def _tenth_name(tenth: int) -> str:
    return "1.0" if tenth == 10 else f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}"


def _spread(samples: int) -> list[int]:
    shown = min(samples, _SHEET_PICTURES)
    return [place * samples // shown for place in range(shown)]


def _query_picture(stored: StoredSamples, row: int) -> Picture | None:
    """The last picture that the query at ``row`` is about; None if there is none, or it cannot be read."""
    try:
        sample = stored.peek(row)
        *_, about = media_of_triplets(sample)
        if not about.media or about.media[-1] >= len(sample.media):
            return None
        before = sum(len(media.files) for media in sample.media[: about.media[-1]])
        words = f"{sample.query.instruction} {sample.query.answer}".strip()
        return _picture(stored, row, before, words, _THUMBNAIL)
    except MimicitError:
        return None


def _shared_picture(stored: StoredSamples, one: Quoted) -> Picture | None:
    try:
        return _picture(stored, one.row, one.file or 0, one.words, _SMALL_THUMBNAIL)
    except MimicitError:
        return None


def _picture(stored: StoredSamples, row: int, number: int, words: str, longest: int) -> Picture:
    sample = stored.peek(row)
    media = [media for media in sample.media for _ in media.files][number]
    url = thumbnail_url(stored.file(row, number)[1], media.width, media.height, longest)
    alt = words if len(words) <= _ALT_CHARACTERS else f"{words[:_ALT_CHARACTERS]}…"
    return Picture(url, alt)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mimicit.inspecting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    return environment
