"""Frames of a plain clip through decord, damaged ones as players show them; see `mimicit.media.video`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from PIL import Image

from mimicit.errors import UsageError
from mimicit.media.packets import PacketTable

__all__ = ["check_decord", "read_with_decord"]

_T = TypeVar("_T")
_TOLERANCE_S: Final = 0.01  # decord gives times as float32, which is no finer than 2 ms after five hours


def check_decord() -> None:
    """Do nothing where decord is installed, else raise `UsageError`."""
    try:
        import decord  # noqa: F401
    except ImportError:
        raise UsageError("--video-reader decord: decord is not installed; pip install 'mimicit[decord]'") from None


def read_with_decord(
    path: Path, table: PacketTable, indices: Sequence[int], store: Callable[[Image.Image], _T]
) -> list[_T] | None:
    """``store`` of the frames ``indices`` (ascending) of the clip, RGB as stored; None where decord fails or disagrees.

    Disagreement: another number of frames, other times, or another size than the packets say. `UsageError` where decord
    is not installed: to go on without it would keep other clips on this machine than on those that have it.
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
