"""The one thread that owns the model: it takes waiting questions in batches and hands out their answers in pieces.

Everything before it is cheap and may run concurrently; the model answers one batch at a time. Between them is a queue
of fixed length; a request that finds it full is refused immediately. The shortest requested answer goes first, also
before the rest of a batch that is under way, so a plain question does not wait for the long answers of others.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Final

from mimicit.records import Sample
from otter_train.data.encoding import Encoded, PromptEncoder
from otter_train.inference import AnswerOptions
from otter_train.inference.answering import Piece, TrainedModel, stream_answers
from otter_train.serving.limits import ApiError, Limits, Turns
from otter_train.serving.protocol import Question
from otter_train.serving.readers import Readers

_log = logging.getLogger(__name__)
_PROMPT_TOKENS_PER_STEP: Final = 64  # reading this many tokens of a prompt takes as long as one of the answer
_TIMES_SHORTER: Final = 4  # than others: such a question is answered neither together with them nor after them
_DEEPEST: Final = 2  # interrupted batches; each keeps its memory on the device


class Ticket:
    """One admitted question; its answer is awaited piece by piece in the event loop that submitted it."""

    def __init__(self, prompt: Encoded, options: AnswerOptions, stops: tuple[str, ...]) -> None:
        self.prompt = prompt
        self.options = options
        self.stops = stops
        self.cancelled = False
        """Set when nobody waits any more: the model stops working on it after the next token."""
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece | ApiError] = asyncio.Queue()

    @property
    def prompt_tokens(self) -> int:
        """The length of the prompt."""
        return len(self.prompt.ids)

    @property
    def steps(self) -> int:
        """How long the model is busy with it at most, in tokens of an answer."""
        return self.options.max_new_tokens + self.prompt_tokens // _PROMPT_TOKENS_PER_STEP

    async def next_piece(self) -> Piece:
        """The next piece of the answer; raises the `ApiError` that the worker met."""
        piece = await self._pieces.get()
        if isinstance(piece, ApiError):
            raise piece
        return piece

    def give(self, piece: Piece | ApiError) -> None:
        """Hand over a piece, from the worker's thread."""
        if not self.cancelled:
            try:
                self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
            except RuntimeError:  # the loop was closed: the server is shutting down
                self.cancelled = True


class Worker:
    """Answers questions with ``trained``; use as a context manager, which starts and ends its thread and processes."""

    def __init__(self, trained: TrainedModel, limits: Limits) -> None:
        self.limits = limits
        self._trained = trained
        self._readers = Readers(limits)
        # Prompts that are too long are refused, not cut, so one pass over the words is all that they cost.
        encoder = PromptEncoder(trained.tokenizer, template=trained.encoder.template, max_tokens=sys.maxsize)
        self._encoding = Turns([encoder])
        self._encoding_thread = ThreadPoolExecutor(1, thread_name_prefix="otter-encoder")  # tokenizers are not shared
        self._waiting: list[tuple[int, int, Ticket]] = []  # a heap, as long as `admit` lets it become
        self._arrived = threading.Condition()
        self._numbers = itertools.count()
        self._open = 0
        self._counting = threading.Lock()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="otter-worker", daemon=True)

    def __enter__(self) -> Worker:
        self._readers.__enter__()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._arrived:
            self._stopping = True
            self._arrived.notify()
        self._readers.__exit__(kind, error, at)
        self._encoding_thread.shutdown(wait=True, cancel_futures=True)
        self._thread.join()

    def admit(self) -> None:
        """Count one more request in; `ApiError` (429) if there are as many as the limit allows."""
        with self._counting:
            if self._open >= self.limits.queue:
                raise ApiError(429, "rate_limit_exceeded", f"{self._open} requests are open; try again in a second")
            self._open += 1

    def release(self) -> None:
        """Count a request out that was admitted."""
        with self._counting:
            self._open -= 1

    async def prepare(self, body: Sequence[bytes], model: str) -> tuple[Question, Encoded]:
        """The question in the pieces of ``body``, asked of ``model``, and its prompt.

        The answer is limited to the room that is left. `ApiError` as in `Readers.read`, if the prompt fills the
        context (400), and if its turn does not come in time (503). Cancelling it ends the work.
        """
        try:
            async with asyncio.timeout(self.limits.wait_seconds):
                question = await self._readers.read(body, model)
                async with self._encoding.turn(_characters(question.sample)) as encoder:
                    prompt = await asyncio.get_running_loop().run_in_executor(
                        self._encoding_thread, partial(encoder.encode, question.sample, with_answer=False)
                    )
        except TimeoutError:
            raise ApiError(503, "overloaded", "the server is too busy; try again later") from None
        room = self.limits.context - len(prompt.ids)
        if room < 1:
            raise ApiError(
                400,
                "context_length_exceeded",
                f"the conversation is longer than the context of {self.limits.context} tokens; shorten it",
                param="messages",
            )
        options = replace(question.options, max_new_tokens=min(room, question.options.max_new_tokens))
        return replace(question, options=options), prompt

    def submit(self, ticket: Ticket) -> None:
        """Queue ``ticket``; its pieces come when its turn does."""
        with self._arrived:
            heapq.heappush(self._waiting, (ticket.steps, next(self._numbers), ticket))
            self._arrived.notify()

    def _work(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._waiting or self._stopping)
            if self._stopping:
                return
            self._answer(self._next_batch(), depth=0)

    def _next_batch(self, most_steps: int = sys.maxsize) -> list[Ticket]:
        """The shortest waiting questions of similar length, as many as fit, of at most ``most_steps`` each."""
        batch: list[Ticket] = []
        with self._arrived:
            while self._waiting and self._waiting[0][0] <= most_steps and len(batch) < self.limits.batch:
                steps, _, ticket = heapq.heappop(self._waiting)
                if not ticket.cancelled:
                    most_steps = min(most_steps, _TIMES_SHORTER * steps)
                    batch.append(ticket)
        return batch

    def _answer(self, batch: list[Ticket], depth: int) -> None:
        if not batch:
            return
        longest = max(ticket.steps for ticket in batch)
        try:
            for piece in stream_answers(
                self._trained,
                [ticket.prompt for ticket in batch],
                [ticket.options for ticket in batch],
                stops=[ticket.stops for ticket in batch],
                is_closed=lambda row: self._stopping or batch[row].cancelled,
            ):
                batch[piece.row].give(piece)
                if depth < _DEEPEST:
                    self._answer(self._next_batch(longest // _TIMES_SHORTER), depth + 1)
        except Exception:  # whatever happens to one batch, the next one is to be answered
            _log.exception("a batch of %d questions failed", len(batch))
            for ticket in batch:
                ticket.give(ApiError(500, "internal_error", "the model failed on this question; see the server's log"))


def _characters(sample: Sample) -> int:
    return sum(len(triplet.instruction) + len(triplet.answer) for triplet in sample.triplets)
