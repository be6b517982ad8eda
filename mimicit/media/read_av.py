"""Frames of any clip through PyAV: by seeking where timestamps name frames, else by decoding all of it in order.

Both decode with one thread at full size, so the pixels do not depend on the way taken (nor on the reader: decord's are
the same, bit for bit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from PIL import Image

from mimicit.errors import RejectedError
from mimicit.media.clip_file import Clip, open_clip
from mimicit.media.frames import evenly_spaced
from mimicit.media.options import MediaOptions
from mimicit.media.packets import KeyPoint, PacketTable, key_before

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

__all__ = ["AllFrames", "read_by_seeking", "read_in_order"]

_T = TypeVar("_T")
_PREDICTED = (2, 3)  # P and B pictures, as ffmpeg numbers them
_NO_CONCEALMENT = {"err_detect": "explode"}  # what is made up for damaged data depends on where decoding began


def read_by_seeking(
    path: Path, options: MediaOptions, table: PacketTable, indices: Sequence[int], store: Callable[[Image.Image], _T]
) -> list[_T] | None:
    """``store`` of the frames ``indices`` (ascending) of ``table``, RGB as stored; None where one cannot be found so.

    A frame counts only when it comes out of the decoder with exactly the time that its packet announced.
    """
    stored: dict[int | None, _T] = {}
    wanted = [table.pts[index] for index in indices]
    try:
        with open_clip(path, options) as clip:
            clip.stream.codec_context.options = _NO_CONCEALMENT
            for key, group in groupby(wanted, key=lambda pts: key_before(table, pts)):
                times = set(group)
                for frame in _decode_from(clip, key, times):
                    stored[frame.pts] = store(_picture(frame))
                if times:
                    return None
    except RejectedError:
        return None  # it may be the seeking that the file does not bear
    return [stored[pts] for pts in wanted]


@dataclass(frozen=True, slots=True)
class AllFrames(Generic[_T]):
    """The chosen frames, their indices, and the times of all frames (ascending, in the stream's units)."""

    stored: Sequence[_T]
    indices: Sequence[int]
    pts: Sequence[int]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.stored, self.indices, self.pts))


def read_in_order(
    path: Path, options: MediaOptions, table: PacketTable, store: Callable[[Image.Image], _T]
) -> AllFrames[_T]:
    """Decode the clip from its first key frame to its end, and choose among the frames that really come out.

    The packets' count is the first guess of how many there are; where it is wrong, a second pass takes the true one.
    `RejectedError` (``undecodable_video``) where a chosen frame is damaged or the times run backwards.
    """
    count = len(table.pts)
    while True:
        indices = evenly_spaced(count, options.frames)
        stored, pts = _decode_all(path, options, table, set(indices), store)
        if len(pts) == count:
            return AllFrames(stored, indices, _ascending(pts, table))
        count = len(pts)


def _decode_from(clip: Clip, key: KeyPoint, wanted: set[int]) -> Iterator[VideoFrame]:
    """The frames with the times ``wanted``, decoded from ``key`` on; those that came are taken out of ``wanted``."""
    context = clip.stream.codec_context
    clip.container.seek(key.dts, stream=clip.stream)  # lands on the key packet or before it
    started, is_sure = False, key.is_clean
    for packet in clip.container.demux(clip.stream):
        started = started or (packet.is_keyframe and packet.pts == key.pts)
        if not started:
            if packet.dts is not None and packet.dts > key.dts:
                return  # some containers are sought by guessing
            continue
        if packet.pts is not None and packet.pts < key.pts:
            continue  # shown before the key frame, and made from frames before it
        if context.name == "h264":  # "not referred to" is sure there; in HEVC it holds within a temporal layer only
            context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        for frame in packet.decode():
            # A gradual refresh is called a key frame, too, but decoding from there gives other pixels.
            is_sure = is_sure or (frame.pts == key.pts and frame.pict_type not in _PREDICTED)
            if is_sure and frame.pts in wanted and not frame.is_corrupt:
                wanted.remove(frame.pts)
                yield frame
        if not wanted:
            return


def _decode_all(
    path: Path, options: MediaOptions, table: PacketTable, wanted: set[int], store: Callable[[Image.Image], _T]
) -> tuple[list[_T], list[int]]:
    stored: list[_T] = []
    pts: list[int] = []
    with open_clip(path, options) as clip:
        for frame in _frames_in_order(clip):
            time = frame.pts if frame.pts is not None else frame.dts
            if time is None or len(pts) >= options.max_video_frames:
                fault = "undecodable_video" if time is None else "too_many_frames"
                raise RejectedError(fault, f"frame {len(pts)} has no time" if time is None else "too many frames")
            if len(pts) in wanted:
                if frame.is_corrupt:
                    raise RejectedError("undecodable_video", f"frame {len(pts)} is damaged")
                stored.append(store(_picture(frame)))
            pts.append(time)
    if not pts:
        raise RejectedError("undecodable_video", "no frame can be decoded")
    return stored, pts


def _frames_in_order(clip: Clip) -> Iterator[VideoFrame]:
    started = False
    for packet in clip.container.demux(clip.stream):
        started = started or packet.is_keyframe
        if started and packet.size:  # an empty packet within an AVI would end the decoding
            yield from packet.decode()
    yield from clip.stream.decode(None)


def _ascending(pts: list[int], table: PacketTable) -> list[int]:
    if table.has_guessed_times:
        return sorted(pts)  # the order of the frames is right; only their times may be swapped
    if any(later <= earlier for earlier, later in pairwise(pts)):
        raise RejectedError("undecodable_video", "the times of the frames run backwards")
    return pts


def _picture(frame: VideoFrame) -> Image.Image:
    has_alpha = any(component.is_alpha for component in frame.format.components)
    return Image.fromarray(frame.reformat(format="rgba" if has_alpha else "rgb24", threads=1).to_ndarray())
