"""A small model and batches for single steps of training."""

from __future__ import annotations

import torch

from mimicit.records import Sample
from otter_train.data.batches import Batch, collate
from otter_train.data.encoding import PromptEncoder
from otter_train.data.tokenizer import special_ids
from otter_train.model import Otter, TokenIds, build_model, freeze
from otter_train.model.packing import IGNORED
from tests.factories.train import MINUTE_MODEL, TOKENIZER, Colours, image, png, sample, triplet

CPU = torch.device("cpu")
SPECIAL = special_ids(TOKENIZER)
LONG = sample(triplet("which colour?", "yes no red blue " * 20, media=[0]), media=[image(png((9, 9, 9)))])
TEXT = sample(triplet("which colour?", "no"))
SAMPLES = [*(Colours().get(place) for place in range(5)), LONG, TEXT]


def model() -> Otter:
    torch.manual_seed(0)
    ids = TokenIds(image=SPECIAL.image, endofchunk=SPECIAL.endofchunk, answer=SPECIAL.answer, pad=SPECIAL.pad)
    built = build_model(MINUTE_MODEL, vocab_size=len(TOKENIZER), token_ids=ids)
    freeze(built, "full", train_language=True)
    return built


def batch(*samples: Sample, masked: bool = False) -> Batch:
    made = collate([PromptEncoder(TOKENIZER).encode(one) for one in samples], pad=SPECIAL.pad, image_size=16)
    if not masked:
        return made
    return Batch(
        **{name: getattr(made, name) for name in made.__slots__ if name not in ("labels", "labelled")},
        labels=torch.full_like(made.labels, IGNORED),
        labelled=0,
    )
