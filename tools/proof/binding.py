"""Does it learn in context? Invented names for kinds of things that training never saw, told by examples alone.

    python -m tools.proof.binding --folder .proof/binding

The parts are those of `tools.proof.easy_vqa`, one latent for each picture; the head of the frozen tower tells only what
most pictures of the training differ in (`tools.proof.pretrained.compact_head`). Only the shipped commands work on the
data: ``mimicit build``, ``python -m otter_train`` (for each seed one run with context, one without) and ``python -m
otter_train.evaluate``. Each is printed before it runs; what is finished is not repeated; after a change of options take
another folder. Two Debian packages hold the pictures, so it needs apt-get and dpkg-deb.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.proof.episodes import Episode, alike, dealt_anew, draw, named, rows
from tools.proof.pictures import kinds_of, squares, unpack
from tools.proof.runs import ask, build, train, write_tower
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

_TRAINED_ON: Final = ((2, 1), (2, 2), (2, 2), (4, 1))
_DEALT: Final = (2, 2)
_NAMED, _ALIKE = 0.4, 0.25  # the shares of two of the three sorts of episodes
_FITTED: Final = 800  # pictures that the head of the tower is fitted to
_SECOND: Final = 10  # added to the seed of the second training: other episodes first
_TRAINING_SEED: Final = 0
_HELD_OUT_SEED: Final = 1
_DEAL_SEED: Final = 2


@dataclass(frozen=True, slots=True)
class Question:
    """Episodes of one size that are put to the runs on the shards ``trained``."""

    meaning: str
    ways: int
    shots: int
    trained: str = "shards"
    dealt: bool = False

    @property
    def source(self) -> str:
        """The folder of its episodes, below that of the proof; ``-raw`` is what they are built from."""
        return f"{'dealt-anew' if self.dealt else 'held-out'}-{self.ways}x{self.shots}"


ASKED: Final = (
    *(Question("with its context", *size) for size in SIZES),
    Question("the names of the context dealt out anew", *_DEALT, dealt=True),
    *(
        Question("a model trained without context (`--shots 0`)", 2, shots, trained="shards-alone")
        for shots in (1, 2, 4)
    ),
)


def main() -> None:
    """Fetch, lay out, build; train with context and without; ask with true names, and with names dealt out anew."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".proof/binding"))
    parser.add_argument("--episodes", type=int, default=32_000, help="to train on")
    parser.add_argument("--held-out-episodes", type=int, default=200, help="to ask, of each size")
    parser.add_argument("--max-steps", type=int, default=2_000, help="of 32 episodes, in each of two trainings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    lay_out(folder, options.episodes, options.held_out_episodes)
    pictures = sorted((folder / "raw" / "pictures").rglob("*.png"))
    write_tower(folder, pictures[:: max(1, len(pictures) // _FITTED)])
    most = max(ways * shots for ways, shots in (*SIZES, *_TRAINED_ON))
    for name, shots in (("shards", most), ("shards-alone", 0), *((question.source, most) for question in ASKED)):
        source = "raw" if name.startswith("shards") else f"{name}-raw"
        build(folder, source, name, "--context", "related", "--shots", str(shots), "--dedupe")
    found = {seed: one_seed(folder, seed, options.max_steps) for seed in options.seeds}
    text = "\n".join(table(found))
    (folder / "binding.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nproof: the table is in {folder / 'binding.md'}")


def lay_out(folder: Path, episodes: int, held_out_episodes: int) -> None:
    """``raw/`` to train on, and what each of `ASKED` is built from; the last of each folder is its manifest."""
    asked = {(question.ways, question.shots) for question in ASKED}
    sources = {f"{question.source}-raw" for question in ASKED}
    if all((folder / name / "manifest.jsonl").exists() for name in ("raw", *sources)):
        return
    unpack(folder / "packages" / "pictures")
    kinds, held_out = kinds_of(folder / "packages" / "pictures")
    rng = random.Random(_TRAINING_SEED)
    shown = dict(squares(kinds, folder / "raw"))
    write_manifest(folder / "raw", (lesson(shown, rng) for _ in range(episodes)))
    for ways, shots in sorted(asked):
        source = folder / f"held-out-{ways}x{shots}-raw"
        shown = dict(squares(held_out, source))
        rng = random.Random(_HELD_OUT_SEED)
        drawn = [draw(shown, rng, ways=ways, shots=shots) for _ in range(held_out_episodes)]
        write_manifest(source, drawn)
        if (ways, shots) == _DEALT:
            rng = random.Random(_DEAL_SEED)
            dealt = folder / f"dealt-anew-{ways}x{shots}-raw"
            dict(squares(held_out, dealt))
            write_manifest(dealt, (dealt_anew(episode, rng) for episode in drawn))


def lesson(kinds: Mapping[str, Sequence[str]], rng: random.Random) -> Episode:
    """An episode to learn from; see `tools.proof.episodes` for the sorts."""
    share, (ways, shots) = rng.random(), rng.choice(_TRAINED_ON)
    if share < _NAMED:
        return named(kinds, rng, ways=ways, shots=shots)
    if share < _NAMED + _ALIKE:
        return alike(kinds, rng, ways=ways, shots=shots)
    return draw(kinds, rng, ways=ways, shots=shots, again=0.2)


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
    yield f"| asked | ways | shots | mean ± 95% | {' | '.join(f'seed {seed} [95%]' for seed in seeds)} |"
    yield f"| --- | --- | --- | --- | {' | '.join('---' for _ in seeds)} |"
    for question in ASKED:
        choices = [found[seed][name_of(question)]["results"][0]["all"]["choice"] for seed in seeds]
        mean = f"{choices[0]['value']:.1%}"
        if len(seeds) > 1:
            score = across([choice["value"] for choice in choices])
            mean = f"{score.mean:.1%} ± {score.margin:.1%}"
        each = " | ".join(interval(choice, ".1%") for choice in choices)
        yield f"| {question.meaning} | {question.ways} | {question.shots} | {mean} | {each} |"


def name_of(question: Question) -> str:
    """What its evaluation is called, but for the seed."""
    return f"{question.source}-{question.trained}"


def one_seed(folder: Path, seed: int, max_steps: int) -> dict[str, Any]:
    """The evaluations of the runs with ``seed``, by what is asked of which run; they are trained first.

    Twice: when comparing is found, the rate of the first training has fallen too far to make much of it.
    """
    found = {}
    recipe = {**TRAIN, "--max-steps": str(max_steps)}
    for question in ASKED:
        begun, trained = f"begun-{question.trained}-{seed}", f"run-{question.trained}-{seed}"
        train(folder, question.trained, begun, seed, recipe)
        train(folder, question.trained, trained, _SECOND + seed, {**recipe, "--init-from": f"{begun}/"})
        shots = str(question.ways * question.shots)
        options = ["--shots", shots, "--max-new-tokens", "8", "--batch-size", "200"]  # a name has three letters
        found[name_of(question)] = ask(
            folder, trained, question.source, f"evaluation-{name_of(question)}-{seed}", options
        )
    return found


if __name__ == "__main__":
    main()
