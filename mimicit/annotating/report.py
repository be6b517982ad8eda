"""``report.html`` next to the manifest: counts by gate, and examples of kept and dropped pairs with their pictures.

One file that needs nothing else, neither scripts nor a network; all text in it is escaped.
"""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from mimicit.annotating.asking import RECORD_REASONS, Outcome
from mimicit.annotating.gates import PAIR_REASONS
from mimicit.annotating.pictures import Pictures
from mimicit.annotating.recipe import Recipe
from mimicit.annotating.wording import Job
from mimicit.annotating.writing import Counts
from mimicit.errors import RejectedError
from mimicit.sources.files.root import Root
from mimicit.sources.items import MediaRef

_KEPT: Final = 12
_OF_A_REASON: Final = 3
_THUMBNAIL: Final = 160  # pixels
_CHARACTERS: Final = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class _Example:
    id: str
    media: tuple[MediaRef, ...] = ()
    reason: str = ""
    detail: str = ""
    instruction: str = ""
    answer: str = ""
    picture: str = ""


def report_html(
    counts: Counts,
    jobs: Iterable[tuple[str, Job | None]],
    outcomes: Iterable[Outcome],
    *,
    root: Root,
    recipe: Recipe,
    model: str,
    tokens: int,
) -> str:
    """The page; of the media beneath ``root`` only those of the examples are read."""
    kept, dropped = _examples(counts, zip(jobs, outcomes, strict=True))
    kept, dropped = asyncio.run(_with_pictures(root, kept, dropped))
    environment = Environment(
        loader=PackageLoader("mimicit.annotating"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    values: dict[str, Any] = {
        "counts": counts,
        "kept": kept,
        "dropped": dropped,
        "recipe": recipe,
        "model": model,
        "tokens": tokens,
        "pair_reasons": PAIR_REASONS,
        "record_reasons": RECORD_REASONS,
    }
    return environment.get_template("report.html").render(values)


def _examples(
    counts: Counts, found: Iterable[tuple[tuple[str, Job | None], Outcome]]
) -> tuple[list[_Example], list[_Example]]:
    """Kept pairs spread over the set, and the first few dropped ones of each reason."""
    step = max(1, counts.written // _KEPT)
    kept: list[_Example] = []
    dropped: list[_Example] = []
    seen: Counter[str] = Counter()
    written = 0
    for (id, job), outcome in found:
        media = job.record.media[:1] if job is not None else ()
        if outcome.pairs:
            if written % step == 0 and len(kept) < _KEPT:
                pair = outcome.pairs[0]
                kept.append(_example(id, media, "", "", pair.instruction, pair.answer))
            written += 1
        fell = [(one.reason, one.detail, one.instruction, one.answer) for one in outcome.dropped]
        if not fell and outcome.reason:
            fell = [(outcome.reason, outcome.detail, "", "")]
        for reason, *rest in fell:
            seen[reason] += 1
            if seen[reason] <= _OF_A_REASON:
                dropped.append(_example(id, media, reason, *rest))
    return kept, sorted(dropped, key=lambda one: one.reason)


def _example(id: str, media: tuple[MediaRef, ...], reason: str, detail: str, instruction: str, answer: str) -> _Example:
    return _Example(
        id=id,
        media=media,
        reason=reason,
        detail=detail[:_CHARACTERS],
        instruction=instruction[:_CHARACTERS],
        answer=answer[:_CHARACTERS],
    )


async def _with_pictures(root: Root, *lists: Sequence[_Example]) -> list[list[_Example]]:
    pictures = Pictures(root, size=_THUMBNAIL, frames=1, workers=1)

    async def shown(example: _Example) -> _Example:
        try:
            ((_, data), *_) = await pictures.of(example.media) or [("", b"")]
        except RejectedError:
            data = b""
        url = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" if data else ""
        return replace(example, picture=url)

    try:
        return [[await shown(example) for example in examples] for examples in lists]
    finally:
        pictures.close()
