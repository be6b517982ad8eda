"""Kinds of things that several hands have drawn: the emoji of eight families, from npm packages of vector drawings.

A kind is what an emoji stands for (anchor, cat-face, tram), its pictures are the drawings of the families. A sixth of
the kinds is held out: training sees none of their drawings, and no kind with a word of their names. Licences: Noto and
FxEmojis Apache-2.0, Fluent Emoji MIT, Twemoji and EmojiOne 2 CC BY 4.0, OpenMoji and EmojiOne 1 CC BY-SA 4.0.
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import tarfile
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import resvg_py

from tools.proof.pictures import write_square

FAMILIES: Final = {
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "twemoji": "1.2.5",
    "openmoji": "1.2.29",
    "emojione": "1.2.3",
    "emojione-v1": "1.2.3",
    "fxemoji": "1.2.2",
    "fluent-emoji-flat": "1.2.6",
}
"""Family, and the version of its package."""

_GROUPS: Final = ("Animals & Nature", "Food & Drink", "Activities", "Objects", "Travel & Places")
_NAMED_BY: Final = ("twemoji", "noto")  # whose names and groups are taken; the first one's where both have it
_LEAST: Final = 6  # drawings of a kind
_HELD_OUT: Final = 100  # kinds
_SIDE: Final = 200
_LITTLE_WORDS: Final = frozenset(
    ("a", "and", "at", "facing", "front", "in", "new", "no", "of", "old", "on", "the", "to", "with")
)


@dataclass(frozen=True, slots=True)
class Drawing:
    """The inner part of an SVG file and the box that it fills: left, top, width, height."""

    body: str
    box: tuple[float, float, float, float]


def fetch(folder: Path) -> dict[str, Path]:
    """The package of each of `FAMILIES` in ``folder``, downloaded by npm where it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for family, version in FAMILIES.items():
        found[family] = folder / f"iconify-json-{family}-{version}.tgz"
        if not found[family].exists():
            print(f"proof: downloading {family} {version}", flush=True)
            command = ["npm", "pack", "--silent", f"@iconify-json/{family}@{version}"]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return found


def read(package: Path) -> tuple[dict[str, Drawing], dict[str, str]]:
    """The drawings of a family by name, and the group of each name that has one."""
    with tarfile.open(package) as opened:
        icons, meta = (_member(opened, name) for name in ("icons", "metadata"))
    drawings = {}
    for name, icon in icons["icons"].items():
        width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
        drawings[name] = Drawing(icon["body"], (icon.get("left", 0), icon.get("top", 0), width, height))
    groups = {name: group for group, names in meta.get("categories", {}).items() for name in names}
    return drawings, groups


def kinds_of(
    families: Mapping[str, tuple[Mapping[str, Drawing], Mapping[str, str]]],
) -> dict[str, dict[str, Drawing]]:
    """The drawings of each kind by family, of what `read` finds in each: kinds of things that six families have."""
    names: dict[str, str] = {}  # families differ in the hyphens of names
    for family in _NAMED_BY:
        for name, group in families[family][1].items():
            if group in _GROUPS:
                names.setdefault(name.replace("-", ""), name)
    found: dict[str, dict[str, Drawing]] = defaultdict(dict)
    for family, (drawings, _) in families.items():
        for name, drawing in drawings.items():
            kind = names.get(name.replace("-", ""))
            if kind is not None:
                found[kind].setdefault(family, drawing)
    return {kind: drawn for kind, drawn in sorted(found.items()) if len(drawn) >= _LEAST}


def split(kinds: Collection[str]) -> tuple[list[str], list[str]]:
    """The names of the kinds to train on and of those held out, which no word but little ones occurs in both of."""
    held_out = sorted(random.Random(0).sample(sorted(kinds), _HELD_OUT))
    words = {word for kind in held_out for word in kind.split("-")} - _LITTLE_WORDS
    return [kind for kind in sorted(kinds) if words.isdisjoint(kind.split("-"))], held_out


def rendered(kinds: Mapping[str, Mapping[str, Drawing]], folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Write the drawings of ``kinds`` as squares under ``folder``; each kind with their paths below it."""
    for kind, drawings in kinds.items():
        names = [f"pictures/emoji/{kind}/{family}.png" for family in drawings]
        for name, drawing in zip(names, drawings.values(), strict=True):
            write_square(io.BytesIO(_png(drawing)), folder / name)
        yield f"emoji/{kind}", names


def _png(drawing: Drawing) -> bytes:
    box = " ".join(map(str, drawing.box))
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    text = f'<svg {space} viewBox="{box}" width="{_SIDE}" height="{_SIDE}">{drawing.body}</svg>'
    return bytes(resvg_py.svg_to_bytes(svg_string=text, width=_SIDE, height=_SIDE, skip_system_fonts=True))


def _member(opened: tarfile.TarFile, name: str) -> Any:
    member = opened.extractfile(f"package/{name}.json")
    if member is None:
        raise ValueError(f"{opened.name!r}: no {name}.json in it")
    return json.load(member)
