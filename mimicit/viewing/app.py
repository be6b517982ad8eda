"""The pages of the viewer and their addresses; everything is read, nothing is ever changed.

===========================  =================================================================================
``/``                        samples that meet the filter, a dozen a page
``/sample/{row}``            one sample in full; ``prompt=otter&mask=span`` adds the prompt and what is learned
``/media/{row}/{number}``    one stored file of a sample
``/find?id=``                to the sample with an id, a key or ``#row``, else to samples with a triplet of that id
``/search?text=``            also ``picture=`` (SHA-256) and ``triplet=`` (id); ``start=`` continues
``/context``                 what context is like: scores by relation, pairs most and least alike, answers given away
``/rejects``                 what was left out, and why; with ``reason=`` or ``source=`` all of it, page by page
===========================  =================================================================================

Files are named by row and number alone: no part of an address is ever a path.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mimicit.errors import MimicitError, UsageError
from mimicit.inspecting.rejects import group_rejects, page_of_rejects
from mimicit.inspecting.stored_samples import origins_of
from mimicit.prompt import TEMPLATES
from mimicit.viewing.gallery import (
    Criteria,
    Gallery,
    Needle,
    needle_for_picture,
    needle_for_text,
    needle_for_triplet,
    parse_criteria,
    parse_number,
)
from mimicit.viewing.guard import Guard
from mimicit.viewing.pages import LABEL_MODES, card_at, comparison_at, masked_prompt, render_page, turns_of

_PER_PAGE: Final = 12
_SEARCH_SECONDS: Final = 2.0
_SLOW_AT_ONCE: Final = 2  # requests that read a whole index, or many samples
_SLOW_WAIT_SECONDS: Final = 0.1  # with more, waiting requests would take the threads of all other pages
_LONGEST_NEEDLE: Final = 4096
_TYPES: Final = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_REJECTS_OF_GROUP: Final = 5
_REJECTS_PER_PAGE: Final = 100


def create_app(gallery: Gallery, *, hosts: Collection[str] | None, token: str | None) -> Starlette:
    """The pages over ``gallery``; ``hosts`` and ``token`` are those of `Guard`."""
    pages = _Pages(gallery)
    return Starlette(
        routes=[
            Route("/", pages.samples),
            Route("/sample/{row:int}", pages.sample),
            Route("/media/{row:int}/{number:int}", pages.media),
            Route("/find", pages.find),
            Route("/search", pages.search),
            Route("/context", pages.context),
            Route("/rejects", pages.rejects),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        middleware=[Middleware(Guard, hosts=hosts, token=token)],
        exception_handlers={HTTPException: pages.http_error, MimicitError: pages.data_error},
    )


class _Pages:
    """One method per address; they are plain functions, which Starlette runs in threads."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._stored = gallery.stored
        self._slow = threading.BoundedSemaphore(_SLOW_AT_ONCE)

    def samples(self, request: Request) -> Response:
        """The list, page by page."""
        criteria = parse_criteria(request.query_params)
        rows = self._rows(criteria)
        pages = max(1, -(-len(rows) // _PER_PAGE))
        page = min(max(parse_number(request.query_params, "page") or 1, 1), pages)
        start = (page - 1) * _PER_PAGE
        cards = [card_at(self._stored, int(row)) for row in rows[start : start + _PER_PAGE]]
        return self._page(
            "samples.html", criteria, cards=cards, total=len(rows), page=page, pages=pages, first=start + 1
        )

    def sample(self, request: Request) -> Response:
        """One sample, and its neighbours in the list."""
        row = int(request.path_params["row"])
        criteria = parse_criteria(request.query_params)
        self._check_row(row)
        sample = self._stored.peek(row)
        template = request.query_params.get("prompt", "")
        mode: Any = request.query_params.get("mask", "span")
        if mode not in LABEL_MODES:
            raise UsageError(f"mask={mode[:40]!r}: choose from {', '.join(LABEL_MODES)}")
        rows = self._rows(criteria)
        place = bisect_left(rows, row)
        after = place + 1 if place < len(rows) and rows[place] == row else place
        return self._page(
            "sample.html",
            criteria,
            row=row,
            key=self._stored.key(row),
            sample=sample,
            turns=turns_of(sample),
            origins=[places for places in origins_of(self._gallery.path, sample.media) if len(places) > 1],
            spans=masked_prompt(sample, template, mode) if template else None,
            template=template,
            templates=sorted(TEMPLATES),
            mode=mode,
            modes=LABEL_MODES,
            before=int(rows[place - 1]) if place else None,
            after=int(rows[after]) if after < len(rows) else None,
            place=place + 1,
            total=len(rows),
            list_page=place // _PER_PAGE + 1,
        )

    def media(self, request: Request) -> Response:
        """The bytes of one picture or frame."""
        row, number = int(request.path_params["row"]), int(request.path_params["number"])
        self._check_row(row)
        try:
            name, data = self._stored.file(row, number)
        except IndexError:
            raise HTTPException(404, f"sample {row} has no file {number}") from None
        headers = {"Cache-Control": "private, max-age=60"}
        return Response(data, media_type=_TYPES[name.rpartition(".")[2]], headers=headers)

    def find(self, request: Request) -> Response:
        """Redirect to the sample with this id, key or number; the filter does not apply."""
        wanted = request.query_params.get("id", "").strip()[:_LONGEST_NEEDLE]
        source = request.query_params.get("source", "")
        if not wanted:
            return RedirectResponse("/", 303)
        digits = wanted.removeprefix("#")
        if digits != wanted and digits.isascii() and digits.isdecimal() and len(digits) < 16:
            row: int | None = int(digits)
            self._check_row(int(digits))
        else:
            with self._turn():
                row = self._gallery.locate(wanted, source)
        if row is not None:
            return RedirectResponse(f"/sample/{row}", 303)
        return self._search(request, "triplet", wanted, needle_for_triplet(wanted), Criteria())

    def search(self, request: Request) -> Response:
        """What a search finds in two seconds, and how far it came."""
        criteria = parse_criteria(request.query_params)
        for name, needle in (
            ("text", needle_for_text),
            ("picture", needle_for_picture),
            ("triplet", needle_for_triplet),
        ):
            wanted = request.query_params.get(name, "")[:_LONGEST_NEEDLE]
            if wanted:
                return self._search(request, name, wanted, needle(wanted), criteria)
        return RedirectResponse(f"/?{criteria.query}", 303)

    def context(self, request: Request) -> Response:
        """What the context of the samples that meet the filter is like."""
        criteria = parse_criteria(request.query_params)
        with self._turn():
            found = self._gallery.quality(criteria)
        most, least, leaks = (
            [comparison_at(self._stored, pair) for pair in pairs]
            for pairs in (found.most_alike, found.least_alike, found.leaks)
        )
        return self._page("context.html", criteria, found=found, most=most, least=least, leaks=leaks)

    def rejects(self, request: Request) -> Response:
        """The first rejects of each reason, or one page of the rejects of a reason, a source, or both."""
        reason, source = (request.query_params.get(name) or None for name in ("reason", "source"))
        if reason is None and source is None:
            with self._turn():
                groups = group_rejects(self._gallery.path, limit=_REJECTS_OF_GROUP)
            return self._page("rejects.html", Criteria(), groups=groups)
        page = max(parse_number(request.query_params, "page") or 1, 1)
        start = (page - 1) * _REJECTS_PER_PAGE
        with self._turn():
            found = page_of_rejects(
                self._gallery.path, reason=reason, source=source, start=start, most=_REJECTS_PER_PAGE
            )
        pages = max(1, -(-found.total // _REJECTS_PER_PAGE))
        if page > pages:
            return RedirectResponse(f"/rejects?{urlencode({**request.query_params, 'page': pages})}", 303)
        return self._page(
            "rejects_page.html",
            Criteria(),
            found=found,
            reason=reason,
            source=source,
            page=page,
            pages=pages,
            first=start + 1,
        )

    def http_error(self, request: Request, error: Exception) -> Response:
        """The page of an `HTTPException`: no such page or sample, or too many slow requests."""
        assert isinstance(error, HTTPException)
        return self._page("error.html", Criteria(), status=error.status_code, message=error.detail)

    def data_error(self, request: Request, error: Exception) -> Response:
        """The page of a `MimicitError`: a wrong filter (400) or damaged data (500)."""
        status = 400 if isinstance(error, UsageError) else 500
        return self._page("error.html", Criteria(), status=status, message=str(error))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Hold one of the few places for slow requests; if all are taken, raise an `HTTPException` (503)."""
        if not self._slow.acquire(timeout=_SLOW_WAIT_SECONDS):
            raise HTTPException(503, f"{_SLOW_AT_ONCE} searches or filters are running; try again in a moment")
        try:
            yield
        finally:
            self._slow.release()

    def _rows(self, criteria: Criteria) -> Sequence[int] | NDArray[np.int64]:
        """The rows that meet ``criteria``."""
        if criteria.expression(self._gallery.relations) is None:
            return self._gallery.rows(criteria)
        with self._turn():
            return self._gallery.rows(criteria)

    def _search(self, request: Request, kind: str, wanted: str, needle: Needle, criteria: Criteria) -> Response:
        start = parse_number(request.query_params, "start") or 0
        with self._turn():
            found = self._gallery.search(needle, criteria, start=start, most=_PER_PAGE, seconds=_SEARCH_SECONDS)
        cards = [card_at(self._stored, row) for row in found.rows]
        return self._page(
            "search.html",
            criteria,
            kind=kind,
            wanted=wanted,
            found=found,
            cards=cards,
            start=start,
            search_text=wanted if kind == "text" else "",
        )

    def _check_row(self, row: int) -> None:
        if not 0 <= row < len(self._stored):
            raise HTTPException(404, f"there is no sample {row}; they count from 0 to {len(self._stored) - 1}")

    def _page(self, name: str, criteria: Criteria, *, status: int = 200, **values: Any) -> Response:
        manifest = self._gallery.manifest
        shared = {
            "folder": str(self._gallery.path),
            "totals": manifest["totals"],
            "sources": [source["name"] for source in manifest["sources"] if source["out"]],
            "relations": self._gallery.relations,
            "criteria": criteria,
            "search_text": "",
        }
        page = render_page(name, {**shared, "status": status, **values})
        return HTMLResponse(page, status, {"Cache-Control": "no-store"})
