"""Samples in memory for the training program: plain squares of one colour, and a question about it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image

from mimicit.loading import Order
from mimicit.loading.order import PARTS
from mimicit.records import Media, Sample, Triplet
from otter_train.data.tokenizer import train_tokenizer
from otter_train.model import ModelConfig
from otter_train.model.config import LanguageConfig, PerceiverConfig, VisionConfig

torch.set_num_threads(1)  # models this small lose more to waiting threads than they gain

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250)}
WORDS = [
    "User:which colour? GPT:",
    *COLOURS,
    "a much longer question about nothing at all, with many words",
    "yes",
    "no",
]
TOKENIZER = train_tokenizer(WORDS * 3)

MINUTE_MODEL = ModelConfig(
    language=LanguageConfig(
        architecture={
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "initializer_range": 0.15,
        }
    ),
    vision=VisionConfig(image_size=16, patch_size=8, width=32, layers=1, heads=2, mlp_ratio=2),
    perceiver=PerceiverConfig(depth=1, dim_head=16, heads=2, num_latents=4),
    cross_attention_every=1,
    cross_attention_heads=2,
    cross_attention_dim_head=16,
    cross_attention_gate=1.0,
)
"""Stands in for the `tiny` preset where a test needs many steps."""


def png(colour: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def image(*frames: bytes, kind: str = "image", size: tuple[int, int] = (16, 16), origin: str = "a.png") -> Media:
    """A medium with its bytes; more than one frame needs ``kind="video"``."""
    is_video = kind == "video"
    return Media(
        kind="video" if is_video else "image",
        files=tuple(f"{place:03d}.png" for place in range(len(frames))),
        width=size[0],
        height=size[1],
        sha256=tuple(hashlib.sha256(frame).hexdigest() for frame in frames),
        origin=origin,
        timestamps_s=tuple(map(float, range(len(frames)))) if is_video else None,
        duration_s=float(len(frames)) if is_video else None,
        data=frames,
    )


def sample(*triplets: Triplet, media: Sequence[Media] = (), id: str = "s", source: str = "test") -> Sample:
    """A sample of ``triplets``, the last of which becomes the query."""
    roles = [replace(triplet, role="context") for triplet in triplets[:-1]]
    return Sample(id=id, source=source, media=tuple(media), triplets=(*roles, replace(triplets[-1], role="query")))


def triplet(
    question: str = "which colour?", answer: str = "red", *, media: Sequence[int] = (), relation: str | None = None
) -> Triplet:
    """A triplet that shows ``media``."""
    return Triplet(id="t", role="context", media=tuple(media), instruction=question, answer=answer, relation=relation)


def conversation() -> Sample:
    """Turn 0 shows one picture, turn 1 another, turns 2 and 3 go on about the second."""
    return sample(
        triplet("first?", media=[0]),
        triplet("second?", media=[1], relation="conversation"),
        triplet("third?", relation="conversation"),
        triplet("fourth?"),
        media=[image(png((255, 0, 0)), origin="one"), image(png((255, 0, 0)), origin="two")],
    )


@dataclass
class Colours:
    """``count`` samples in shuffled order, each a coloured square and one earlier turn about the same square."""

    count: int = 12
    seed: int = 0
    fingerprint: str = "colours"
    broken: int | None = None
    """The stored index of a sample whose picture is damaged."""
    sources: tuple[str, ...] = ("test",)

    def __len__(self) -> int:
        return self.count

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the parts that a loader tells apart."""
        return {**dict.fromkeys(PARTS, ""), "content": self.fingerprint, "order": str(self.seed)}

    def addresses(self, positions: Sequence[int]) -> list[int]:
        """The stored indices at ``positions`` of the endless order."""
        rows: list[int] = Order(length=self.count, shuffle="full", seed=self.seed).at(list(positions)).tolist()
        return rows

    @property
    def fetch(self) -> Callable[[int], Sample]:
        """Reads a sample by its stored index."""
        return self.stored

    def __getitem__(self, position: int) -> Sample:
        return self.get(position)

    def get(self, position: int) -> Sample:
        """The sample at ``position`` of the endless order."""
        return self.stored(self.addresses([position])[0])

    def stored(self, row: int) -> Sample:
        """The sample with the stored index ``row``."""
        name = list(COLOURS)[row % len(COLOURS)]
        data = png(COLOURS[name])
        medium = image(data[:40] if row == self.broken else data, origin=f"{name}-{row}.png")
        other = list(COLOURS)[(row // len(COLOURS)) % len(COLOURS)]
        return sample(
            triplet(f"{other}?", "yes" if other == name else "no", media=[0], relation="same_media"),
            triplet("which colour?", name),
            media=[medium],
            id=f"sample-{row}",
            source=self.sources[row % len(self.sources)],
        )
