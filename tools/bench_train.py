"""Compare training: our step and the published modules on the same samples, and what each optimisation is worth.

    python -m tools.bench_train --cpu --folder /tmp/bench      a model of 46 million weights, on one core, in minutes
    python -m tools.bench_train --folder /tmp/bench            otter-9b with random weights, on one GPU

    python -m tools.bench_train --cpu --cases step          the default step of 4 samples against a padded batch of them

With ``--cases main --steps 198 --rounds 1 --plot losses.svg`` both sides train 200 steps, two of them to warm up, and
their losses are drawn.

Every run is a process of its own; the cases take turns, so that a slow moment of the machine meets them all, and the
median over all steps is taken. On a CPU the seconds are those of the processor, which a busy machine does not change
much. Tokens are those of the samples, not of padding; operations are those that have to be done
(`otter_train.training.flops`), so the share of the ceiling flatters nobody. The published package is installed without
its pinned dependencies into an environment that sees the packages of this one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tools.train_peers import CASES, SIZES

_PUBLISHED = ("open-flamingo==2.0.1", "einops==0.8.1", "einops-exts==0.0.4")
_SIDES = ("ours", "published")
_SHARES = ("padded rows", "logits", "as often as", "weight gradients", "not fused", "in float32")
_ROOT = Path(__file__).parents[1]


def environment(folder: Path) -> Path:
    """The Python of an environment with the published package in it."""
    home = folder / "published"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        packages = next(home.glob("lib/*/site-packages"))
        (packages / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", *_PUBLISHED], check=True)
        (home / "ready").touch()
    return python


def run(python: Path, case: str, size: str, steps: int) -> dict[str, Any] | None:
    """One run of ``case``; None, with a word, where it fails (most likely for want of memory)."""
    settings = {**os.environ, "PYTHONPATH": str(_ROOT)}
    if size == "cpu":
        settings |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [str(python), "-m", "tools.train_peers", case, size, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings, cwd=_ROOT)
    if done.returncode:
        print(f"{case}: passed over: {(done.stderr.strip().splitlines() or ['killed'])[-1][:200]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def cases_of(chosen: str, size: str) -> list[str]:
    """``main``: the two sides; ``step``: ours and a padded batch; ``all``: everything that makes sense for the size."""
    if chosen == "main":
        return ["published", "ours"]
    if chosen == "step":
        return ["ours", "ours, padded rows, masked cross-attention"]
    if size == "cpu":
        left_out = ("in float32", "by chance", "budget of 32", "budget of 64", "compiled")
        return [case for case in CASES if not any(part in case for part in left_out)]
    return list(CASES)


def table(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The lines of the table, in Markdown."""
    lines = [
        "| case | tokens/s | against published | share of the ceiling | peak memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    base = _rate(results["published"], "tokens") if results.get("published") else float("nan")
    for case, runs in results.items():
        if runs:
            rate, ceiling = _rate(runs, "tokens"), statistics.median(found["ceiling"] for found in runs)
            memory = max(found["memory"] for found in runs)
            share = _rate(runs, "flops") / ceiling
            lines.append(f"| {case} | {rate:,.0f} | {rate / base:.2f} | {share:.0%} | {memory / 1e9:.1f} GB |")
    return lines


def shares(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A table in Markdown of what each optimisation is worth: how long our step takes without it."""
    ours = _rate(results["ours"], "tokens")
    found = {case: runs for case, runs in results.items() if runs and any(part in case for part in _SHARES)}
    lines = [
        f"| {case.removeprefix('ours, ')} | {ours / _rate(runs, 'tokens'):.2f} times as long |"
        for case, runs in found.items()
    ]
    return ["", "| instead | a step takes |", "| --- | --- |", *lines, ""] if lines else []


def difference(results: dict[str, list[dict[str, Any]]]) -> float:
    """The largest relative difference between the losses of the two sides, step by step."""
    ours, published = (results[side][0]["losses"] for side in _SIDES)
    apart = [abs(mine - theirs) / abs(theirs) for mine, theirs in zip(ours, published, strict=True)]
    return float(max(apart))


def plot(losses: dict[str, list[float]], path: Path) -> None:
    """Draw the ``losses`` of each side over the steps, and how far they are apart, as an SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.hashsalt": "losses", "svg.fonttype": "none"})  # the same bytes each time
    figure = Figure(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    steps = range(1, len(losses["ours"]) + 1)
    above.plot(steps, losses["published"], linewidth=3, color="0.75", label="published")
    above.plot(steps, losses["ours"], linewidth=1, color="tab:blue", label="ours")
    above.set_ylabel("loss per labelled token (nats)")
    above.legend()
    apart = [abs(ours - theirs) / abs(theirs) for ours, theirs in zip(*(losses[side] for side in _SIDES), strict=True)]
    below.semilogy(steps, apart, linewidth=1, color="tab:blue")
    below.set_ylabel("relative difference")
    below.set_xlabel("step")
    figure.savefig(path, format="svg", metadata={"Date": None})


def _rate(runs: Sequence[dict[str, Any]], what: str) -> float:
    rates = [done / seconds for found in runs for done, seconds in zip(found[what], found["seconds"], strict=True)]
    return float(statistics.median(rates))


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="Compare training steps.")
    parser.add_argument("--cpu", action="store_true", help="the small model, on one core")
    home = Path(tempfile.gettempdir()) / "mimicit-bench-train"
    parser.add_argument("--folder", type=Path, default=home, help="for the environment of the published package")
    parser.add_argument("--cases", choices=["main", "step", "all"], default="all")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--losses", type=Path, help="write the losses of both sides, step by step, as JSON")
    parser.add_argument("--plot", type=Path, help="draw them as SVG")
    given = parser.parse_args()
    size = "cpu" if given.cpu or not torch.cuda.is_available() else "otter-9b"
    given.folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, Any]]] = {case: [] for case in cases_of(given.cases, size)}
    python = environment(given.folder) if "published" in results else Path(sys.executable)
    for number in range(given.rounds):
        for case in results:
            if number and not results[case]:
                continue  # it failed in the first round
            if (found := run(python, case, size, given.steps)) is not None:
                results[case].append(found)
                print(
                    f"round {number + 1}, {case}: {_rate([found], 'tokens'):,.0f} tokens/s", file=sys.stderr, flush=True
                )
    first = next(runs[0] for runs in results.values() if runs)
    print(
        f"{first['device']}, {platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"torch {version('torch')}, transformers {version('transformers')}, {_PUBLISHED[0]}"
    )
    print(
        f"{size}, prompts of up to {SIZES[size].tokens} tokens, {given.rounds} rounds of {given.steps} steps; measured "
        f"ceiling of a matrix product {first['ceiling'] / 1e12:.2f} TFLOP/s"
    )
    print("\n".join(table(results)))
    if results["ours"]:
        print("\n".join(shares(results)))
    if results["ours"] and results.get("published"):
        print(f"losses of the two sides differ by {difference(results):.1e} at most, relative")
        losses = {side: results[side][0]["losses"] for side in _SIDES}
        if given.losses:
            given.losses.write_text(json.dumps(losses))
        if given.plot:
            plot(losses, given.plot)


if __name__ == "__main__":
    main()
