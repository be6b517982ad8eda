"""Episodes of in-context binding: things get invented names, and another picture asks which of them it is.

``[picture] a <answer> dax``, ``[picture] a <answer> wug``, ..., ``[picture] a <answer>`` ? The names are drawn anew
for every episode, so the answer stands nowhere but in the context: a model can give it only by comparing the picture
of the question with those before it. Pure: takes names of picture files and a generator, gives lines of a manifest.

Comparing is learned from three sorts of episodes. Where the names mean something else every time and nothing besides
rewards looking, a picture is only noise to a model that has not yet found out how to compare: it learns to look away.
Episodes with the true words of kinds (`named`) pay for telling kinds apart from the first step on. Those with single
pictures (`alike`) ask for more than what tells apart the kinds of the training.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final

INSTRUCTION: Final = "a"
"""All that is said beside the name. Short: the time of a step is that of its tokens."""

_CONSONANTS: Final = "bdfghklmnprstvz"
_ALL_NAMES: Final = [first + vowel + last for first in _CONSONANTS for vowel in "aeiou" for last in "bdgkmnpstx"]
NAMES: Final = tuple(sorted(random.Random(0).sample(_ALL_NAMES, 64)))
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
    return _episode([rng.sample(kinds[kind], shots + 1) for kind in chosen], _invented(rng, ways), rng, again)


def named(kinds: Mapping[str, Sequence[str]], rng: random.Random, *, ways: int = 2, shots: int = 2) -> Episode:
    """An episode whose names are the `word_of` of each kind; the context helps, but can be done without."""
    chosen = rng.sample(sorted(kinds), ways)
    names = [word_of(kind) for kind in chosen]
    return _episode([rng.sample(kinds[kind], shots + 1) for kind in chosen], names, rng)


def alike(kinds: Mapping[str, Sequence[str]], rng: random.Random, *, ways: int = 2, shots: int = 2) -> Episode:
    """An episode about single pictures, each shown ``shots`` times as it is, and once more.

    Every other time they are of one kind, and differ in less than kinds do.
    """
    kind = rng.choice(sorted(kinds)) if rng.random() < 0.5 else None
    pool = [picture for pictures in kinds.values() for picture in pictures] if kind is None else list(kinds[kind])
    chosen = rng.sample(pool, ways)
    return _episode([[picture] * (shots + 1) for picture in chosen], _invented(rng, ways), rng)


def word_of(kind: str) -> str:
    """What the pictures of the folder ``kind`` show, in English."""
    parts = [part for part in PurePosixPath(kind).parts if part != "cartoon"]
    word = parts[-1].replace("_", " ").replace("-", " ")
    return "violin" if word == "string" else word.removesuffix("s")


def _invented(rng: random.Random, count: int) -> list[str]:
    firsts = rng.sample(sorted({name[0] for name in NAMES}), count)
    return [rng.choice([name for name in NAMES if name[0] == first]) for first in firsts]


def _episode(shown: Sequence[Sequence[str]], names: Sequence[str], rng: random.Random, again: float = 0.0) -> Episode:
    """All pictures of a thing but the last are shown; the last of one thing is asked about, or one that was shown."""
    asked = rng.randrange(len(names))
    context = [(picture, name) for pictures, name in zip(shown, names, strict=True) for picture in pictures[:-1]]
    rng.shuffle(context)
    query = rng.choice(shown[asked][:-1]) if rng.random() < again else shown[asked][-1]
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
