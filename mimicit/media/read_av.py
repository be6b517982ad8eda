"""Frames of any clip through PyAV: by seeking if timestamps identify frames, else by decoding all of it in order.

Both decode with one thread at full size, so the pixels do not depend on the way taken (nor on the reader: decord's are
the same, bit for bit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from PIL import Image

from mimicit.errors import RejectedError
from mimicit.media import MediaOptions
from mimicit.media.clip_file import Clip, open_clip
from mimicit.media.frames import evenly_spaced
from mimicit.media.packets import KeyPoint, PacketTable, keys_before

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_T = TypeVar("_T")
_PREDICTED: Final = (2, 3)  # P and B pictures, as ffmpeg numbers them
_TRIES: Final = 4  # key points to start from, before all is decoded in order


@dataclass(frozen=True, slots=True)
class ChosenFrames(Generic[_T]):
    """The chosen frames, their indices, and the times of all frames (ascending, in the stream's units)."""

    stored: Sequence[_T]
    indices: Sequence[int]
    pts: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Damage:
    """The indices of damaged frames, and those before which frames were lost."""

    frames: set[int] = field(default_factory=set)
    gaps: set[int] = field(default_factory=set)


def read_by_seeking(
    path: Path, options: MediaOptions, table: PacketTable, indices: Sequence[int], store: Callable[[Image.Image], _T]
) -> list[_T] | None:
    """``store`` of the frames ``indices`` (ascending) of ``table``, RGB as stored; None if one cannot be found.

    A frame counts only when it comes out of the decoder with exactly the time that its packet announced.
    """
    stored: dict[int, _T] = {}
    wanted = [table.pts[index] for index in indices]
    try:
        with open_clip(path, options) as clip:
            for keys, group in groupby(wanted, key=lambda pts: keys_before(table, pts, _TRIES)):
                times = set(group)
                for key in keys:
                    stored.update((time, store(picture)) for time, picture in _decode_from(clip, key, times))
                    if not times:
                        break
                else:
                    return None
    except RejectedError as error:
        if error.reason != "undecodable_video":
            raise
        return None  # perhaps only seeking fails on this file
    return [stored[pts] for pts in wanted]


def read_in_order(
    path: Path, options: MediaOptions, table: PacketTable, store: Callable[[Image.Image], _T]
) -> ChosenFrames[_T]:
    """Decode the clip from its first key frame to its end, and choose among the frames that really come out.

    The first guess of their number is that of the packets; if it is wrong, a second pass uses the true number.
    Damaged frames at either end (a recording that was cut anywhere) are left out. `RejectedError`
    (``undecodable_video``) if a frame between these is damaged or lost, or the times run backwards.
    """
    indices = evenly_spaced(len(table.pts), options.frames)
    for _ in range(2):
        stored, times, damage = _decode_all(path, options, set(indices), store)
        whole = _whole_span(len(times), damage)
        indices = [whole.start + index for index in evenly_spaced(len(whole), options.frames)]
        if all(index in stored for index in indices):
            pts = _ascending(times, table)[whole.start : whole.stop]
            return ChosenFrames([stored[index] for index in indices], [index - whole.start for index in indices], pts)
    raise RejectedError("undecodable_video", "two passes over the clip give different frames")


def _decode_from(clip: Clip, key: KeyPoint, wanted: set[int]) -> Iterator[tuple[int, Image.Image]]:
    """The frames with the times ``wanted``, decoded from ``key`` on; each that is found is removed from ``wanted``."""
    from av.error import InvalidDataError

    is_sure = key.is_clean
    # Skipping frames marked as not referred to would save up to a quarter, but damage can set that mark.
    for packet in _packets_from(clip, key):
        if packet.is_corrupt:
            return
        try:
            frames = packet.decode()
        except InvalidDataError:
            return  # damage, or something that was referred to across an unclean start
        for frame in frames:
            # A gradual refresh is called a key frame, too, but decoding from there gives other pixels.
            is_sure = is_sure or (frame.pts == key.pts and frame.pict_type not in _PREDICTED)
            if is_sure and frame.pts in wanted and not frame.is_corrupt:
                wanted.remove(frame.pts)
                yield frame.pts, _picture(frame)
        if not wanted:
            return


def _packets_from(clip: Clip, key: KeyPoint) -> Iterator[Packet[VideoStream]]:
    """The packets from ``key`` on, without those that are shown before it and made from frames before it."""
    clip.container.seek(key.dts, stream=clip.stream)  # lands on the key packet or before it
    started = False
    for packet in clip.container.demux(clip.stream):
        started = started or (packet.is_keyframe and packet.pts == key.pts)
        if not started and packet.dts is not None and packet.dts > key.dts:
            return  # in some containers, a seek lands on a guess
        if started and (packet.pts is None or packet.pts >= key.pts):
            yield packet


def _decode_all(
    path: Path, options: MediaOptions, wanted: set[int], store: Callable[[Image.Image], _T]
) -> tuple[dict[int, _T], list[int], _Damage]:
    """``store`` of the frames with the indices ``wanted``; the times of all frames; what is damaged."""
    stored: dict[int, _T] = {}
    times: list[int] = []
    damage = _Damage()
    with open_clip(path, options) as clip:
        for frame, is_whole in _frames_in_order(clip):
            index = len(times)
            if frame is None:
                damage.gaps.add(index)
                continue
            time = _time(frame)
            if time is None:
                raise RejectedError("undecodable_video", f"frame {index} has no time")
            if index >= options.max_video_frames:
                raise RejectedError("too_many_frames", f"more than {options.max_video_frames:,} frames")
            times.append(time)
            if not is_whole:
                damage.frames.add(index)
            elif index in wanted:
                stored[index] = store(_picture(frame))
    return stored, times, damage


def _whole_span(count: int, damage: _Damage) -> range:
    whole = [index for index in range(count) if index not in damage.frames]
    if not whole:
        raise RejectedError("undecodable_video", "no frame can be decoded whole")
    span = range(whole[0], whole[-1] + 1)
    inside = {gap for gap in damage.gaps if span.start < gap < span.stop}
    if len(whole) < len(span) or inside:
        first = min(inside.union(damage.frames.intersection(span)))
        raise RejectedError("undecodable_video", f"frame {first} is damaged")
    return span


def _frames_in_order(clip: Clip) -> Iterator[tuple[VideoFrame | None, bool]]:
    """Every frame from the first key frame on, and whether it is whole; None for a frame that cannot be decoded.

    A frame predicted from a damaged one shows the damage too, and nothing reports that. So after damage no frame counts
    as whole before a key frame that the damage cannot have reached: shown later, and decoded after what failed.
    """
    from av.error import InvalidDataError

    started, is_whole = False, True
    restart: int | None = None  # the time from which on a key frame ends the damage
    for packet in chain(clip.container.demux(clip.stream), (None,)):
        if packet is not None:
            started = started or packet.is_keyframe
            if not started or not packet.size:
                continue  # an empty packet within an AVI would end the decoding, as None does at the end
            if packet.is_corrupt:
                is_whole, restart = False, None
            elif packet.is_keyframe and restart is None:
                restart = _time(packet)
        try:
            frames = clip.stream.decode(packet)
        except InvalidDataError:
            is_whole, restart = False, None
            yield None, False
            continue
        for frame in frames:
            time = _time(frame)
            if frame.is_corrupt:
                restart = time if is_whole else restart
                is_whole = False
            elif frame.key_frame and restart is not None and time is not None and time >= restart:
                is_whole = True
            yield frame, is_whole


def _time(timed: VideoFrame | Packet[VideoStream]) -> int | None:
    return timed.pts if timed.pts is not None else timed.dts


def _ascending(pts: list[int], table: PacketTable) -> list[int]:
    if table.has_guessed_times:
        return sorted(pts)  # the order of the frames is right; only their times may be swapped
    if any(later <= earlier for earlier, later in pairwise(pts)):
        raise RejectedError("undecodable_video", "the times of the frames run backwards")
    return pts


def _picture(frame: VideoFrame) -> Image.Image:
    has_alpha = any(component.is_alpha for component in frame.format.components)
    return Image.fromarray(frame.reformat(format="rgba" if has_alpha else "rgb24", threads=1).to_ndarray())
