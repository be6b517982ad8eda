"""Kinds of things with pictures of each: the folders of two Debian packages, Tux Paint's stamps and Open Clip Art.

A folder is a kind: birds, bulldozers, chess pieces, road signs. Some kinds are held out: training sees none of their
pictures, nor those of clip art that show the same sort of thing. Licences: stamps GPL-2, clip art public domain.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image, UnidentifiedImageError

from tools.demo import run

STAMPS: Final = "tuxpaint-stamps-default"
PACKAGES: Final = {
    STAMPS: "usr/share/tuxpaint/stamps",
    "openclipart-png": "usr/share/openclipart/png",
}
"""Package, and where its pictures lie in it."""

HELD_OUT: Final = frozenset(
    f"tuxpaint-stamps-default/{name}"
    for name in (
        "animals/birds",
        "animals/fish",
        "animals/insects",
        "animals/mammals/bovines",
        "animals/mammals/rodents",
        "food/fruit",
        "food/vegetables",
        "hobbies/music/string",
        "household/tools",
        "plants/flowers",
        "plants/trees",
        "space/planets",
        "symbols/chess",
        "symbols/money/euro/coins",
        "town/flags",
        "vehicles/locomotive/cartoon",
    )
)
"""Kinds that are kept for the test."""

_SIDE: Final = 224
_LEAST: Final = 6
_MOST: Final = 40
_MOST_PIXELS: Final = 4_000_000
_LIKE_HELD_OUT: Final = frozenset({
    "astronomy", "birds", "bovines", "bugs", "chess", "coins", "fish", "flags", "flowers", "fruit", "insects",
    "locomotive", "money", "music", "planets", "rodents", "tools", "trees", "vegetables",
})  # fmt: skip
# What shares an occasion, or only the maker's leftovers, does not look alike.
_NO_KIND: Final = frozenset(("seasonal", "special", "stars", "unsorted"))


def unpack(folder: Path, packages: Iterable[str] = tuple(PACKAGES)) -> None:
    """Download and unpack ``packages`` of `PACKAGES` into ``folder``, each under its name; whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        if (folder / package).is_dir():
            continue
        inside = PACKAGES[package]
        run(folder, ["apt-get", "download", package])
        (archive,) = folder.glob(f"{package}_*.deb")
        unpacked = folder / f"{package}.new"
        shutil.rmtree(unpacked, ignore_errors=True)
        subprocess.run(["dpkg-deb", "--extract", str(archive), str(unpacked)], check=True)
        (unpacked / inside).rename(folder / package)


def kinds_of(folder: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The kinds to train on and those held out, each with its pictures (6 to 40), of what `unpack` left in ``folder``.

    The pictures of a kind that has more are drawn by its name.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((folder / package).rglob("*.png")):
            if not path.is_symlink():
                found[path.parent.relative_to(folder).as_posix()].append(path)
    kinds = {
        kind: sorted(random.Random(kind).sample(paths, min(len(paths), _MOST)))
        for kind, paths in sorted(found.items())
        if len(paths) >= _LEAST and _NO_KIND.isdisjoint(kind.split("/"))
    }
    held_out = {kind: paths for kind, paths in kinds.items() if kind in HELD_OUT}
    others = kinds.keys() - held_out.keys()
    train = {kind: kinds[kind] for kind in sorted(others) if _LIKE_HELD_OUT.isdisjoint(kind.split("/"))}
    return train, held_out


def write_square(source: Path | BinaryIO, target: Path) -> bool:
    """Write ``source`` as a PNG of 224 x 224 pixels, whole and on white; False where it is no sensible picture.

    Padded here, because a vision tower cuts off what does not fit into a square.
    """
    try:
        with Image.open(source) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                return False
            picture = opened.convert("RGBA")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return False
    picture.thumbnail((_SIDE, _SIDE))
    square = Image.new("RGBA", (_SIDE, _SIDE), "white")
    square.alpha_composite(picture, ((_SIDE - picture.width) // 2, (_SIDE - picture.height) // 2))
    target.parent.mkdir(parents=True, exist_ok=True)
    square.convert("RGB").save(target)
    return True


def squares(kinds: Mapping[str, Sequence[Path]], folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Write the pictures of ``kinds`` under ``folder``; each kind with their paths below it, if enough could be."""
    for kind, paths in kinds.items():
        names = [f"pictures/{kind}/{number:02d}.png" for number in range(len(paths))]
        written = [name for name, path in zip(names, paths, strict=True) if write_square(path, folder / name)]
        if len(written) >= _LEAST:
            yield kind, written
