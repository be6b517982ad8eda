"""``--dry-run``: one whole request to read, and what all of them would take, without asking anybody anything."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import orjson

from mimicit.annotating.limits import Cost, estimated
from mimicit.annotating.pictures import Pictures
from mimicit.annotating.records import Dropped
from mimicit.annotating.store import request_hash
from mimicit.annotating.wording import Job, request_of, shortened, unfit
from mimicit.annotating.work import Progress, Work
from mimicit.errors import RejectedError

__all__ = ["Preview", "preview"]

_LOOKED_AT: Final = 200  # jobs; the rest is taken to be like them


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The first ``request`` that would be made (JSON for people; empty where there is none), and estimates.

    Of ``jobs``, about ``unfit`` are not asked about, ``answered`` are in the store, and the rest costs ``cost``.
    """

    request: str
    jobs: int
    unfit: int
    answered: int
    requests: int
    cost: Cost


def preview(work: Work, model: str, progress: Progress) -> Preview:
    """Look at the first jobs of ``work``."""
    return asyncio.run(_preview(work, model, work.read(progress)))


async def _preview(work: Work, model: str, jobs: int) -> Preview:
    recipe = work.recipe
    pictures = Pictures(work.root, size=recipe.size, frames=recipe.frames)
    shown, looked_at, unfit_jobs, answered = "", 0, 0, 0
    costs: list[Cost] = []
    try:
        for (_, job), _ in zip(work.jobs(), range(_LOOKED_AT), strict=False):
            looked_at += 1
            try:
                body = await _body(work, job, model, pictures)
            except RejectedError:
                unfit_jobs += 1
                continue
            if request_hash(body) in work.store:
                answered += 1
                continue
            shown = shown or shortened(body)
            costs.append(estimated(body, orjson.loads(body).get("max_tokens")))
    finally:
        pictures.close()
    scale = jobs / looked_at if looked_at else 0.0
    total = Cost(
        round(scale * sum(cost.input_tokens for cost in costs)),
        round(scale * sum(cost.output_tokens for cost in costs)),
    )
    counts = (round(scale * count) for count in (unfit_jobs, answered, len(costs)))
    left_out, known, requests = counts
    return Preview(request=shown, jobs=jobs, unfit=left_out, answered=known, requests=requests, cost=total)


async def _body(work: Work, job: Job | Dropped, model: str, pictures: Pictures) -> bytes:
    if isinstance(job, Dropped):
        raise RejectedError(job.reason, job.detail)
    why = unfit(job.record, work.recipe)
    if why:
        raise RejectedError("unfit", why)
    sent = await pictures.of(job.record.media) if work.recipe.pictures == "send" else ()
    return request_of(job, work.recipe, model, sent)
