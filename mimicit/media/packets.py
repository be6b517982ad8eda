"""What the packets of a clip say about its frames, before (almost) any of them is decoded.

One pass over the demuxer (2 to 10 microseconds a packet, and the reading of the file) gives the presentation time of
every frame that will be shown, the points where decoding can start, and which reader may be trusted with the file.
Only the packets up to the first shown frame are decoded: the display matrix is found on it.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mimicit.errors import RejectedError
from mimicit.media import MediaOptions
from mimicit.media.clip_file import Clip, open_clip
from mimicit.media.headers import check_length
from mimicit.media.image_file import check_pixels

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

_DECORD_FORMATS: Final = frozenset(("matroska", "mp4"))
_DECORD_CODECS: Final = frozenset(("h264", "vp8", "vp9"))
_NEVER_AFRESH: Final = frozenset(("vp8",))  # a damaged key frame may take probabilities from what came before
_ORIENTATIONS: Final = {
    # (a, b, c, d) of the display matrix: the stored point (p, q) is shown at (a p + c q, b p + d q), y downwards.
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


@dataclass(frozen=True, slots=True)
class KeyPoint:
    """A packet at which decoding can start; times in units of the stream's time base.

    ``is_clean``: its bytes prove that nothing from there on refers to anything before it.
    """

    pts: int
    dts: int
    is_clean: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketTable:
    """The frames of a clip as its packets announce them.

    ``pts`` are the presentation times of the shown frames, ascending, and ``end`` is when the last one ends, in
    units of ``time_base_s`` seconds; ``keys`` ascend by ``pts``. ``width`` and ``height`` are pixels as stored; a
    player shows ``shown_width`` x ``height`` square ones, and then turns them by ``orientation``, the display matrix
    as an EXIF orientation (1 to 8).

    ``can_seek``: every frame has a time of its own, and key frames start afresh even where bytes are damaged.
    ``has_guessed_times``: the container (AVI) stores none, so ffmpeg guesses, sometimes swaps two, and guesses
    differently after a seek.
    ``is_plain``: apart from damage, nothing known about the file misleads decord (see `mimicit.media.video`).
    """

    pts: tuple[int, ...]
    end: int
    keys: tuple[KeyPoint, ...]
    time_base_s: float
    width: int
    height: int
    shown_width: int
    orientation: int
    can_seek: bool
    has_guessed_times: bool
    is_plain: bool


def scan_packets(path: Path, options: MediaOptions) -> PacketTable:
    """The packet table of the clip at ``path``; no more than the first shown frame is decoded.

    `RejectedError` as `mimicit.media.clip_file.open_clip`, and: ``too_many_frames`` and ``too_long`` by the actual
    packets, ``undecodable_video`` if the file ends before the frames that its index lists or the bytes that its
    container declares, or shows no frame.
    """
    with open_clip(path, options) as clip:
        scan = _Scan(clip, options)
        for packet in clip.container.demux(clip.stream):
            scan.add(packet)
        scan.check_complete()
        check_length(path, clip.header.format)
        return scan.table()


def keys_before(table: PacketTable, pts: int, most: int) -> tuple[KeyPoint, ...]:
    """Up to ``most`` key points that are shown at or before ``pts``, the nearest first; there may be none."""
    place = bisect_right(table.keys, pts, key=lambda key: key.pts)
    return table.keys[max(0, place - most) : place][::-1]


class _Scan:
    """What has been seen of the packets of one clip, in the order of the file (which is decoding order)."""

    def __init__(self, clip: Clip, options: MediaOptions) -> None:
        self._clip = clip
        self._options = options
        self._packets = 0
        self._shown: list[int] = []
        self._last_shown = (0, 0)  # pts, duration
        self._keys: list[KeyPoint] = []
        self._first_frame: VideoFrame | None = None
        self._has_guessed_times = clip.header.format == "avi"
        self._has_times = not self._has_guessed_times
        self._is_plain = (
            clip.header.format in _DECORD_FORMATS
            and clip.header.codec in _DECORD_CODECS
            and clip.header.video_streams == 1
            and clip.header.bits == 8  # decord rounds deeper colours in another way than the other readers
        )

    def add(self, packet: Packet[Any]) -> None:
        if packet.size == 0:
            if packet.pts is None and self._first_frame is None:
                self._first_frame = _first_frame(packet)  # the flush at the end
            return  # in AVI also: "show the last frame again"
        self._packets += 1
        self._has_times &= packet.pts is not None
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None:
            return  # such as a picture from before the cut
        if packet.is_keyframe:
            is_clean = _starts_afresh(bytes(packet), self._clip)
            self._keys.append(KeyPoint(pts, pts if packet.dts is None else packet.dts, is_clean))
        if self._is_plain:
            self._is_plain = self._is_plain_packet(packet, pts)
        if not self._keys or (pts < self._keys[0].pts and not self._keys[0].is_clean):
            return  # made from frames before the first key frame, so it cannot be decoded
        if self._first_frame is None:
            self._first_frame = _first_frame(packet)
        if not (packet.is_discard or packet.is_corrupt):
            self._show(pts, packet.duration or 0)

    def table(self) -> PacketTable:
        time_base = self._clip.stream.time_base
        if not self._shown or self._first_frame is None or not time_base:
            raise RejectedError("undecodable_video", "no frame can be decoded" if self._packets else "no frames at all")
        pts = sorted(self._shown)
        end = self._last_shown[0] + (self._last_shown[1] or self._usual_duration(pts))
        duration_s = float((end - pts[0]) * time_base)
        if duration_s > self._options.max_duration_s:
            limit = f"{self._options.max_duration_s:,.0f} s"
            raise RejectedError("too_long", f"{duration_s:,.0f} s long; the limit is {limit}")
        is_unique = all(earlier < later for earlier, later in pairwise(pts))
        orientation = _orientation(self._first_frame)
        shown_width = self._shown_width(self._first_frame.width)
        check_pixels(shown_width, self._first_frame.height, self._options)
        return PacketTable(
            pts=tuple(pts),
            end=end,
            keys=tuple(sorted(self._keys, key=lambda key: key.pts)),
            time_base_s=float(time_base),
            width=self._first_frame.width,
            height=self._first_frame.height,
            shown_width=shown_width,
            orientation=orientation,
            can_seek=self._has_times and is_unique and self._clip.header.codec not in _NEVER_AFRESH,
            has_guessed_times=self._has_guessed_times,
            is_plain=self._is_plain
            and self._has_times
            and is_unique
            and orientation == 1
            and not self._first_frame.interlaced_frame,  # decord takes colour from the wrong lines
        )

    def _show(self, pts: int, duration: int) -> None:
        self._shown.append(pts)
        if len(self._shown) > self._options.max_video_frames:
            raise RejectedError("too_many_frames", f"more than {self._options.max_video_frames:,} frames")
        self._last_shown = max(self._last_shown, (pts, duration)) if len(self._shown) > 1 else (pts, duration)

    def _is_plain_packet(self, packet: Packet[Any], pts: int) -> bool:
        """Whether a packet is shown, whole, not before the first key frame, and refers to nothing before its own."""
        if packet.is_discard or packet.is_corrupt or packet.has_sidedata("new_extradata") or not self._keys:
            return False
        key = self._keys[-1]
        return key.is_clean and (packet.is_keyframe or pts > key.pts)

    def check_complete(self) -> None:
        """`RejectedError` if an MP4 lists more frames than it has: an index that comes first survives a lost end."""
        listed = len(self._clip.stream.index_entries) if self._clip.header.format == "mp4" else 0
        if self._packets < listed:
            raise RejectedError(
                "undecodable_video", f"the file ends early: {self._packets} of {listed} frames are there"
            )

    def _shown_width(self, width: int) -> int:
        """``width`` in square pixels: the height is kept, as by the usual ``scale=iw*sar:ih`` of ffmpeg."""
        stream = self._clip.stream
        ratio: Fraction | None = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
        return max(1, int(width * ratio + Fraction(1, 2))) if ratio and ratio > 0 else width

    def _usual_duration(self, pts: list[int]) -> int:
        if len(pts) > 1:
            return pts[-1] - pts[-2]
        stream = self._clip.stream
        return round(1 / (stream.average_rate * stream.time_base)) if stream.average_rate and stream.time_base else 0


def _first_frame(packet: Packet[Any]) -> VideoFrame | None:
    import av

    try:
        frames = packet.decode()
    except av.error.MemoryError:
        raise
    except av.FFmpegError:
        return None  # the reader will meet the same error, if the packet matters
    return frames[0] if frames else None


def _orientation(frame: VideoFrame) -> int:
    """The display matrix of ``frame`` as an EXIF orientation; other angles are rounded to a right angle."""
    side_data: Any = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 1
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side_data)[:36])
    upright = abs(a) + abs(d) >= abs(b) + abs(c)
    signs = (_sign(a), 0, 0, _sign(d)) if upright else (0, _sign(b), _sign(c), 0)
    return _ORIENTATIONS[signs]


def _sign(value: int) -> int:
    return -1 if value < 0 else 1


def _starts_afresh(data: bytes, clip: Clip) -> bool:
    """Whether the bytes of a key frame say that no frame after it refers to a frame before it.

    In H.264 and HEVC that is an IDR picture. Other key frames may start an open group or a gradual refresh.
    """
    codec, extradata = clip.header.codec, clip.stream.codec_context.extradata or b""
    if codec == "h264":
        types = (unit[0] & 31 for unit in _nal_units(data, extradata, 4))
        return next((type for type in types if 1 <= type <= 5), None) == 5
    if codec == "hevc":
        types = (unit[0] >> 1 & 63 for unit in _nal_units(data, extradata, 21))
        return next((type for type in types if type < 32), None) in (19, 20)
    if codec == "vp8":
        return not data[0] & 1
    return codec == "vp9" and not data[0] & 0b1100  # neither a repetition nor a predicted frame (profiles 0 to 2)


def _nal_units(data: bytes, extradata: bytes, length_size_at: int) -> Iterator[bytes]:
    """The NAL units of a packet in MP4 and Matroska, each with its length in front; none for any other layout."""
    if len(extradata) <= length_size_at or extradata[0] != 1:
        return
    length_size = (extradata[length_size_at] & 3) + 1
    place = 0
    while place + length_size < len(data):
        length = int.from_bytes(data[place : place + length_size], "big")
        place += length_size
        if length:
            yield data[place : place + min(length, 2)]
        place += length
