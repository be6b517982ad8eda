"""A clip as it is stored: a few evenly spaced frames, upright, no larger than asked, each with its time.

Three readers give the same pixels, bit for bit (all decode at full size with one thread, then one filter shrinks), and
differ in which files they are right for. The packets decide, in one cheap pass without decoding:

1. **decord**, for plain clips: MP4 or Matroska with 8-bit H.264, VP8 or VP9 and a single video stream, every packet
   shown and whole, times that differ, no display matrix, no interlacing, no change of parameters, and each key frame a
   clean start (an IDR picture, with nothing later shown before it). Its count, times and sizes must then agree with
   the packets'. Elsewhere it silently returns *wrong frames* (open groups of pictures, gradual refresh, edit lists that
   hide frames, MPEG-TS, MPEG-PS, WMV, AVI with B-frames), other colours (10 bit, interlaced), four channels (rotated),
   frames that vary from run to run (damaged HEVC), or nothing (AV1).
2. **PyAV by seeking**, where packets have times that differ: decode from the key frame before each chosen frame, and
   accept a frame only whole and with exactly the announced time.
3. **PyAV in order**, for AVI (whose times ffmpeg guesses), and where a frame was not found by seeking (gradual refresh,
   damage, MPEG-PS): decode everything, choose among what really comes out.

So the chosen frames are those of a full sequential decode at the stated times, or the clip is a reject; with one
limit: bytes that are damaged inside a plain clip are not noticed, since decord conceals them as players do.
Pixels are taken as square. Cost: 8 frames of 1080p H.264 with a key frame a second take 0.8 s and 170 MB.
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
from mimicit.media.read_av import ChosenFrames, read_by_seeking, read_in_order
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

    frames = _read(path, options, table, store)
    start, last = frames.pts[0], frames.pts[-1]
    last_frame = table.end - table.pts[-1]
    width, height = target if table.orientation in UPRIGHT_AXES else target[::-1]
    return EncodedMedia(
        kind="video",
        extension=options.image_format,
        files=tuple(frames.stored),
        width=width,
        height=height,
        original_width=table.width,
        original_height=table.height,
        timestamps_s=tuple(_seconds(frames.pts[index] - start, table) for index in frames.indices),
        duration_s=_seconds(last - start + last_frame, table),
    )


def _read(
    path: Path, options: MediaOptions, table: PacketTable, store: Callable[[Image.Image], bytes]
) -> ChosenFrames[bytes]:
    """The stored frames by the first reader that is fit for the file."""
    indices = evenly_spaced(len(table.pts), options.frames)
    files = None
    if table.is_plain:
        files = read_with_decord(path, table, indices, store)
    if files is None and table.has_times:
        files = read_by_seeking(path, options, table, indices, store)
    if files is None:
        return read_in_order(path, options, table, store)
    return ChosenFrames(files, indices, table.pts)


def _seconds(ticks: int, table: PacketTable) -> float:
    return round(ticks * table.time_base_s, SECONDS_DIGITS)
