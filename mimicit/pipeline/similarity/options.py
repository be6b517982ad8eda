"""The options of the strategies that compare triplets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from mimicit.context.choose import parse_strategies
from mimicit.context.neighbours import SIMILAR, Guards
from mimicit.embedding.registry import IMAGE_EMBEDDERS, TEXT_EMBEDDERS, parse_embedder
from mimicit.errors import UsageError

__all__ = ["ComparedText", "SimilarOptions", "compares_pictures"]

ComparedText = Literal["instruction", "all"]
_KNOWN_TEXTS: Final = get_args(ComparedText)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarOptions:
    """What triplets are compared by, and what may be context all the same.

    ``text_embedder`` and ``image_embedder`` are ``NAME`` or ``NAME:SOURCE`` (see `mimicit.embedding.registry`);
    ``similar_text`` compares instructions, or ``all``: instruction and answer, for captions, whose instructions say
    nothing. The rest is as in `mimicit.context.neighbours.Guards`.
    """

    text_embedder: str = "hashed"
    image_embedder: str = "classical"
    similar_text: ComparedText = "instruction"
    min_score: float = -1.0
    allow_same_media: bool = False
    allow_same_answer: bool = False

    def __post_init__(self) -> None:
        parse_embedder("--text-embedder", self.text_embedder, TEXT_EMBEDDERS)
        parse_embedder("--image-embedder", self.image_embedder, IMAGE_EMBEDDERS)
        if self.similar_text not in _KNOWN_TEXTS:
            raise UsageError(f"--similar-text: no choice {self.similar_text!r}; there are: {', '.join(_KNOWN_TEXTS)}")
        if not -1 <= self.min_score <= 1:
            raise UsageError(f"--min-score: {self.min_score} is no cosine; it lies between -1 and 1")

    @property
    def guards(self) -> Guards:
        """The guards of the choice."""
        return Guards(
            allow_same_media=self.allow_same_media,
            allow_same_answer=self.allow_same_answer,
            min_score=self.min_score,
        )


def compares_pictures(config: Mapping[str, Any]) -> bool:
    """Whether a build of ``config`` (as JSON) notes how each picture looks: to leave copies out, or for the guards."""
    contexts = [config["context"], *(source["context"] for source in config["sources"])]
    names = {name for context in contexts if context is not None for name in parse_strategies(context)}
    return config["near_duplicates"] is not None or not names.isdisjoint(SIMILAR)
