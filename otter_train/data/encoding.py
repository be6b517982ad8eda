"""From a `Sample` to token ids and labels: the prompt, what is learned of it, and what is cut when it is too long.

The prompt is ``<s>`` + `mimicit.prompt.render` + ``</s>``. Labels are the ids themselves where the model is to learn
them and `IGNORED` elsewhere; the model compares position *t* with its prediction at *t - 1*.

Context can be dropped or reordered; the query always stays, and stays last. A triplet that shows nothing is about the
medium shown last before it, so a picture and the turns about it form a block, which is moved and kept as a whole.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from mimicit.errors import TrainError
from mimicit.prompt import IMAGE, drop_context, pieces, with_triplets
from mimicit.records import Sample, Triplet
from otter_train.config.run_config import ContextOrder, LabelMode
from otter_train.data.tokenizer import PromptTokenizer, SpecialIds, special_ids
from otter_train.model.packing import IGNORED

_ORDERED: Final = ("conversation", "document")
"""Relations whose triplets mean something in their own order only."""


class UnshowableError(TrainError):
    """A sample that no prompt can be made of; the message names it. Training and evaluation leave it out."""


class TooLongError(UnshowableError):
    """The pictures and the bare prompt of a query do not fit into ``--max-tokens``."""


class Cut(NamedTuple):
    """How much did not fit into ``--max-tokens``.

    Counts dropped context triplets, shortened instructions, and answers that are too long by themselves. Nothing is
    learned from those: half an answer would teach the model to stop there. The last text of a document loses its end.
    """

    context_triplets: int = 0
    instructions: int = 0
    answers: int = 0

    def in_words(self, most: int) -> str:
        """What of a question did not fit into ``most`` tokens, for a person to read; empty if nothing."""
        parts = []
        if self.context_triplets:
            parts.append(f"the first {self.context_triplets} of what was said or shown before")
        if self.instructions:
            parts.append("the beginning of the question")
        return f"left out, because more than {most} tokens do not fit: {' and '.join(parts)}" if parts else ""

    def plus(self, other: Cut) -> Cut:
        """The sum, field by field."""
        return Cut(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One prompt. ``sample`` is what is left after cutting: its media are the pictures to show, in order."""

    sample: Sample
    ids: list[int]
    labels: list[int]
    cut: Cut


class PromptEncoder:
    """Turns samples into prompts of at most ``max_tokens`` tokens.

    Too long a sample loses whole context triplets, farthest first, together with their media; then the beginning
    of the query's instruction. An answer that is too long by itself is not learned (see `Cut`). The context is shown
    in its own order or, ``shuffled``, in one that ``seed`` and the sample decide. A text longer than
    ``most_characters`` cannot fit, whatever its tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str = "otter",
        max_tokens: int = 512,
        label_mode: LabelMode = "span",
        context_order: ContextOrder = "as-is",
        seed: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.special: SpecialIds = special_ids(tokenizer)
        self._prompt_tokenizer = PromptTokenizer(tokenizer)
        self.template = template
        self.max_tokens = max_tokens
        self.label_mode: LabelMode = label_mode
        self.context_order: ContextOrder = context_order
        self.seed = seed
        # No token stands for more characters than the longest in the vocabulary has.
        self.most_characters = (max_tokens + 1) * max(map(len, tokenizer.get_vocab()))

    def without_limit(self) -> PromptEncoder:
        """The same encoder for prompts of any length."""
        return PromptEncoder(
            self.tokenizer,
            template=self.template,
            max_tokens=sys.maxsize,
            label_mode=self.label_mode,
            context_order=self.context_order,
            seed=self.seed,
        )

    def encode(self, sample: Sample, *, with_answer: bool = True) -> Encoded:
        """The prompt of ``sample``; without the answer it ends at the query's ``<answer>``, ready to be answered.

        `TooLongError` names the sample if its pictures alone are too many, `TrainError` if their number is not what
        its triplets show.
        """
        if self.context_order == "shuffled":
            sample = shuffle_context(sample, self.seed)
        shorter = self._without_what_cannot_fit(sample)
        encoded = self._fitted(shorter, with_answer)
        if shorter is sample or self._is_cut_as_whole(encoded):
            return encoded
        return self._fitted(sample, with_answer)  # a tokenizer that makes one token of any number of spaces, say

    def _without_what_cannot_fit(self, sample: Sample) -> Sample:
        """``sample``, its texts without the end (instructions: the beginning) that would be cut anyway.

        Otherwise a whole text of a megabyte would be tokenised, several times, to keep some hundred tokens.
        """
        most = self.most_characters
        if all(len(triplet.instruction) <= most >= len(triplet.answer) for triplet in sample.triplets):
            return sample
        triplets = [
            replace(triplet, instruction=triplet.instruction[-most:], answer=triplet.answer[:most])
            for triplet in sample.triplets
        ]
        return replace(sample, triplets=tuple(triplets))

    def _is_cut_as_whole(self, encoded: Encoded) -> bool:
        """Whether every text that `_without_what_cannot_fit` shortened was dropped or cut further."""
        *context, query = encoded.sample.triplets
        whole = [text for triplet in context for text in (triplet.instruction, triplet.answer)]
        whole += [query.instruction] if encoded.cut.answers else [query.instruction, query.answer]
        return all(len(text) < self.most_characters for text in whole)

    def _fitted(self, sample: Sample, with_answer: bool) -> Encoded:
        ids = self._tokens(sample, with_answer)
        if len(ids) <= self.max_tokens:
            return self._encoded(sample, ids, Cut())
        shorter, ids = self._drop_what_does_not_fit(sample, ids, with_answer)
        dropped = len(sample.context) - len(shorter.context)
        full_query = shorter.query.instruction
        shorter, ids = self._shorten_instruction(shorter, ids, with_answer)
        cut = Cut(context_triplets=dropped, instructions=int(shorter.query.instruction != full_query))
        if len(ids) > self.max_tokens:
            ids = self._shorten_answer(shorter, ids, with_answer)
            cut = cut._replace(answers=1)
        return self._encoded(shorter, ids, cut)

    def why_not(self, sample: Sample) -> str:
        """Why ``sample`` must be left out (`UnshowableError`); empty if a prompt can be made of it."""
        try:
            self.encode(sample)
        except UnshowableError as error:
            return str(error)
        return ""

    def _encoded(self, sample: Sample, ids: list[int], cut: Cut) -> Encoded:
        if cut.answers and sample.query.relation != "document":
            return Encoded(sample=sample, ids=ids, labels=[IGNORED] * len(ids), cut=cut)
        return Encoded(sample=sample, ids=ids, labels=label_ids(ids, self.special, self.label_mode), cut=cut)

    def _tokens(self, sample: Sample, with_answer: bool) -> list[int]:
        shown = sum(len(triplet.media) for triplet in sample.triplets)
        if shown != len(sample.media):
            raise TrainError(
                f"sample {sample.id!r} of {sample.source}: its prompt has {shown} {IMAGE} where its media call for "
                f"{len(sample.media)}; build the shards again"
            )
        ids = self._prompt_tokenizer.encode(pieces(sample, self.template, with_answer=with_answer))
        if ids is None:
            raise UnshowableError(
                f"sample {sample.id!r} of {sample.source}: its words hold the name of a special token, which this "
                "tokenizer cannot read as words"
            )
        if self.special.bos is not None:
            ids = [self.special.bos, *ids]
        return [*ids, self.special.eos] if with_answer else ids

    def _drop_what_does_not_fit(self, sample: Sample, ids: list[int], with_answer: bool) -> tuple[Sample, list[int]]:
        shorter, drop = sample, 0
        excess = len(ids) - self.max_tokens
        for length in _chunk_lengths(ids, self.special.endofchunk)[: len(sample.context)]:
            drop, excess = drop + 1, excess - length
            if excess > 0:
                continue
            shorter = drop_context(sample, drop)
            ids = self._tokens(shorter, with_answer)
            excess = len(ids) - self.max_tokens  # a picture that had to stay may still make it too long
            if excess <= 0:
                return shorter, ids
        shorter = drop_context(sample, len(sample.context))
        return shorter, self._tokens(shorter, with_answer)

    def _shorten_instruction(self, sample: Sample, ids: list[int], with_answer: bool) -> tuple[Sample, list[int]]:
        while len(ids) > self.max_tokens and sample.query.instruction:
            excess = len(ids) - self.max_tokens
            instruction = sample.query.instruction
            # In characters and a little too few: the loop closes in on the limit from above.
            characters = max(1, excess * len(instruction) // len(ids))
            query = replace(sample.query, instruction=instruction[characters:])
            sample = replace(sample, triplets=(*sample.context, query))
            ids = self._tokens(sample, with_answer)
        return sample, ids

    def _shorten_answer(self, sample: Sample, ids: list[int], with_answer: bool) -> list[int]:
        shortened = ids[: self.max_tokens]
        is_document = sample.query.relation == "document"
        whole = shortened.count(self.special.image) == len(sample.media)
        answered = is_document or self.special.answer in shortened[:-1]
        if not (with_answer and whole and answered):
            raise TooLongError(
                f"sample {sample.id!r} of {sample.source}: {len(sample.media)} pictures and the bare prompt do not fit "
                f"into {self.max_tokens} tokens; raise --max-tokens"
            )
        return shortened


def label_ids(ids: Sequence[int], special: SpecialIds, mode: LabelMode) -> list[int]:
    """``ids`` where they are to be learned, `IGNORED` elsewhere.

    ``span``: in each chunk what follows ``<answer>`` up to and with ``<|endofchunk|>``, and the end of text; in a
    chunk without ``<answer>`` (an interleaved document) everything but its pictures. ``paper``: everything after
    the first ``<answer>`` except ``<answer>``, ``<image>`` and padding, so also the later instructions.
    """
    if mode == "paper" and special.answer in ids:
        labelled: Iterable[int] = range(ids.index(special.answer) + 1, len(ids))
        hidden = {special.answer, special.image, special.pad}
    else:
        labelled = _answer_spans(ids, special)
        hidden = {special.image, special.pad}
    labels = [IGNORED] * len(ids)
    for position in labelled:
        if ids[position] not in hidden:
            labels[position] = ids[position]
    return labels


def _chunk_lengths(ids: Sequence[int], endofchunk: int) -> list[int]:
    ends = [position + 1 for position, id in enumerate(ids) if id == endofchunk]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _answer_spans(ids: Sequence[int], special: SpecialIds) -> list[int]:
    """The positions that ``span`` learns: chunk by chunk; what follows the last chunk (end of text) is one more."""
    positions: list[int] = []
    start = 1 if ids and ids[0] == special.bos else 0
    while start < len(ids):
        end = _find(ids, special.endofchunk, start, len(ids) - 1) + 1
        answer = _find(ids, special.answer, start, -1, before=end)
        positions.extend(range(max(start, answer + 1), end))
        start = end
    return positions


def _find(ids: Sequence[int], id: int, start: int, otherwise: int, *, before: int | None = None) -> int:
    for position in range(start, len(ids) if before is None else before):
        if ids[position] == id:
            return position
    return otherwise


def shuffle_context(sample: Sample, seed: int) -> Sample:
    """``sample`` with its context in another order, the same one for the same ``seed``, source and id.

    Blocks trade places with each other. The turns of a conversation, documents, text before any picture, and the
    block of the query stay where they are.
    """
    blocks = _blocks(sample.triplets)
    free = [place for place, block in enumerate(blocks[:-1]) if _may_move(block)]
    drawn = sorted(free, key=lambda place: _draw(sample, seed, place))
    moved = list(blocks)
    for place, origin in zip(free, drawn, strict=True):
        moved[place] = blocks[origin]
    return with_triplets(sample, [triplet for block in moved for triplet in block])


def _blocks(triplets: Sequence[Triplet]) -> list[list[Triplet]]:
    blocks: list[list[Triplet]] = []
    for triplet in triplets:
        if triplet.media or not blocks:
            blocks.append([])
        blocks[-1].append(triplet)
    return blocks


def _may_move(block: Sequence[Triplet]) -> bool:
    return bool(block[0].media) and not any(triplet.relation in _ORDERED for triplet in block)


def _draw(sample: Sample, seed: int, place: int) -> bytes:
    return hashlib.blake2b(f"{seed}\0{sample.source}\0{sample.id}\0{place}".encode(), digest_size=16).digest()
