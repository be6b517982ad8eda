"""The emoji of the proof: kinds are what several families draw, and what is held out shares no word with training."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from PIL import Image

from tools.proof.emoji import FAMILIES, kinds_of, read, rendered, split

_GROUPS = {"Objects": ["red-lamp", "lost-thing"], "Smileys & Emotion": ["grin"]}


def package(path: Path, names: list[str], *, groups: dict[str, list[str]] | None = None) -> Path:
    """An npm package of drawings, each a filled box to the right of an empty half."""
    icons = {name: {"body": '<path fill="#f00" d="M20 0h16v16h-16z"/>', "left": 4} for name in names}
    files = {"icons": {"icons": icons, "width": 32, "height": 16}, "metadata": {"categories": groups or {}}}
    with tarfile.open(path, "w:gz") as opened:
        for name, content in files.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}.json")
            member.size = len(data)
            opened.addfile(member, io.BytesIO(data))
    return path


def test_a_kind_is_what_six_families_draw_whatever_its_hyphens(tmp_path: Path) -> None:
    families = {}
    for number, family in enumerate(FAMILIES):
        names = ["redlamp" if family == "fxemoji" else "red-lamp", "grin", *(["lost-thing"] if number < 5 else [])]
        families[family] = read(package(tmp_path / f"{family}.tgz", names, groups=_GROUPS))
    kinds = kinds_of(families)
    assert list(kinds) == ["red-lamp"]
    assert list(kinds["red-lamp"]) == list(FAMILIES)
    ((kind, pictures),) = rendered(kinds, tmp_path)
    assert kind == "emoji/red-lamp" and len(pictures) == 8
    with Image.open(tmp_path / pictures[0]) as picture:
        assert picture.size == (224, 224)
        assert picture.getpixel((60, 112)) == (255, 255, 255)  # the empty half; the box begins at left
        assert picture.getpixel((160, 112)) == (255, 0, 0)
        assert picture.getpixel((160, 30)) == (255, 255, 255)  # twice as wide as high: above it is nothing


def test_no_word_of_a_held_out_name_is_in_training() -> None:
    kinds = [f"word{number}-of-sort{number % 150}" for number in range(600)]
    train, held_out = split(kinds)
    assert len(held_out) == 100 and (train, held_out) == split(kinds[::-1])
    sorts = {kind.split("-")[2] for kind in held_out}
    assert set(train) == {kind for kind in kinds if kind.split("-")[2] not in sorts} and train
