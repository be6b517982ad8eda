"""The training losses of the proof's runs as one SVG.

python -m tools.proof.curves --easy-vqa .proof/easy-vqa --binding .proof/binding --out docs/learning.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from otter_train.reporting.metrics import Row, read_table


def main() -> None:
    """Read the logs of the runs in both folders and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--easy-vqa", type=Path, default=Path(".proof/easy-vqa"))
    parser.add_argument("--binding", type=Path, default=Path(".proof/binding"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    panels = {
        "easy-vqa": losses(options.easy_vqa, "run-[0-9]"),
        "binding, first training": losses(options.binding, "begun-shards-[0-9]"),
        "binding, second training": losses(options.binding, "run-shards-[0-9]"),
    }
    draw(panels, options.out)


def losses(folder: Path, pattern: str) -> dict[str, list[tuple[int, float]]]:
    """Step and loss of every line of the log of each run in ``folder`` whose name fits ``pattern``, by its seed."""
    return {
        run.name.rpartition("-")[2]: [(row.step, row.loss) for row in read_table(Row, run / "metrics.csv")]
        for run in sorted(folder.glob(pattern))
    }


def draw(panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], path: Path) -> None:
    """One panel beside the other, one line for each seed."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.hashsalt": "learning", "svg.fonttype": "none"})  # the same bytes each time
    figure = Figure(figsize=(4 * len(panels), 3.5), layout="constrained")
    for axes, (title, runs) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for seed, points in runs.items():
            axes.plot([step for step, _ in points], [loss for _, loss in points], linewidth=1, label=f"seed {seed}")
        axes.set(title=title, xlabel="step", ylabel="loss per answer token (nats)", ylim=(0, None))
        axes.legend()
    figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
