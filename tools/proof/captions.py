"""Does it describe what it sees? Captions of drawings that training never saw, with their own picture and another.

    python -m tools.proof.captions --folder .proof/captions

The drawings and photos are Tux Paint's stamps (a Debian package: needs apt-get and dpkg-deb); every sixth is held out.
The model is that of `tools.proof.easy_vqa`, by the shipped commands alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tools.proof.pictures import STAMPS, unpack, write_square
from tools.proof.runs import SEEING, build, trained_and_asked, write_tower
from tools.proof.scores import across, interval

_RECIPE: Final = {**SEEING, "--epochs": "20", "--max-steps": "0"}
_HELD_OUT_EACH: Final = 6


def main() -> None:
    """Fetch, lay out, build, then train and evaluate one run per seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".proof/captions"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    unpack(folder / "packages" / "pictures", (STAMPS,))
    lay_out(folder / "packages" / "pictures" / STAMPS, folder)
    write_tower(folder)
    build(folder, "raw", "shards", "--shots", "0")
    build(folder, "held-out-raw", "held-out", "--shots", "0")
    text = "\n".join(table({seed: trained_and_asked(folder, seed, _RECIPE) for seed in options.seeds}))
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nproof: the table is in {folder / 'table.md'}")


def lay_out(stamps: Path, folder: Path) -> None:
    """``raw/`` and ``held-out-raw/``: pictures as squares, and a manifest of those with an English caption."""
    targets = {False: folder / "raw", True: folder / "held-out-raw"}
    if all((target / "manifest.jsonl").exists() for target in targets.values()):
        return
    rows: dict[bool, list[str]] = {False: [], True: []}
    for number, text in enumerate(sorted(stamps.rglob("*.txt"))):
        picture = text.with_suffix(".png")
        caption = text.read_text(encoding="utf-8", errors="replace").splitlines()[0].strip()
        is_held_out = number % _HELD_OUT_EACH == 0
        name = picture.relative_to(stamps).as_posix()
        if caption and picture.exists() and write_square(picture, targets[is_held_out] / name):
            rows[is_held_out].append(json.dumps({"id": name, "media": name, "answer": caption}) + "\n")
    for is_held_out, target in targets.items():
        (target / "manifest.jsonl").write_text("".join(rows[is_held_out]), encoding="utf-8")


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


if __name__ == "__main__":
    main()
