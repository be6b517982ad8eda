"""The ids of MIMIC-IT: which pictures belong to clips, and under which other names something may have been published.

The released files do not always agree on ids: zeros, an infix ``00_``, a doubled clip name. The aliases here, of
pictures and of related instructions, are those that users of the data report; they are tried after the id itself, in
the order given.

Related ids of the sets with such differences (see `instruction_aliases`) are looked up among the ids of instructions.

``mimicit export --to mimicit`` adds to an instruction what MIMIC-IT itself cannot say about clips::

    "image_ids": ["IMG_a", "DC_IMG_b_0000", "DC_IMG_b_0001"],
    "mimicit_clips": [{"first": 1, "frames": 2, "timestamps_s": [0.0, 0.4], "duration_s": 0.8}]

Each entry makes one clip of ``frames`` consecutive ``image_ids``, from the index ``first`` on; all other ids are
pictures. Readers that do not know the field take the ids as published sets have them (see `media_of`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.files.media_names import clip_times
from mimicit.sources.format import Lookup
from mimicit.sources.items import MediaRef, Named
from mimicit.sources.records.text import shown

_FRAMES_PER_S: Final = 1.0  # DC, TVC and E4D publish their clips as pictures at one frame a second
_CLIP_SETS: Final = ("DC_", "E4D_", "TVC_")

_LONGEST_KNOWN: Final = 100  # characters; a longer id is not cached with its aliases

_LA: Final = re.compile(r"(?:LA_(?:00_)?IMG_)?(\d{1,12})", re.ASCII)
_CGD: Final = re.compile(r"CGD_IMG_(\d{1,16})", re.ASCII)
_TVC: Final = re.compile(r"TVC_IMG_(.+)_(\d+)", re.ASCII | re.DOTALL)
_EPISODE: Final = re.compile(
    r"(?:(?P<before>s\d+e\d+_seg\d+_clip_\d+)_)?(?:(?P<show>[a-z]{1,16})_)?(?P<clip>s\d+e\d+_seg\d+_clip_\d+)", re.ASCII
)
_SN: Final = re.compile(r"SN_(?:00_)?IMG_(scene\d+)_(?:00_)?(.+)", re.ASCII | re.DOTALL)
_SN_INS: Final = re.compile(r"SN_(?:00_)?INS_(scene\d+)_(?:00_)?(.+)", re.ASCII | re.DOTALL)
_LACONV: Final = re.compile(r"(LACONV_\d+_INS_.+)_(\d{1,9})", re.ASCII | re.DOTALL)
CLIPS: Final = "mimicit_clips"


def aliases(id: str) -> tuple[str, ...]:
    """``id`` and then its known aliases, each once.

    >>> aliases("CGD_IMG_000000377944")
    ('CGD_IMG_000000377944', 'CGD_IMG_0000000000377944')
    """
    names = [id]
    if match := _LA.fullmatch(id):
        number = f"{int(match[1]):012d}"
        names += [f"LA_00_IMG_{number}", f"LA_IMG_{number}", number, match[1], str(int(number))]
    elif match := _CGD.fullmatch(id):
        names += [f"CGD_IMG_{int(match[1]):012d}", f"CGD_IMG_{int(match[1]):016d}"]
    elif match := _TVC.fullmatch(id):
        names += [f"TVC_IMG_{clip}_{match[2]}" for clip in _clip_names(match[1])]
    elif match := _SN.fullmatch(id):
        names += _with_and_without_infix("IMG", match)
    return tuple(dict.fromkeys(names))


def _clip_names(clip: str) -> list[str]:
    """The names that a clip of TVC may have, which is often doubled: ``castle_x`` as ``castle_x_castle_x``.

    Clips of The Big Bang Theory stand without the name of their show in TVQA, with it in the pictures, and with both
    in the instructions: ``x``, ``bbt_x`` and ``x_bbt_x``.
    """
    half = clip[: len(clip) // 2]
    once = half if clip == f"{half}_{half}" else clip
    match = _EPISODE.fullmatch(once)
    if match is None or match["before"] not in (None, match["clip"]):
        return [once, f"{once}_{once}"]
    bare, show = match["clip"], match["show"] or "bbt"
    names = [f"{show}_{bare}", f"{bare}_{show}_{bare}", f"{show}_{bare}_{show}_{bare}"]
    return [*names, bare, f"{bare}_{bare}"] if show == "bbt" else names


def instruction_aliases(id: str) -> tuple[str, ...]:
    """The id of an instruction and then its known aliases, each once.

    >>> instruction_aliases("SN_INS_scene0000_00_activity2_round0")[1:3]
    ('SN_INS_scene0000_activity2_round0', 'SN_00_INS_scene0000_activity2_round0')
    """
    if not id.startswith("SN_"):
        return (id,)
    match = _SN_INS.fullmatch(id)
    return tuple(dict.fromkeys([id, *(_with_and_without_infix("INS", match) if match else ())]))


def _with_and_without_infix(kind: str, match: re.Match[str]) -> list[str]:
    """The four names of an SN id: with and without ``00_`` before its kind, and after the name of its scene."""
    scene, rest = match[1], match[2]
    return [f"SN_{outer}{kind}_{scene}_{inner}{rest}" for outer in ("", "00_") for inner in ("", "00_")]


def media_of(ids: Sequence[str], *, is_clip: bool | None = None) -> tuple[MediaRef, ...]:
    """The media that the ``image_ids`` of one instruction name, in their order.

    Several ids of DC, E4D or TVC are the frames of one clip, a second apart; a single one is a picture. All other
    ids are pictures: the left and the right one (SD, CGD), those of a story (VST), the views of a room (SN).
    ``is_clip``, if the publisher states it, overrides what the ids say.
    """
    pictures = [_picture(id) if len(id) <= _LONGEST_KNOWN else _picture.__wrapped__(id) for id in ids]
    if len(ids) > 1 and (all(map(names_clip, ids)) if is_clip is None else is_clip):
        return (clip_of(pictures, origin=ids[0].rpartition("_")[0] or ids[0]),)
    return tuple(pictures)


@lru_cache(maxsize=1 << 15)
def _picture(id: str) -> MediaRef:
    return MediaRef(kind="image", parts=(Named(aliases(id)),), origin=id)


def names_clip(id: str) -> bool:
    """Whether the id of a picture or an instruction belongs to a set that publishes clips as pictures."""
    return id.startswith(_CLIP_SETS)


def clip_of(pictures: Sequence[MediaRef], *, origin: str) -> MediaRef:
    """The clip whose frames are ``pictures``, a second apart."""
    times_s = tuple(index / _FRAMES_PER_S for index in range(len(pictures)))
    parts = tuple(picture.parts[0] for picture in pictures)
    return MediaRef(kind="video", parts=parts, origin=origin, timestamps_s=times_s)


def conversation_of(id: str) -> tuple[str, int] | None:
    """(conversation, round from 0) of an instruction of LACONV, or None for all others."""
    match = _LACONV.fullmatch(id)
    return (match[1], int(match[2])) if match else None


def resolved_ids(ids: Sequence[str], known: Lookup) -> tuple[str, ...]:
    """``ids``, each replaced by its first alias that is the id of an instruction, if there is one.

    ``known`` holds the ids of the instructions that have aliases.
    """
    return tuple(id if len(names := instruction_aliases(id)) == 1 else _first_of(names, known) for id in ids)


def _first_of(names: Sequence[str], known: Lookup) -> str:
    return next((name for name in names if known.get(name) is not None), names[0])


def media_with_clips(ids: Sequence[str], clips: object) -> tuple[MediaRef, ...]:
    """The media that ``ids`` name, given the field `CLIPS`; `RejectedError` ``malformed`` if it does not fit them."""
    if not isinstance(clips, list):
        raise RejectedError("malformed", f"{CLIPS} must be a list, not {shown(clips)}")
    pictures = media_of(ids, is_clip=False)
    media: list[MediaRef] = []
    end = 0
    for number, clip in enumerate(clips):
        first, count = _span(clip, number, after=end, ids=len(ids))
        times_s, duration_s = clip_times(clip, count)
        frames = pictures[first : first + count]
        media += pictures[end:first]
        media.append(
            MediaRef(
                kind="video",
                parts=tuple(frame.parts[0] for frame in frames),
                origin=ids[first].rpartition("_")[0] or ids[first],
                timestamps_s=times_s,
                duration_s=duration_s,
            )
        )
        end = first + count
    return (*media, *pictures[end:])


def _span(clip: Any, number: int, *, after: int, ids: int) -> tuple[int, int]:
    """Which ids the clip takes: the index of the first, and how many."""
    match clip:
        case {"first": int(first), "frames": int(count)} if not isinstance(first, bool) and not isinstance(count, bool):
            pass
        case _:
            raise RejectedError("malformed", f"{CLIPS}[{number}] must have 'first' and 'frames', both whole numbers")
    if first < after or count < 1 or first + count > ids:
        detail = f"{CLIPS}[{number}] takes {count} ids from {first} on, of {ids} with {after} taken"
        raise RejectedError("malformed", detail)
    return first, count
