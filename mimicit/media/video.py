"""A clip as it is stored: a few evenly spaced frames, upright, no larger than asked, each with its time.

The packets say in one cheap pass, without decoding, which way is fit for the file; all ways give the same pixels, bit
for bit (each decodes at full size with one thread, then one filter shrinks):

1. **PyAV by seeking**, where packets have times that differ: decode from the key frame before each chosen frame, and
   accept a frame only whole and with exactly the announced time.
2. **PyAV in order**, for AVI (whose times ffmpeg guesses), for VP8 (which notices no damage), and where a frame was not
   found by seeking (gradual refresh, damage, MPEG-PS): decode everything, choose among what really comes out.

So the chosen frames are those of a full sequential decode at the stated times, or the clip is a reject. That holds
where bytes are damaged, too; but for open groups of pictures, in which a full decode may carry damage past a key frame
that seeking starts from (8 of 450 damaged clips).

**decord** reads plain clips instead, if ``MediaOptions.video_reader`` says so: MP4 or Matroska with 8-bit H.264, VP8 or
VP9 and a single video stream, every packet shown and whole, times that differ, no display matrix, no interlacing, no
change of parameters, and each key frame a clean start (an IDR picture, with nothing later shown before it); its count,
times and sizes must agree with the packets'. It is not the default, since it conceals damaged bytes without a word
(which keeps such a clip, with frames that a player would show), and costs 1.1 to 1.4 times the CPU and up to 4 times
the memory. On clips that are not plain it silently returns *wrong frames* (open groups of pictures, gradual refresh,
edit lists that hide frames, MPEG-TS, MPEG-PS, WMV, AVI with B-frames), other colours (10 bit, interlaced), four
channels (rotated), frames that vary from run to run (damaged HEVC), or nothing (AV1).

Pixels that are not square (DVDs, DV tapes, anamorphic cameras) are made so by widening or narrowing the picture, by the
sample aspect ratio that the container says, else the codec.

Cost: 8 frames of 1080p H.264 with a key frame a second take 0.6 s and 110 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from mimicit.errors import RejectedError
from mimicit.media.bounds import allow_pixels
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

    `RejectedError` is the only error about a clip: ``missing_file``, ``empty_media``, ``unsupported_media`` (no known
    container), ``too_many_pixels``, ``too_many_frames``, ``too_long``, ``too_much_memory``, ``undecodable_video``
    (damaged, cut, without pictures). `UsageError` where ``options`` ask for decord and it is not installed.
    """
    table = scan_packets(path, options)
    allow_pixels(table.width * table.height * len(table.pts))
    target = fit_within(table.shown_width, table.height, options.size)

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
        original_width=table.shown_width,
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
    if table.is_plain and options.video_reader == "decord":
        files = read_with_decord(path, table, indices, store)
    if files is None and table.can_seek:
        files = read_by_seeking(path, options, table, indices, store)
    if files is None:
        return read_in_order(path, options, table, store)
    return ChosenFrames(files, indices, table.pts)


def _seconds(ticks: int, table: PacketTable) -> float:
    return round(ticks * table.time_base_s, SECONDS_DIGITS)
