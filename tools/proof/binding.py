"""Does it learn in context? Invented names for kinds of things that training never saw, told by examples alone.

    python -m tools.proof.binding --folder .proof/binding

The parts are those of `tools.proof.easy_vqa`, one latent for each picture; the head of the frozen tower tells only what
most pictures of the training differ in (`tools.proof.pretrained.compact_head`). Only the shipped commands work on the
data: ``mimicit build``, ``python -m otter_train`` (for each seed with context and without, in two trainings each) and
``python -m otter_train.evaluate``. Each is printed before it runs; what is finished is not repeated; after a change of
options take another folder. Two Debian packages and eight of npm hold the pictures: needs apt-get, dpkg-deb and npm.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tools.proof import emoji
from tools.proof.episodes import Episode, alike, dealt_anew, draw, named, rows
from tools.proof.pictures import kinds_of, squares, unpack
from tools.proof.runs import ask, build, side_by_side, train, write_tower
from tools.proof.scores import across, interval

TRAIN: Final = {
    "--preset": "tiny",
    "--vision-model": "vision/",
    "--vision-cache": "features/",
    "--template": "plain",
    "--latents": "1",
    "--latent-std": "0.01",
    "--perceiver-width": "64",
    "--cross-attention-every": "1",
    "--lr": "1e-3",
    "--beta2": "0.95",
    "--batch-size": "32",
    "--max-tokens": "96",
    "--workers": "0",
}
"""How the model is trained: a small language model from scratch behind the frozen vision tower."""

SIZES: Final = ((2, 1), (2, 2), (2, 4), (4, 1), (4, 2))
"""What is asked: ways (kinds of an episode), shots (pictures of each)."""

SETS: Final = {"emoji": "emoji", "stamps": "stamps and clip art"}
"""Where the kinds come from: the name of each set in folders, and in words."""

_DEALT: Final = (2, 2)
_LONGER: Final = 2.5  # the second training, than the first
_FITTED: Final = 800  # pictures that the head of the tower is fitted to
_SECOND: Final = 10  # added to the seed of the second training
_TRAINING_SEED: Final = 0
_HELD_OUT_SEED: Final = 1
_DEAL_SEED: Final = 2

Kinds = Mapping[str, Sequence[str]]
"""The pictures of each kind."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a training shows: sizes (ways, shots), each as often as it stands here, and shares of three sorts.

    With true words, which are those of kinds of the first set; about single pictures; and, of all others, those that
    ask about a picture of the context (`tools.proof.episodes`).
    """

    sizes: Sequence[tuple[int, int]]
    named: float
    alike: float
    again: float

    def draw(self, sets: Sequence[Kinds], rng: random.Random) -> Episode:
        """One episode."""
        which, (ways, shots) = rng.random(), rng.choice(self.sizes)
        if which < self.named:
            return named(sets[0], rng, ways=ways, shots=shots)
        kinds = rng.choice(sets)
        if which < self.named + self.alike:
            return alike(kinds, rng, ways=ways, shots=shots)
        return draw(kinds, rng, ways=ways, shots=shots, again=self.again)


FIRST: Final = Lessons(((2, 1), (2, 2), (2, 2), (4, 1), (2, 4), (4, 2)), named=0.4, alike=0.25, again=0.2)
"""To begin to compare: much that pays for telling kinds apart from the first step on."""

SECOND: Final = Lessons(((2, 2), (2, 4), (3, 3), (4, 2)), named=0.1, alike=0.1, again=0.1)
"""To compare well: many pictures, for the first of each kind in an episode can't be known and teaches nothing."""


@dataclass(frozen=True, slots=True)
class Question:
    """Episodes of one size, about held-out kinds of one of `SETS`, put to the runs on the shards ``trained``."""

    meaning: str
    set: str
    ways: int
    shots: int
    trained: str = "shards"
    dealt: bool = False

    @property
    def source(self) -> str:
        """The folder of its episodes, below that of the proof; ``-raw`` is what they are built from."""
        return f"{'dealt-anew' if self.dealt else 'held-out'}-{self.set}-{self.ways}x{self.shots}"


ASKED: Final = tuple(
    question
    for name in SETS
    for question in (
        *(Question("with its context", name, *size) for size in SIZES),
        Question("the names of the context dealt out anew", name, *_DEALT, dealt=True),
        *(
            Question("a model trained without context (`--shots 0`)", name, 2, shots, trained="shards-alone")
            for shots in (1, 2, 4)
        ),
    )
)


def main() -> None:
    """Fetch, lay out, build; train with context and without; ask with true names, and with names dealt out anew."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".proof/binding"))
    parser.add_argument("--episodes", type=int, default=32_000, help="of the first training")
    parser.add_argument("--held-out-episodes", type=int, default=200, help="to ask, of each size")
    parser.add_argument("--max-steps", type=int, default=2_000, help="of 32 episodes, in the first training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    lay_out(folder, options.episodes, options.held_out_episodes)
    pictures = sorted((folder / "raw" / "pictures").rglob("*.png"))
    write_tower(folder, pictures[:: max(1, len(pictures) // _FITTED)])
    most = str(max(ways * shots for ways, shots in (*SIZES, *FIRST.sizes, *SECOND.sizes)))
    for name, source in (("begin", "begin-raw"), ("shards", "raw")):
        build(folder, source, name, "--context", "related", "--shots", most, "--dedupe")
        build(folder, source, f"{name}-alone", "--context", "related", "--shots", "0", "--dedupe")
    for source in sorted({question.source for question in ASKED}):
        build(folder, f"{source}-raw", source, "--context", "related", "--shots", most, "--dedupe")
    each = side_by_side(
        {
            (seed, trained): partial(one_run, folder, seed, trained, options.max_steps)
            for trained in ("shards", "shards-alone")
            for seed in options.seeds
        }
    )
    found = {seed: each[seed, "shards"] | each[seed, "shards-alone"] for seed in options.seeds}
    text = "\n".join(table(found))
    (folder / "binding.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nproof: the table is in {folder / 'binding.md'}")


def lay_out(folder: Path, episodes: int, held_out_episodes: int) -> None:
    """``begin-raw/`` and ``raw/`` to train on, and what each of `ASKED` is built from.

    The manifest is the last that is written of each.
    """
    sources = {f"{question.source}-raw" for question in ASKED}
    if all((folder / name / "manifest.jsonl").exists() for name in ("begin-raw", "raw", *sources)):
        return
    unpack(folder / "packages" / "pictures")
    stamps, held_out_stamps = kinds_of(folder / "packages" / "pictures")
    drawn = emoji.kinds_of({family: emoji.read(path) for family, path in emoji.fetch(folder / "packages").items()})
    trained, held_out_names = emoji.split(drawn)
    known = [partial(squares, stamps), partial(emoji.rendered, {kind: drawn[kind] for kind in trained})]
    rng = random.Random(_TRAINING_SEED)
    longer = round(_LONGER * episodes)
    for name, writers, count, lessons in (("begin-raw", known[:1], episodes, FIRST), ("raw", known, longer, SECOND)):
        sets = [dict(write(folder / name)) for write in writers]
        write_manifest(folder / name, (lessons.draw(sets, rng) for _ in range(count)))
    held_out = {
        "stamps": partial(squares, held_out_stamps),
        "emoji": partial(emoji.rendered, {kind: drawn[kind] for kind in held_out_names}),
    }
    for question in ASKED:
        source = folder / f"{question.source}-raw"
        if (source / "manifest.jsonl").exists():
            continue
        kinds = dict(held_out[question.set](source))
        rng, dealer = random.Random(_HELD_OUT_SEED), random.Random(_DEAL_SEED)
        asked = [draw(kinds, rng, ways=question.ways, shots=question.shots) for _ in range(held_out_episodes)]
        write_manifest(source, (dealt_anew(one, dealer) for one in asked) if question.dealt else asked)


def write_manifest(folder: Path, episodes: Iterable[Episode]) -> None:
    """``manifest.jsonl`` in ``folder``; whole or not at all."""
    lines = [json.dumps(row) + "\n" for number, one in enumerate(episodes) for row in rows(f"e{number:05d}", one)]
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / "manifest.jsonl.new"
    new.write_text("".join(lines), encoding="utf-8")
    new.rename(folder / "manifest.jsonl")


def table(found: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: of each thing asked, the share of right choices over the seeds, and of each of them."""
    seeds = sorted(found)
    yield f"| kinds | asked | ways | shots | mean ± 95% | {' | '.join(f'seed {seed} [95%]' for seed in seeds)} |"
    yield f"| --- | --- | --- | --- | --- | {' | '.join('---' for _ in seeds)} |"
    for question in ASKED:
        choices = [found[seed][name_of(question)]["results"][0]["all"]["choice"] for seed in seeds]
        mean = f"{choices[0]['value']:.1%}"
        if len(seeds) > 1:
            score = across([choice["value"] for choice in choices])
            mean = f"{score.mean:.1%} ± {score.margin:.1%}"
        each = " | ".join(interval(choice, ".1%") for choice in choices)
        words = f"{SETS[question.set]} | {question.meaning}"
        yield f"| {words} | {question.ways} | {question.shots} | {mean} | {each} |"


def name_of(question: Question) -> str:
    """What its evaluation is called, but for the seed."""
    return f"{question.source}-{question.trained}"


def one_run(folder: Path, seed: int, shards: str, max_steps: int) -> dict[str, Any]:
    """The evaluations of the run on ``shards`` with ``seed``, by what is asked of it; it is trained first.

    Twice: comparing is soon found on stamps and clip art alone (`FIRST`), and then learned for many more kinds
    (`SECOND`), with a rate that begins anew.
    """
    first, second = ({**TRAIN, "--max-steps": str(steps)} for steps in (max_steps, round(_LONGER * max_steps)))
    begun, trained = f"begun-{shards}-{seed}", f"run-{shards}-{seed}"
    train(folder, shards.replace("shards", "begin"), begun, seed, first)
    train(folder, shards, trained, _SECOND + seed, {**second, "--init-from": f"{begun}/"})
    found = {}
    for question in ASKED:
        if question.trained == shards:
            shots = str(question.ways * question.shots)
            options = ["--shots", shots, "--max-new-tokens", "8", "--batch-size", "200"]  # a name has three letters
            name = name_of(question)
            found[name] = ask(folder, trained, question.source, f"evaluation-{name}-{seed}", options)
    return found


if __name__ == "__main__":
    main()
