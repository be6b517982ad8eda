"""Does it describe what it sees? Captions of drawings that training never saw; and what helps in learning them.

    python -m tools.proof.captions --folder .proof/captions

The drawings and photos are Tux Paint's stamps (a Debian package: needs apt-get and dpkg-deb); every sixth is held out.
The model is that of `tools.proof.easy_vqa`, by the shipped commands alone. Then one thing is changed at a time. What
has context is asked without examples and with two, chosen as those of its training: other held-out pictures with
their captions.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

from tools.proof.pictures import STAMPS, unpack, write_square
from tools.proof.runs import SEEING, ask, build, side_by_side, train, write_tower
from tools.proof.scores import across, interval

_RECIPE: Final = {**SEEING, "--epochs": "20", "--max-steps": "0"}
_HELD_OUT_EACH: Final = 6

_SHOTS: Final = (0, 2)


@dataclass(frozen=True, slots=True)
class Variation:
    """``context`` is that of ``mimicit build`` (empty: none), ``recipe`` what differs in the training."""

    meaning: str
    context: str = ""
    recipe: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its runs, but for the seed."""
        return "-".join([self.context or "alone", *(word.strip("-") for pair in self.recipe.items() for word in pair)])


VARIATIONS: Final = (
    Variation("no context"),
    Variation("random context", "random"),
    Variation("context of similar pictures", "image-similar"),
    Variation("context of the same category", "related"),
    Variation("random context, labels as the paper's code", "random", {"--label-mode": "paper"}),
    Variation("no context, embeddings of new tokens alone", "", {"--embeddings": "new_rows"}),
    Variation("no context, embeddings as they were drawn", "", {"--embeddings": "none"}),
)


def main() -> None:
    """Fetch, lay out, build; then train and ask each variation with each seed, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".proof/captions"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    unpack(folder / "packages" / "pictures", (STAMPS,))
    lay_out(folder / "packages" / "pictures" / STAMPS, folder)
    write_tower(folder)
    for context in sorted({variation.context for variation in VARIATIONS}):
        chosen = ("--context", context, "--shots", str(max(_SHOTS))) if context else ("--shots", "0")
        for source, name in (("raw", "shards"), ("held-out-raw", "held-out")):
            build(folder, source, f"{name}-{context or 'alone'}", *chosen)
    each = side_by_side(
        {
            (variation.name, seed): partial(one_run, folder, variation, seed)
            for variation in VARIATIONS
            for seed in options.seeds
        }
    )
    found = {variation.name: {seed: each[variation.name, seed] for seed in options.seeds} for variation in VARIATIONS}
    text = "\n".join([*table(found[VARIATIONS[0].name]), "", *comparison(found)])
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nproof: the tables are in {folder / 'table.md'}")


def lay_out(stamps: Path, folder: Path) -> None:
    """``raw/`` and ``held-out-raw/``: pictures as squares, and a manifest of those with an English caption.

    Each names as related those in the same folder of the package, in random order.
    """
    targets = {False: folder / "raw", True: folder / "held-out-raw"}
    if all((target / "manifest.jsonl").exists() for target in targets.values()):
        return
    rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for number, text in enumerate(sorted(stamps.rglob("*.txt"))):
        picture = text.with_suffix(".png")
        caption = text.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip()
        is_held_out = number % _HELD_OUT_EACH == 0
        name = picture.relative_to(stamps).as_posix()
        if caption and picture.exists() and write_square(picture, targets[is_held_out] / name):
            rows[is_held_out].append({"id": name, "media": name, "answer": caption})
    for is_held_out, target in targets.items():
        lines = [json.dumps(row) + "\n" for row in with_category(rows[is_held_out])]
        (target / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")


def with_category(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """``rows``, each with the ids of the others in its folder as ``related``, in an order that its own id decides."""
    folders: dict[PurePosixPath, list[str]] = {}
    for row in rows:
        folders.setdefault(PurePosixPath(row["id"]).parent, []).append(row["id"])
    for row in rows:
        others = [id for id in folders[PurePosixPath(row["id"]).parent] if id != row["id"]]
        yield {**row, "related": random.Random(row["id"]).sample(others, len(others))}


def one_run(folder: Path, variation: Variation, seed: int) -> dict[str, Any]:
    """The evaluation of ``variation`` with ``seed``; it is trained first."""
    context, run = variation.context or "alone", f"run-{variation.name}-{seed}"
    train(folder, f"shards-{context}", run, seed, {**_RECIPE, **variation.recipe})
    shots = ",".join(map(str, _SHOTS)) if variation.context else "0"
    options = ["--shots", shots, "--baselines", "--batch-size", "200"]
    return ask(folder, run, f"held-out-{context}", f"evaluation-{variation.name}-{seed}", options)


def table(evaluations: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: nats per token of the true captions, and what the picture of another stamp adds to them."""
    results = {seed: value["results"][0] for seed, value in sorted(evaluations.items())}
    yield "| seed | captions | nats per token [95%] | more with another picture [95%] |"
    yield "| --- | --- | --- | --- |"
    for seed, result in results.items():
        own, more = result["all"]["loss"], result["gained_by_looking"]
        yield f"| {seed} | {result['all']['queries']} | {interval(own, '.3f')} | {interval(more, '.3f')} |"
    if len(results) == 1:
        return
    score = across([result["gained_by_looking"]["value"] for result in results.values()])
    yield f"| mean, ± 95% over seeds | | | {score.mean:.3f} ± {score.margin:.3f} |"


def comparison(found: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Iterator[str]:
    """Lines of Markdown: nats per token of the true captions, over the seeds, and what another picture adds."""
    seeds = max(map(len, found.values()))
    asked = " | ".join(f"nats per token, {shots} examples" for shots in _SHOTS)
    yield f"| trained with | {asked} | more with another picture, no example |"
    yield f"| --- |{' --- |' * (len(_SHOTS) + 1)}"
    for variation in VARIATIONS:
        results = [evaluation["results"] for evaluation in found[variation.name].values()]
        cells = []
        for number in range(len(_SHOTS)):
            losses = [result[number]["all"]["loss"]["value"] for result in results if number < len(result)]
            cells.append(_mean(losses) if losses else "")
        cells.append(_mean([result[0]["gained_by_looking"]["value"] for result in results]))
        yield f"| {variation.meaning} | {' | '.join(cells)} |"
    yield f"\nMean ± 95% over {seeds} seeds."


def _mean(values: Sequence[float]) -> str:
    score = across(values)
    return f"{score.mean:.2f}" if len(values) == 1 else f"{score.mean:.2f} ± {score.margin:.2f}"


if __name__ == "__main__":
    main()
