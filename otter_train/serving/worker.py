"""The one thread that owns the model: it takes waiting questions in batches and hands out their answers in pieces.

Everything before it is cheap and may run at the same time; what runs on the model does not. A queue of fixed length
stands between, and who finds it full is told so at once.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from dataclasses import replace
from typing import Final

from otter_train.answer_options import AnswerOptions
from otter_train.encoding import Encoded, PromptEncoder
from otter_train.inference import Piece, TrainedModel, stream_answers
from otter_train.serving.errors import ApiError
from otter_train.serving.limits import Limits
from otter_train.serving.protocol import Question

__all__ = ["Ticket", "Worker"]

_log = logging.getLogger(__name__)
_END: Final = None  # in the queue: nothing comes after it


class Ticket:
    """One admitted question; its answer is awaited piece by piece in the event loop that submitted it."""

    def __init__(self, prompt: Encoded, options: AnswerOptions, stops: tuple[str, ...]) -> None:
        self.prompt = prompt
        self.options = options
        self.stops = stops
        self.cancelled = False
        """Set where nobody waits any more: the model stops working on it after the next token."""
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece | ApiError] = asyncio.Queue()

    @property
    def prompt_tokens(self) -> int:
        """The length of the prompt."""
        return len(self.prompt.ids)

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
    """Answers questions with ``trained``; use as a context manager, which starts and ends its thread."""

    def __init__(self, trained: TrainedModel, limits: Limits) -> None:
        self.limits = limits
        self._trained = trained
        self._encoder = PromptEncoder(trained.tokenizer, template=trained.encoder.template, max_tokens=limits.context)
        self._tokenizing = threading.Lock()  # transformers sets options of its tokenizer while it encodes
        self._waiting: queue.Queue[Ticket | None] = queue.Queue()  # as long as `admit` lets it become
        self._open = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="otter-worker", daemon=True)

    def __enter__(self) -> Worker:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._waiting.put(_END)
        self._thread.join()

    def admit(self) -> None:
        """Count one more request in; `ApiError` (429) where there are as many as the limit allows."""
        with self._counting:
            if self._open >= self.limits.queue:
                raise ApiError(429, "rate_limit_exceeded", f"{self._open} requests are open; try again in a second")
            self._open += 1

    def release(self) -> None:
        """Count a request out that was admitted."""
        with self._counting:
            self._open -= 1

    def prepare(self, question: Question) -> tuple[Encoded, AnswerOptions]:
        """The prompt of ``question`` and its options, the answer shortened to the room that is left.

        `ApiError` (400) where the prompt fills the context.
        """
        with self._tokenizing:
            prompt = self._encoder.encode(question.sample, with_answer=False)
        room = self.limits.context - len(prompt.ids)
        if any(prompt.cut) or room < 1:
            raise ApiError(
                400,
                "context_length_exceeded",
                f"the conversation is longer than the context of {self.limits.context} tokens; shorten it",
                param="messages",
            )
        return prompt, replace(question.options, max_new_tokens=min(room, question.options.max_new_tokens))

    def submit(self, ticket: Ticket) -> None:
        """Queue ``ticket``; its pieces come when its turn does."""
        self._waiting.put(ticket)

    def _work(self) -> None:
        while (first := self._waiting.get()) is not _END:
            batch = [first]
            while len(batch) < self.limits.batch and not self._waiting.empty():
                following = self._waiting.get()
                if following is _END:
                    self._waiting.put(_END)
                    break
                batch.append(following)
            self._answer([ticket for ticket in batch if not ticket.cancelled])

    def _answer(self, batch: list[Ticket]) -> None:
        if not batch:
            return
        try:
            for piece in stream_answers(
                self._trained,
                [ticket.prompt for ticket in batch],
                [ticket.options for ticket in batch],
                stops=[ticket.stops for ticket in batch],
                is_closed=lambda row: batch[row].cancelled,
            ):
                batch[piece.row].give(piece)
        except Exception:  # whatever happens to one batch, the next one is to be answered
            _log.exception("a batch of %d questions failed", len(batch))
            for ticket in batch:
                ticket.give(ApiError(500, "internal_error", "the model failed on this question; see the server's log"))
