"""After all media are encoded: which triplets are usable, which are merged, and which are asked about.

One pass in the order of the input, so the first of several equals is the one that stays, whatever the workers did.
Each triplet passes, in this order: its media are sound and pass the filters of its source; none looks like a picture
of a triplet that was kept before; it does not say and show the same as one that was kept. Then the queries of each
source are drawn. All of it is one transaction; memory is SQLite's page cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import orjson

from mimicit.build.catalog import Catalog
from mimicit.build.config import DuplicateTriplets, SourceRules
from mimicit.build.draw import draw_queries
from mimicit.build.filters import FilterConfig, MediaFacts, media_fault
from mimicit.build.look_alikes import LookAlikes
from mimicit.build.progress import Progress
from mimicit.schema import canonical_json
from mimicit.sources.base import Reject

__all__ = ["settle_triplets"]

_STAGE: Final = "settle"
_REPORT_EVERY: Final = 5_000
_SAME: Final = "CREATE TEMP TABLE same(digest BLOB PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID"


class _Usable(NamedTuple):
    """A medium that can be shown: the first of those with its content, what identifies the content, how it looks."""

    medium: int
    content: str
    look: bytes | None


class _Lost(NamedTuple):
    """A medium that cannot or shall not be shown."""

    stage: Literal["media", "filter"]
    reason: str
    detail: str


class _Row(NamedTuple):
    seq: int
    source: int
    id: str
    place: str
    media: str
    instruction: str
    answer: str
    parts: str
    is_query: int
    conversation: str | None


def settle_triplets(
    catalog: Catalog,
    rules: Mapping[str, SourceRules],
    progress: Progress,
    *,
    near_duplicates: int | None = None,
    duplicate_triplets: DuplicateTriplets = "keep",
    seed: int = 0,
) -> None:
    """Reject, merge or rank every triplet of the catalog, and draw the queries; does nothing the second time.

    ``rules`` are those of each source by name; the other options are those of `BuildConfig`.
    """
    if catalog.is_done(_STAGE):
        return
    with catalog.transaction():
        look_alikes = None if near_duplicates is None else LookAlikes(catalog.db, near_duplicates)
        if duplicate_triplets != "keep":
            catalog.db.execute(_SAME)
        ranks: dict[int, int] = {}
        rows = catalog.db.execute(f"SELECT {', '.join(_Row._fields)} FROM triplet WHERE media IS NOT NULL ORDER BY seq")
        for count, row in enumerate(map(_Row._make, rows)):
            if count % _REPORT_EVERY == 0:
                progress.update("settle", count, None)
            filters = rules[catalog.source_name(row.source)].filters
            usable = _usable_media(catalog, row, filters, look_alikes)
            if usable is None:
                continue
            keeper = None if duplicate_triplets == "keep" else _same_before(catalog, row, usable, duplicate_triplets)
            if keeper is not None:
                _merge(catalog, row, keeper)
                continue
            ranks[row.source] = ranks.get(row.source, -1) + 1
            shown = ",".join(medium.content for medium in usable)
            catalog.db.execute(
                "UPDATE triplet SET shown = ?, rank = ? WHERE seq = ?", (shown, ranks[row.source], row.seq)
            )
        for number, name in catalog.db.execute("SELECT id, name FROM source ORDER BY id").fetchall():
            draw_queries(catalog.db, number, rules[name].limit, rules[name].weight, seed)
        catalog.mark_done(_STAGE)


def _usable_media(
    catalog: Catalog, row: _Row, filters: FilterConfig, look_alikes: LookAlikes | None
) -> list[_Usable] | None:
    """The media that the triplet shows, noted in the catalog; ``None`` where it is rejected for one that it lacks."""
    numbers: list[int] = orjson.loads(row.media)
    outcomes = [_outcome(catalog, number, filters, look_alikes) for number in numbers]
    lost = [outcome for outcome in outcomes if isinstance(outcome, _Lost)]
    usable = [outcome for outcome in outcomes if isinstance(outcome, _Usable)]
    is_document = row.parts != "[]"
    if lost and not (is_document and usable):
        _reject(catalog, row, lost[0], "record")
        return None
    for fault in lost:  # a document goes on without them, as long as one picture is left
        _reject(catalog, row, fault, "media")
    if lost:
        parts = orjson.dumps(_parts_without(orjson.loads(row.parts), outcomes)).decode()
        catalog.db.execute("UPDATE triplet SET parts = ? WHERE seq = ?", (parts, row.seq))
    shown = [medium.medium for medium in usable]
    if shown != numbers:
        catalog.db.execute("UPDATE triplet SET media = ? WHERE seq = ?", (orjson.dumps(shown).decode(), row.seq))
    if look_alikes is not None:
        for medium in usable:
            if medium.look is not None:
                look_alikes.add(medium.medium, medium.look)
    return usable


def _outcome(catalog: Catalog, number: int, filters: FilterConfig, look_alikes: LookAlikes | None) -> _Usable | _Lost:
    content, look, reason, detail, ref, width, height, size = catalog.db.execute(
        "SELECT content, fingerprint, reason, detail, ref, width, height, bytes FROM medium WHERE id = ?", (number,)
    ).fetchone()
    if content is None:
        return _Lost("media", reason, f"{_origin(ref)}: {detail}")
    fault = media_fault(MediaFacts(width, height, size), filters)
    if fault is not None:
        return _Lost("filter", fault.reason, f"{_origin(ref)}: {fault.detail}")
    (first,) = catalog.db.execute("SELECT min(id) FROM medium WHERE content = ?", (content,)).fetchone()
    if look is not None and look_alikes is not None:
        other = look_alikes.find(first, look)
        if other is not None:
            (other_ref,) = catalog.db.execute("SELECT ref FROM medium WHERE id = ?", (other,)).fetchone()
            return _Lost("filter", "duplicate_media", f"{_origin(ref)}: looks like {_origin(other_ref)}, which is kept")
    return _Usable(first, content, look)


def _origin(ref: str) -> str:
    return str(orjson.loads(ref)["origin"])


def _parts_without(parts: Sequence[tuple[int, str]], outcomes: Sequence[_Usable | _Lost]) -> list[tuple[int, str]]:
    """The parts of a document, with only the usable media counted."""
    left: list[tuple[int, str]] = []
    start = 0
    for count, text in parts:
        shown = outcomes[start : start + count]
        left.append((sum(isinstance(outcome, _Usable) for outcome in shown), text))
        start += count
    return left


def _same_before(
    catalog: Catalog, row: _Row, usable: Sequence[_Usable], duplicate_triplets: DuplicateTriplets
) -> int | None:
    """The kept triplet that shows and says the same as ``row``; the turns of a conversation are never compared."""
    if row.conversation is not None:
        return None
    scope = None if duplicate_triplets == "merge-all" else row.source
    content = [scope, [medium.content for medium in usable], row.instruction, row.answer, row.parts]
    digest = hashlib.blake2b(canonical_json(content), digest_size=16).digest()
    found = catalog.db.execute("SELECT seq FROM same WHERE digest = ?", (digest,)).fetchone()
    if found is not None:
        return int(found[0])
    catalog.db.execute("INSERT INTO same VALUES (?, ?)", (digest, row.seq))
    return None


def _merge(catalog: Catalog, row: _Row, keeper: int) -> None:
    """Let ``keeper`` stand for ``row``: as the context of others, and as a query if either is one."""
    id, source = catalog.db.execute("SELECT id, source FROM triplet WHERE seq = ?", (keeper,)).fetchone()
    catalog.db.execute("UPDATE triplet SET is_query = max(is_query, ?) WHERE seq = ?", (row.is_query, keeper))
    catalog.db.execute("UPDATE triplet SET merged_into = ?, is_query = 0 WHERE seq = ?", (keeper, row.seq))
    detail = f"shows and says the same as {id!r} of {catalog.source_name(source)}, which stands for both"
    _reject(catalog, row, _Lost("filter", "duplicate_triplet", detail), "reference")


def _reject(catalog: Catalog, row: _Row, fault: _Lost, scope: Literal["record", "media", "reference"]) -> None:
    reject = Reject(
        scope=scope,
        stage=fault.stage,
        reason=fault.reason,
        source=catalog.source_name(row.source),
        locator=row.place,
        id=row.id,
        detail=fault.detail,
    )
    catalog.add_reject(row.source, reject)
