"""A clip as it is stored: a few evenly spaced frames, upright, no larger than asked, each with its time.

The packets say in one cheap pass, without decoding, which way suits the file; all ways give the same pixels, bit
for bit (each decodes at full size with one thread, then one filter shrinks):

1. **PyAV by seeking**, if packets have times that differ: decode from the key frame before each chosen frame, and
   accept a frame only whole and with exactly the announced time.
2. **PyAV in order**, for AVI (whose times ffmpeg guesses), for VP8 (which notices no damage), and if a frame was not
   found by seeking (gradual refresh, damage, MPEG-PS): decode everything, choose among what really comes out.

So the chosen frames are those of a full sequential decode at the stated times, or the clip is a reject. That holds for
damaged bytes, too, except in open groups of pictures, where a full decode may carry damage past a key frame that
seeking starts from (8 of 450 damaged clips).

**decord** reads plain clips instead, if ``MediaOptions.video_reader`` says so: MP4 or Matroska with 8-bit H.264, VP8 or
VP9 and a single video stream, every packet shown and whole, times that differ, no display matrix, no interlacing, no
change of parameters, and each key frame a clean start (an IDR picture, with nothing later shown before it); its count,
times and sizes must agree with the packets'. It is not the default, since it conceals damaged bytes without an error
(which keeps such a clip, with frames that a player would show), and costs 1.1 to 1.4 times the CPU and up to 4 times
the memory. On clips that are not plain it silently returns *wrong frames* (open groups of pictures, gradual refresh,
edit lists that hide frames, MPEG-TS, MPEG-PS, WMV, AVI with B-frames), other colours (10 bit, interlaced), four
channels (rotated), frames that vary from run to run (damaged HEVC), or nothing (AV1).

Pixels that are not square (DVDs, DV tapes, anamorphic cameras) are made so by widening or narrowing the picture, by the
sample aspect ratio that the container says, else the codec.

Cost: 8 frames of 1080p H.264 with a key frame a second take 0.6 s and 110 MB.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from PIL import Image

from mimicit.errors import RejectedError, UsageError
from mimicit.media import EncodedMedia, MediaOptions
from mimicit.media.bounds import allow_pixels
from mimicit.media.frames import SECONDS_DIGITS, evenly_spaced
from mimicit.media.image import UPRIGHT_AXES, compress, fit_within, shrink, to_rgb, upright
from mimicit.media.packets import PacketTable, scan_packets
from mimicit.media.read_av import ChosenFrames, read_by_seeking, read_in_order

_T = TypeVar("_T")
_TOLERANCE_S: Final = 0.01  # decord gives times as float32, which is no finer than 2 ms after five hours


def encode_video(path: Path, options: MediaOptions) -> EncodedMedia:
    """``options.frames`` frames of the clip at ``path``, chosen by `evenly_spaced` among all that are shown.

    ``timestamps_s`` are the frames' presentation times from the first shown frame on; ``duration_s`` runs from there
    to the end of the last shown frame.

    `RejectedError` is the only error about a clip: ``missing_file``, ``empty_media``, ``unsupported_media`` (no known
    container), ``too_many_pixels``, ``too_many_frames``, ``too_long``, ``too_much_memory``, ``undecodable_video``
    (damaged, cut, without pictures). `UsageError` if ``options`` ask for decord and it is not installed.
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


def check_decord() -> None:
    """`UsageError` unless decord is installed."""
    try:
        import decord  # noqa: F401
    except ImportError:
        raise UsageError("--video-reader decord: decord is not installed; pip install 'mimicit[decord]'") from None


def read_with_decord(
    path: Path, table: PacketTable, indices: Sequence[int], store: Callable[[Image.Image], _T]
) -> list[_T] | None:
    """``store`` of the frames ``indices`` (ascending) of the clip, RGB as stored; None if decord fails or disagrees.

    Disagreement: another number of frames, other times, or another size than the packets say. `UsageError` if decord
    is not installed: without it, this machine would keep other clips than machines that have it.
    """
    check_decord()
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        with _stderr_closed():
            reader = decord.VideoReader(os.path.abspath(path), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != len(table.pts) or not _same_times(reader, table, indices):
            return None
        stored = []
        for index in indices:  # one at a time: a batch would hold all of them at full size
            frame = reader[index].asnumpy()
            if frame.shape != (table.height, table.width, 3):
                return None
            stored.append(store(Image.fromarray(frame)))
        return stored
    except (decord.DECORDError, AssertionError, LookupError, OSError, RuntimeError, StopIteration, ValueError):
        return None


def _read(
    path: Path, options: MediaOptions, table: PacketTable, store: Callable[[Image.Image], bytes]
) -> ChosenFrames[bytes]:
    """The stored frames by the first reader that suits the file."""
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


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Drop what is written to the process's stderr: decord prints why it cannot open a file, at any level."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _same_times(reader: Any, table: PacketTable, indices: Sequence[int]) -> bool:
    starts_s = reader.get_frame_timestamp(range(len(table.pts)))[:, 0]
    offset_s = table.pts[0] * table.time_base_s - starts_s[0]
    return all(
        abs(starts_s[index] + offset_s - table.pts[index] * table.time_base_s) < _TOLERANCE_S for index in indices
    )
