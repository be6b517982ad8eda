"""The tiny preset learns eight pictures by heart, and says what it sees: with the pictures swapped it is wrong."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from PIL import Image

from mimicit.loading.order import PARTS
from mimicit.records import Media, Sample
from otter_train.config.run_config import RunOptions, resolve
from otter_train.inference import AnswerOptions
from otter_train.inference.answering import answer_each, load_trained_model
from otter_train.reporting.metrics import Console
from otter_train.training.loop import train
from tests.factories.train import image, sample, triplet

ANSWERS = ("apple", "bridge", "candle", "dragon", "engine", "forest", "guitar", "hammer")


def random_picture(seed: int) -> Media:
    """64 x 64 pixels: four by four fields of random colours."""
    generator = random.Random(seed)
    colours = [tuple(generator.randrange(256) for _ in range(3)) for _ in range(16)]
    picture = Image.new("RGB", (4, 4))
    picture.putdata(colours)
    data = io.BytesIO()
    picture.resize((64, 64), Image.Resampling.NEAREST).save(data, "PNG")
    return image(data.getvalue(), size=(64, 64))


class EightPictures:
    """The same question about eight pictures, epoch after epoch."""

    fingerprints: Mapping[str, str] = dict.fromkeys(PARTS, "eight")

    def __len__(self) -> int:
        return len(ANSWERS)

    def addresses(self, positions: Sequence[int]) -> list[int]:
        return [position % len(ANSWERS) for position in positions]

    def fetch(self, number: int) -> Sample:
        return sample(
            triplet("What is this?", ANSWERS[number], media=[0]), media=[random_picture(number)], id=str(number)
        )


def test_eight_pictures_are_learnt_by_heart_and_looked_at(tmp_path: Path) -> None:
    pictures = EightPictures()
    config = resolve("tiny", batch_size=8, epochs=1000, max_steps=55, lr=1e-3)
    options = RunOptions(save_every=0, log_every=50, device="cpu")
    train(config, pictures, tmp_path, options=options, console=Console(io.StringIO()))
    trained = load_trained_model(tmp_path, device="cpu")
    samples = [pictures.fetch(number) for number in range(8)]
    greedy = AnswerOptions(max_new_tokens=8)
    assert [answer for _, answer in answer_each(trained, samples, greedy)] == list(ANSWERS)
    swapped = [replace(one, media=samples[number - 1].media) for number, one in enumerate(samples)]
    fooled = [answer for _, answer in answer_each(trained, swapped, greedy)]
    assert not any(answer == truth for answer, truth in zip(fooled, ANSWERS, strict=True))
    assert fooled == [ANSWERS[number - 1] for number in range(8)]
