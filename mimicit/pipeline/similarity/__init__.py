"""Find triplets that are alike, by text and by picture, for the strategies that need it; here, their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mimicit.context.candidates import SIMILAR, Guards
from mimicit.context.choose import parse_strategies
from mimicit.embedding.registry import parse_embedder
from mimicit.options import check, option

__all__ = ["ComparedText", "SimilarOptions", "compares_pictures"]

ComparedText = Literal["instruction", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarOptions:
    """What triplets are compared by, and what may be context all the same (see `mimicit.context.candidates`)."""

    text_embedder: str = option(
        "hashed",
        "Text embedder: hashed, open_clip:ARCHITECTURE:FILE_OR_TAG or transformers:FOLDER.",
        metavar="NAME[:SOURCE]",
    )
    image_embedder: str = option(
        "classical",
        "Image embedder: classical, open_clip:ARCHITECTURE:FILE_OR_TAG or transformers:FOLDER.",
        metavar="NAME[:SOURCE]",
    )
    similar_text: ComparedText = option("instruction", "Text to compare; all adds the answer, for captions.")
    min_score: float = option(-1.0, "Lowest cosine similarity of context chosen by similarity.", least=-1, most=1)
    allow_same_media: bool = option(False, "Let context chosen by similarity show the query's picture.")
    allow_same_answer: bool = option(False, "Let context chosen by similarity repeat question and answer of the query.")

    def __post_init__(self) -> None:
        check(self)
        parse_embedder("text", self.text_embedder)
        parse_embedder("image", self.image_embedder)

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
    if any(source.get("context_from") for source in config["sources"]):
        return True
    contexts = [config["context"], *(source["context"] for source in config["sources"])]
    names = {name for context in contexts if context is not None for name in parse_strategies(context)}
    return config["near_duplicates"] is not None or not names.isdisjoint(SIMILAR)
