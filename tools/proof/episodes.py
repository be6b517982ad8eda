"""Episodes of in-context binding: two kinds of things get invented names, and a third picture asks which it is.

``[picture] a <answer> dax``, ``[picture] a <answer> blicket``, ..., ``[picture] a <answer>`` ? The names are drawn anew
for every episode, so the answer stands nowhere but in the context: a model can give it only by comparing the picture
of the question with those before it. Pure: takes names of picture files and a generator, gives lines of a manifest.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

__all__ = ["INSTRUCTION", "NAMES", "Episode", "dealt_anew", "draw", "rows"]

INSTRUCTION: Final = "a"
"""All that is said beside the name. Short: the time of a step is that of its tokens."""

_CONSONANTS: Final = "bdfghklmnprstvz"
_VOWELS: Final = "aeiou"
NAMES: Final = tuple(first + vowel + last for first in _CONSONANTS for vowel in _VOWELS for last in "bdgkmnpstx")
"""The invented names: a consonant, a vowel, a consonant. Which thing one means is another in every episode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """Pictures with names, in the order they are shown, then the picture asked about and the name it should get.

    ``choices`` are the names of the episode, one for each kind of thing, in no order that tells anything.
    """

    context: tuple[tuple[str, str], ...]
    query: str
    name: str
    choices: tuple[str, ...]


def draw(
    kinds: Mapping[str, Sequence[str]], rng: random.Random, *, ways: int = 2, shots: int = 2, again: float = 0.0
) -> Episode:
    """An episode of ``ways`` of the ``kinds``, each shown ``shots`` times, in random order.

    ``kinds`` holds the pictures of each. Each of the ``ways`` is as likely to be asked for. With probability ``again``
    the picture asked about is one of the context, otherwise it is another of its kind. No two names of an episode
    begin with the same letter, so their first tokens differ in any tokenizer.
    """
    chosen = rng.sample(sorted(kinds), ways)
    names = [rng.choice([name for name in NAMES if name[0] == first]) for first in rng.sample(_CONSONANTS, ways)]
    shown = [rng.sample(kinds[kind], shots + 1) for kind in chosen]
    asked = rng.randrange(ways)
    context = [(picture, name) for pictures, name in zip(shown, names, strict=True) for picture in pictures[:shots]]
    rng.shuffle(context)
    query = rng.choice(shown[asked][:shots]) if rng.random() < again else shown[asked][shots]
    return Episode(context=tuple(context), query=query, name=names[asked], choices=tuple(sorted(names)))


def dealt_anew(episode: Episode, rng: random.Random) -> Episode:
    """``episode`` with the names of its context dealt out to its pictures at random: they no longer tell anything."""
    names = [name for _, name in episode.context]
    rng.shuffle(names)
    pictures = [picture for picture, _ in episode.context]
    return replace(episode, context=tuple(zip(pictures, names, strict=True)))


def rows(id: str, episode: Episode) -> Iterator[dict[str, Any]]:
    """The lines of a manifest that make ``episode`` one sample: its context, which is never asked, and its query."""
    names = [f"{id}-{number}" for number in range(len(episode.context))]
    for name, (picture, answer) in zip(names, episode.context, strict=True):
        yield {"id": name, "media": picture, "instruction": INSTRUCTION, "answer": answer, "query": False}
    yield {
        "id": id,
        "media": episode.query,
        "instruction": INSTRUCTION,
        "answer": episode.name,
        "related": names[::-1],  # a build shows the first of them last, right before the query
        "meta": {"choices": list(episode.choices)},
    }
