"""A clip as it is stored: a few evenly spaced frames, upright, no larger than asked, each with its time.

Three readers give the same pixels, bit for bit (all decode at full size with one thread, one filter shrinks), and
differ in which files they are right for. The packets decide, in one cheap pass without decoding:

1. **decord**, for plain clips: MP4 or Matroska with H.264, HEVC, VP8 or VP9, one video stream, every packet shown
   and whole, distinct times, no display matrix, no change of parameters, and each key frame a clean start (an IDR
   picture; no later picture is shown before it). Its count, times and sizes must then agree with the packets'.
   Of the rest it silently returns *wrong frames* of open groups of pictures (the default of x265), gradual refresh,
   edit lists that hide frames, MPEG-TS, AVI and MPEG-PS with B-frames and WMV; four channels of rotated clips; and
   it cannot read AV1.
2. **PyAV by seeking**, where packets have distinct times: decode from the key frame before each chosen frame, and
   accept a frame only with exactly the announced time.
3. **PyAV in order**, for AVI (whose times ffmpeg guesses), and where a frame was not found by seeking (MPEG-TS that
   starts between key frames, gradual refresh): decode everything, choose among what really comes out.

So the chosen frames are those of a full sequential decode at the stated times, or the clip is a reject. What a
full decode would conceal is not judged: damage inside frames that are not chosen does not reject a clip.
Pixels are taken as square.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from mimicit.errors import RejectedError
from mimicit.media.frames import SECONDS_DIGITS, evenly_spaced
from mimicit.media.options import EncodedMedia, MediaOptions
from mimicit.media.packets import PacketTable, scan_packets
from mimicit.media.pixels import UPRIGHT_AXES, compress, fit_within, shrink, to_rgb, upright
from mimicit.media.read_av import AllFrames, read_by_seeking, read_in_order
from mimicit.media.read_decord import read_with_decord

__all__ = ["encode_video"]


def encode_video(path: Path, options: MediaOptions) -> EncodedMedia:
    """``options.frames`` frames of the clip at ``path``, chosen by `evenly_spaced` among all that are shown.

    ``timestamps_s`` are the frames' presentation times from the first shown frame on; ``duration_s`` runs from there
    to the end of the last shown frame.

    `RejectedError` is the only error: ``missing_file``, ``empty_media``, ``unsupported_media`` (no known container),
    ``too_many_pixels``, ``too_many_frames``, ``too_long``, ``undecodable_video`` (damaged, cut, without pictures).
    """
    table = scan_packets(path, options)
    target = fit_within(table.width, table.height, options.size)

    def store(picture: Image.Image) -> bytes:
        if picture.size != (table.width, table.height):
            raise RejectedError("undecodable_video", "the size of the picture changes within the clip")
        return compress(upright(to_rgb(shrink(picture, target), None), table.orientation), options)

    files, indices, pts = _read(path, options, table, store)
    last_frame = table.end - table.pts[-1]
    width, height = target if table.orientation in UPRIGHT_AXES else target[::-1]
    return EncodedMedia(
        kind="video",
        extension=options.image_format,
        files=tuple(files),
        width=width,
        height=height,
        timestamps_s=tuple(_seconds(pts[index] - pts[0], table) for index in indices),
        duration_s=_seconds(pts[-1] - pts[0] + last_frame, table),
    )


def _read(
    path: Path, options: MediaOptions, table: PacketTable, store: Callable[[Image.Image], bytes]
) -> AllFrames[bytes]:
    """The stored frames by the first reader that is fit for the file."""
    indices = evenly_spaced(len(table.pts), options.frames)
    files = None
    if table.is_plain:
        files = read_with_decord(path, table, indices, store)
    if files is None and table.has_times:
        files = read_by_seeking(path, options, table, indices, store)
    if files is None:
        return read_in_order(path, options, table, store)
    return AllFrames(files, indices, table.pts)


def _seconds(ticks: int, table: PacketTable) -> float:
    return round(ticks * table.time_base_s, SECONDS_DIGITS)
