"""What a trained model answers, and how likely it finds the true answers; it looks at each picture once.

`answers_by_shots` answers a few held-out questions, with more and more examples before them, for people to look at.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mimicit.records import Sample
from otter_train.assembly.models import autocast
from otter_train.data.batches import collate, normalise
from otter_train.evaluation.scores import Attempt, choices, with_shots
from otter_train.inference import AnswerOptions
from otter_train.inference.answering import TrainedModel, answer_each
from otter_train.model.packing import IGNORED
from otter_train.model.vision import VisionTower
from otter_train.reporting.run_report import Shown

_LOGITS_AT_ONCE: Final = 1 << 26  # 256 MiB of them

_SHOTS: Final = (0, 1, 2, 4, 8)
_MAX_NEW_TOKENS: Final = 64


def attempt_each(
    trained: TrainedModel, samples: Iterable[Sample], options: AnswerOptions, *, batch_size: int = 64
) -> Iterator[Attempt]:
    """The `Attempt` at each of ``samples``; they are read ``batch_size`` at a time."""
    stream = iter(samples)
    while batch := list(islice(stream, batch_size)):
        answers = answer_each(trained, batch, options, batch_size=batch_size)
        losses, chosen = answer_losses(trained, batch), choose_each(trained, batch)
        for (sample, answer), (nats, tokens), choice in zip(answers, losses, chosen, strict=True):
            yield Attempt(sample, answer, nats, tokens, choice.likeliest, choice.yes)


class Choice(NamedTuple):
    """The ``likeliest`` of the choices of a sample, None without choices; ``yes`` as in `Attempt`."""

    likeliest: str | None
    yes: float | None


def choose_each(trained: TrainedModel, samples: Sequence[Sample]) -> list[Choice]:
    """The `Choice` among what each sample offers, judged by the loss of whole texts with the end of the answer."""
    offered = [choices(sample) for sample in samples]
    pairs = [_answering(sample, choice) for sample, texts in zip(samples, offered, strict=True) for choice in texts]
    nats = iter(answer_losses(trained, pairs) if pairs else [])
    return [_choice([(next(nats)[0], text) for text in texts]) for texts in offered]


def answer_losses(trained: TrainedModel, samples: Sequence[Sample]) -> list[tuple[float, int]]:
    """For each sample's query: the loss of its answer in nats, summed over its tokens, and their number.

    The tokens are those that ``span`` learns of the last chunk: the answer, ``<|endofchunk|>`` and the end of text.
    An answer that is too long to be shown has none.
    """
    special = trained.encoder.special
    prompts = [trained.encoder.encode(sample) for sample in samples]
    longest = max(len(prompt.ids) for prompt in prompts)
    rows = max(1, _LOGITS_AT_ONCE // (longest * len(trained.tokenizer)))
    losses: list[tuple[float, int]] = []
    for start in range(0, len(prompts), rows):
        batch = collate(prompts[start : start + rows], pad=special.pad, image_size=trained.model.vision.image_size)
        batch = batch.to(trained.device)
        vision_x = normalise(batch.vision_x, trained.model.vision.mean, trained.model.vision.std)
        with torch.no_grad(), autocast(trained.device, trained.precision):
            logits = trained.model(
                vision_x, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask, firsts=batch.firsts
            ).logits
        answers_before = (batch.lang_x == special.answer).flip(-1).cumsum(-1).flip(-1)
        targets = batch.labels.masked_fill(answers_before > 0, IGNORED)[:, 1:]
        nats = F.cross_entropy(logits[:, :-1].mT, targets, ignore_index=IGNORED, reduction="none").sum(-1)
        losses.extend(zip(nats.tolist(), (targets != IGNORED).sum(-1).tolist(), strict=True))
    return losses


class CachedTower(VisionTower):
    """``tower``, whose patch tokens of the last pictures are kept in memory, up to ``limit_bytes`` of them.

    Pictures are the same if all their numbers are. The weights must not change meanwhile.
    """

    def __init__(self, tower: VisionTower, *, limit_bytes: int = 1 << 30) -> None:
        super().__init__(dim=tower.dim, image_size=tower.image_size, mean=tower.mean, std=tower.std)
        self.tower = tower
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._kept_bytes = 0

    def patch_tokens(self, pictures: Tensor) -> Tensor:
        """Like those of the tower, bit for bit unless a picture was encoded in another batch."""
        keys = [hashlib.sha256(picture.numpy().data).digest() for picture in pictures.cpu().contiguous()]
        first = {key: place for place, key in reversed([*enumerate(keys)])}
        found = {key: self._kept[key] for key in first if key in self._kept}
        missing = [key for key in first if key not in found]
        if missing:
            fresh = self.tower(pictures[[first[key] for key in missing]])
            found.update(zip(missing, fresh, strict=True))
        for key in first:
            self._keep(key, found[key])
        return torch.stack([found[key] for key in keys])

    def pooling_head(self) -> list[nn.Parameter]:
        """The pooling head of the tower."""
        return self.tower.pooling_head()

    def _keep(self, key: bytes, tokens: Tensor) -> None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        self._kept[key] = tokens.clone()  # not a view that would keep its whole batch
        self._kept_bytes += tokens.nbytes
        while self._kept_bytes > self._limit_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.nbytes


def answers_by_shots(trained: TrainedModel, samples: Sequence[Sample]) -> list[Shown]:
    """What the model says to each of ``samples`` with none, some and all of its examples shown before it."""
    shown = [Shown(sample, {}) for sample in samples]
    options = AnswerOptions(max_new_tokens=_MAX_NEW_TOKENS)
    for shots in _SHOTS:
        asked = [one for one in shown if shots <= len(one.sample.context)]
        prompts = [with_shots(one.sample, shots) for one in asked]
        for one, (_, answer) in zip(asked, answer_each(trained, prompts, options), strict=True):
            one.answers[shots] = answer
    return shown


def _choice(found: list[tuple[float, str]]) -> Choice:
    by_word = {text.casefold(): nats for nats, text in found}
    yes = 1 / (1 + math.exp(min(700.0, by_word["yes"] - by_word["no"]))) if by_word.keys() == {"yes", "no"} else None
    return Choice(min(found)[1] if found else None, yes)


def _answering(sample: Sample, answer: str) -> Sample:
    return replace(sample, triplets=(*sample.context, replace(sample.query, answer=answer)))
