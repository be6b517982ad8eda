"""Answers token by token: a batch of prompts is read once, then every step adds a token to each row that has not ended.

Rows are independent of each other: each has its own options and its own random generator, so an answer does not
depend on the other rows. New tokens look at the last medium of their prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

import torch
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from otter_train.assembly.models import autocast
from otter_train.config.run_config import Precision
from otter_train.data.batches import Batch, normalise
from otter_train.inference import AnswerOptions
from otter_train.model import Otter


def stream_tokens(
    model: Otter,
    prompts: Batch,
    options: Sequence[AnswerOptions],
    *,
    stop: Collection[int],
    precision: Precision = "float32",
    is_closed: Callable[[int], bool] = lambda row: False,
) -> Iterator[list[int | None]]:
    """Step by step the new token of each row of ``prompts``, or None if the row has ended.

    ``prompts`` are padded on the left and lie on the model's device. A row ends with a token in ``stop``, which is
    yielded, after its ``max_new_tokens``, or if ``is_closed`` is true before a step. ``<image>`` is never chosen.
    """
    device = prompts.lang_x.device
    # Entered again for each step: a generator must not leave a mode on for its consumer when it yields.
    with torch.no_grad(), autocast(device, precision):
        vision_x = normalise(prompts.vision_x, model.vision.mean, model.vision.std)
        reader = model.prompt_reader(
            vision_x, prompts.lang_x, prompts.attention_mask, vision_mask=prompts.vision_mask, firsts=prompts.firsts
        )
    generators = [torch.Generator().manual_seed(one.seed % 2**63) for one in options]
    penalties = {
        row: _Penalty(prompts.lang_x[row][prompts.attention_mask[row]], one, model, stop)
        for row, one in enumerate(options)
        if one.penalises
    }
    counts = [0] * len(options)
    going = set(range(len(options)))
    tokens = prompts.lang_x
    while going := {row for row in going if not is_closed(row)}:
        with torch.no_grad(), autocast(device, precision):
            logits = reader.read(tokens)
            for row, penalty in penalties.items():
                penalty.apply(logits[row])
            logits[:, model.token_ids.image] = float("-inf")
            likeliest: list[int] = logits.argmax(dim=-1).tolist()
            chosen: list[int | None] = [None] * len(options)
            for row in going:
                one = options[row]
                chosen[row] = likeliest[row] if one.temperature == 0 else _draw(logits[row], one, generators[row])
                counts[row] += 1
                if row in penalties:
                    penalties[row].add(chosen[row])
        yield chosen
        going = {row for row in going if chosen[row] not in stop and counts[row] < options[row].max_new_tokens}
        following = [token if token is not None else model.token_ids.pad for token in chosen]
        tokens = torch.tensor(following, device=device)[:, None]


class _Penalty:
    """What the penalties of one row take off the logits: see `AnswerOptions`."""

    def __init__(self, prompt: Tensor, options: AnswerOptions, model: Otter, stop: Collection[int]) -> None:
        self._options = options
        self._counts = torch.zeros(model.language.lm.get_output_embeddings().weight.shape[0], device=prompt.device)
        self._seen = torch.zeros_like(self._counts, dtype=torch.bool)
        self._seen[prompt] = True
        # Otherwise the ends of earlier turns would keep an answer from ending.
        ids = model.token_ids
        self._spared = {*stop, ids.image, ids.endofchunk, ids.answer, ids.pad}
        self._seen[sorted(self._spared)] = False

    def add(self, token: int | None) -> None:
        """Count a token of the answer."""
        if token is not None and token not in self._spared:
            self._counts[token] += 1
            self._seen[token] = True

    def apply(self, logits: Tensor) -> None:
        """Change ``logits`` (vocabulary) in place."""
        one = self._options
        scaled = torch.where(logits > 0, logits / one.repetition_penalty, logits * one.repetition_penalty)
        logits.copy_(torch.where(self._seen, scaled, logits))
        logits.sub_(one.frequency_penalty * self._counts + one.presence_penalty * (self._counts > 0))


def _draw(logits: Tensor, options: AnswerOptions, generator: torch.Generator) -> int:
    """A token of ``logits`` (vocabulary), drawn on the CPU so that a seed means the same on every device."""
    probabilities = (logits.float().cpu() / options.temperature).softmax(dim=-1)
    ordered, ids = probabilities.sort(descending=True, stable=True)
    # A token stays while those before it fall short of top_p, so the likeliest always does.
    kept = ordered.cumsum(dim=-1) - ordered < options.top_p
    place = torch.multinomial(ordered * kept, 1, generator=generator)
    return int(ids[place])


_UNFINISHED: Final = "\ufffd"
"""What a tokenizer decodes an incomplete character to, whose last bytes are in later tokens."""


class TextStream:
    """The text of one answer as its tokens arrive.

    White space at either end is left out, characters are given once they are whole, and the text ends before the first
    of ``stops`` to be complete; ``stopped`` tells that this happened. Cost: each token is decoded with the few before
    it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        self._ids: list[int] = []
        self._window = 0  # tokens before it are never looked at again
        self._read = 0  # tokens before it have been turned into text
        self._held = ""  # text that may yet be white space at the end, or the beginning of a stop
        self._begun = False

    def add(self, token: int) -> str:
        """The text that is certain after one more token; often empty."""
        self._ids.append(token)
        before = self._decode(self._window, self._read)
        now = self._decode(self._window, len(self._ids))
        if now.endswith(_UNFINISHED):
            return ""
        self._window, self._read = self._read, len(self._ids)
        return self._give(now[len(before) :], at_end=False)

    def end(self) -> str:
        """The rest of the text."""
        before = self._decode(self._window, self._read)
        return self._give(self._decode(self._window, len(self._ids))[len(before) :], at_end=True)

    def _decode(self, start: int, end: int) -> str:
        text: str = self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True)
        return text

    def _give(self, text: str, *, at_end: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        if not self._begun:
            text = text.lstrip()
        met = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if met:
            self.stopped = True
            text, at_end = text[: min(met)[1]], True
        sure = len(text[: len(text) if at_end else self._before_possible_stop(text)].rstrip())
        self._held = "" if at_end else text[sure:]
        self._begun = self._begun or sure > 0
        return text[:sure]

    def _before_possible_stop(self, text: str) -> int:
        """The length of ``text`` without an end that may be the beginning of a stop."""
        for start in range(max(0, len(text) - max(map(len, self._stops), default=0) + 1), len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stops):
                return start
        return len(text)
