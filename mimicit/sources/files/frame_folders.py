"""Clips that are published as folders of their frames: ``clips/a/frame_0001.jpg``, ``frame_0002.jpg``, ...

A folder is a clip if it holds at least two pictures whose names differ only in one number, and these numbers follow
each other (by one, or by another step) with few left out. A missing frame leaves a gap in time.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from mimicit.errors import RejectedError
from mimicit.media.sniff import kind_of
from mimicit.sources.files.media_names import DEFAULT_RATE
from mimicit.sources.files.root import Root
from mimicit.sources.items import InFile, MediaRef

MAX_FRAMES: Final = 20_000
"""The most frames of one clip, about an hour at 5 frames a second; its record holds a list of all their paths."""

_NUMBERED: Final = re.compile(r"(.*?)([0-9]{1,15})(\.[A-Za-z]+)")
_LEAST_SHARE: Final = 0.5  # of the numbers from the first frame to the last that must exist


def frames_in(names: Iterable[str]) -> list[str]:
    """The pictures among ``names``, the files of a folder, in the order of their numbers; empty if they are no clip."""
    numbers: dict[int, str] = {}
    around: set[tuple[str, str]] = set()
    for name in names:
        kind = kind_of(name)
        if kind is None:
            continue
        numbered = _NUMBERED.fullmatch(name)
        if numbered is None or kind != "image" or int(numbered[2]) in numbers:
            return []
        numbers[int(numbered[2])] = name
        around.add((numbered[1], numbered[3]))
        if len(around) > 1:
            return []
    ordered = sorted(numbers)
    if len(ordered) < 2 or len(ordered) * _step(ordered) < _LEAST_SHARE * (ordered[-1] - ordered[0]):
        return []
    return [numbers[number] for number in ordered]


def frames_of_folder(
    root: Root, path: str, *, beside: Sequence[str], frames_per_second: float = DEFAULT_RATE
) -> MediaRef | None:
    """The clip whose frames lie in the folder ``path``, relative to the first folder of ``beside`` that has it.

    None if there is no such folder, or its pictures are no clip; `RejectedError` as `frames_ref`.
    """
    if path.startswith("/"):
        return None
    for folder in dict.fromkeys(beside):
        place = posixpath.normpath(posixpath.join(folder, path.replace("\\", "/")))
        if place.startswith(".."):
            continue
        names = frames_in(root.names_in("" if place == "." else place))
        if names:
            return frames_ref("" if place == "." else place, names, frames_per_second)
    return None


def frames_ref(folder: str, names: Sequence[str], frames_per_second: float = DEFAULT_RATE) -> MediaRef:
    """The clip of the frames ``names`` (as `frames_in` gives them) in ``folder``.

    `RejectedError` ``too_many_frames`` if there are more than `MAX_FRAMES`.
    """
    if len(names) > MAX_FRAMES:
        detail = f"{folder} holds {len(names):,} frames; the limit is {MAX_FRAMES:,}; make a clip file of them"
        raise RejectedError("too_many_frames", detail)
    parts = tuple(InFile(posixpath.join(folder, name)) for name in names)
    times_s = tuple(place / frames_per_second for place in _places(names))
    return MediaRef(kind="video", parts=parts, origin=folder or names[0], timestamps_s=times_s)


def _places(names: Sequence[str]) -> Sequence[int]:
    """The position of each of the frames in the clip, in steps from the first."""
    numbers = [int(found[2]) for name in names if (found := _NUMBERED.fullmatch(name))]
    step = _step(numbers)
    if any((later - earlier) % step for earlier, later in pairwise(numbers)):
        return range(len(numbers))  # milliseconds, perhaps: only their order is sure
    return [(number - numbers[0]) // step for number in numbers]


def _step(ordered: Sequence[int]) -> int:
    return min((later - earlier for earlier, later in pairwise(ordered)), default=1)
