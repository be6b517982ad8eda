"""``mimicit annotate``: records, requests, answers, pairs, manifest.

Each run goes through all records again and asks what the store does not know; there is no other state. So a killed run
continues, a finished run asks nothing and writes the same bytes, and a run with a changed recipe asks only what
changed. Memory: the requests under way, a hash for each answer, and some bytes for each record.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mimicit.annotating.asking import Asker, Judge, NotAskedError, Outcome, Send, outcome_of
from mimicit.annotating.batch import BatchWriter, take_in
from mimicit.annotating.client import ModelClient
from mimicit.annotating.config import Limits, Prices
from mimicit.annotating.limits import Breaker, Budget, BudgetReachedError, Cost, Pace
from mimicit.annotating.pictures import Pictures
from mimicit.annotating.records import Dropped
from mimicit.annotating.store import Answer
from mimicit.annotating.wording import Job, request_of, unfit
from mimicit.annotating.work import Work
from mimicit.annotating.writing import Counts, Outcomes, decide, report_html, write_manifest
from mimicit.errors import AnnotateError, RejectedError
from mimicit.progress import Progress
from mimicit.shards.files import write_atomically

_FAILURES: Final = 20  # requests in a row
_AT_ONCE: Final = 64  # if nobody is asked
_UPDATE_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Which model is asked, and where; the ``key`` is shown to nobody else."""

    model: str
    base_url: str
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run did: ``asked`` requests were sent (attempts), ``spent`` is all that the store has cost so far.

    ``stopped`` says why some records were not asked about; empty if all were.
    """

    counts: Counts
    triplets: int
    dropped_input: int
    asked: int
    spent: Cost
    spent_usd: float
    stopped: str = ""


def annotate(
    work: Work,
    server: Server,
    limits: Limits,
    progress: Progress,
    *,
    judge: Judge | None = None,
    batches: Sequence[Path] = (),
    report: bool = True,
) -> Summary:
    """Ask about everything in ``work``, and write the manifest and, with ``report``, ``report.html``.

    With ``batches``, result files of a batch API, nothing is sent. A record that was not asked about, such as after the
    budget was spent, is rejected for that. `AnnotateError` if the run cannot continue: what was answered is kept, and
    the same command continues from there.
    """
    total = work.read(progress)
    store = work.store
    with (
        closing(Outcomes(work.folder / "outcomes.tmp")) as outcomes,
        closing(Outcomes(work.folder / "decided.tmp")) as decided,
    ):
        if batches:
            taken = asyncio.run(take_in(batches, store))
            progress.note(", ".join(f"{count:,} {what}" for what, count in taken.items()) + " in batch files")
            ended = asyncio.run(_ask_nobody(work, server.model, judge, _not_sent, progress, outcomes, total))
        else:
            ended = asyncio.run(_ask_all(work, server, judge, limits, progress, outcomes, total))
        counts = decide(outcomes, work.recipe, decided)
        progress.update("write", 0, 1)
        write_manifest(work.out, work.root, work.recipe, server.model, work.sound_jobs, decided, work.dropped_input)
        if report:
            page = report_html(
                counts,
                work.sound_jobs(),
                decided,
                root=work.root,
                recipe=work.recipe,
                model=server.model,
                tokens=store.input_tokens + store.output_tokens,
            )
            write_atomically(work.out / "report.html", [page.encode()])
        progress.update("write", 1, 1)
    return Summary(
        counts=counts,
        triplets=work.triplets,
        dropped_input=len(work.dropped_input),
        asked=ended[1],
        spent=Cost(store.input_tokens, store.output_tokens),
        spent_usd=limits.prices.of(store.input_tokens, store.output_tokens),
        stopped=ended[0],
    )


def write_batch(work: Work, model: str, judge: Judge | None, path: Path, progress: Progress) -> BatchWriter:
    """Write the requests that ``work`` would send now to ``path``, and send none; return the writer."""
    total = work.read(progress)
    with closing(Outcomes(work.folder / "outcomes.tmp")) as outcomes, BatchWriter(path) as writer:
        asyncio.run(_ask_nobody(work, model, judge, writer.send, progress, outcomes, total))
    return writer


async def _not_sent(body: bytes) -> Answer:
    raise NotAskedError


async def _ask_nobody(
    work: Work, model: str, judge: Judge | None, send: Send, progress: Progress, outcomes: Outcomes, total: int
) -> tuple[str, int]:
    """As `_ask_all`, from the answers in the store; requests without an answer there go to ``send``."""
    run = _Run(work, model, judge, send, outcomes, _AT_ONCE)
    await run.all(lambda: progress.update("look up", run.done, total, f"{run.pairs:,} pairs"))
    why = "the batch files do not answer it; write what is missing with --batch-out, or ask without --batch-in"
    return why if run.not_asked else "", 0


async def _ask_all(
    work: Work,
    server: Server,
    judge: Judge | None,
    limits: Limits,
    progress: Progress,
    outcomes: Outcomes,
    total: int,
) -> tuple[str, int]:
    """Fill ``outcomes``; return why some jobs were not asked about, and the number of attempts."""
    spent = Cost(work.store.input_tokens, work.store.output_tokens)
    budget = Budget(limits.budget_tokens, limits.budget_usd, limits.prices, spent)
    client = ModelClient(
        server.base_url,
        server.key,
        concurrency=limits.concurrency,
        timeout_s=limits.timeout_s,
        retries=limits.retries,
        pace=Pace(limits.requests_per_minute, limits.tokens_per_minute),
        budget=budget,
        breaker=Breaker(_FAILURES),
    )
    async with client:
        run = _Run(work, server.model, judge, client.ask, outcomes, limits.concurrency)

        def tell() -> None:
            cost = f", {budget.spent_usd:.2f} USD" if limits.prices != Prices() else ""
            progress.update("ask", run.done, total, f"{run.pairs:,} pairs, {budget.spent.tokens:,} tokens{cost}")

        await run.all(tell)
    return run.stopped, client.attempts


class _Run:
    """All jobs of ``work``, a bounded number at a time."""

    def __init__(
        self, work: Work, model: str, judge: Judge | None, send: Send, outcomes: Outcomes, concurrency: int
    ) -> None:
        self._work, self._model, self._judge, self._send, self._outcomes = work, model, judge, send, outcomes
        self._ask = Asker(work.store, self._sent)
        self._slots = asyncio.Semaphore(2 * concurrency)  # those that wait for a picture take no connection
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._pictures = Pictures(work.root, size=work.recipe.size, frames=work.recipe.frames)
        self.done = self.pairs = self.not_asked = 0
        self.stopped = ""

    async def all(self, tell: Callable[[], None]) -> None:
        """Return when every job has its outcome; raises what ends the run, after what was asked has been answered."""
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGINT, self._interrupted)
        told = 0.0
        try:
            for number, (_, job) in enumerate(self._work.jobs()):
                await self._slots.acquire()
                if self._error is not None:
                    break
                task = asyncio.create_task(self._one(number, job))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                if time.monotonic() - told > _UPDATE_S:
                    told = time.monotonic()
                    tell()
            while self._tasks:
                await asyncio.wait(self._tasks, timeout=_UPDATE_S)
                tell()
        finally:
            self._pictures.close()
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(signal.SIGINT)
        tell()
        if self._error is not None:
            raise self._error

    async def _one(self, number: int, job: Job | Dropped) -> None:
        try:
            outcome = await self._outcome(job)
            self._outcomes.add(number, outcome)
            self.pairs += len(outcome.pairs)
        except BaseException as error:  # raised again when the run ends; cancellation is one of them
            self._error = self._error or error
        finally:
            self.done += 1
            self._slots.release()

    async def _outcome(self, job: Job | Dropped) -> Outcome:
        if isinstance(job, Dropped):
            return Outcome(reason=job.reason, detail=f"{job.place}: {job.detail}")
        recipe = self._work.recipe
        why = unfit(job.record, recipe)
        if why:
            return Outcome(reason="unfit", detail=why)
        try:
            if self.stopped and recipe.pictures == "send":
                raise NotAskedError  # before any picture is decoded
            pictures = await self._pictures.of(job.record.media) if recipe.pictures == "send" else ()
            body = request_of(job, recipe, self._model, pictures)
            return await outcome_of(job, body, recipe, self._ask, self._judge)
        except RejectedError as error:
            return Outcome(reason=error.reason, detail=error.detail)
        except NotAskedError:
            self.not_asked += 1
            return Outcome(reason="not_asked", detail=self.stopped or "not in the batch files")

    async def _sent(self, body: bytes) -> Answer:
        if self._error is not None or self.stopped:
            raise NotAskedError
        try:
            return await self._send(body)
        except BudgetReachedError as error:
            self.stopped = str(error)
            raise NotAskedError from None

    def _interrupted(self) -> None:
        self._error = self._error or AnnotateError(
            "interrupted; what was answered is kept, and the same command goes on from there"
        )
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)  # a second Ctrl-C acts immediately
