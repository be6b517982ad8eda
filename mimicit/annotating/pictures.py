"""The pictures and frames of a record as the model is shown them, made as ``mimicit build`` makes those of shards.

Decoding runs in processes of its own, because no decoder can be interrupted and a hostile file may end its process. A
medium whose process ends is tried once more, alone; if that process ends too, it is given up.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final

from mimicit.errors import RejectedError
from mimicit.media import EncodedMedia, MediaOptions
from mimicit.media.bounds import bounded
from mimicit.media.frames import encode_frames
from mimicit.media.image import encode_image
from mimicit.media.video import encode_video
from mimicit.sources.files.reading import Reader, kept_reader
from mimicit.sources.files.root import Root
from mimicit.sources.items import MediaRef
from mimicit.worker import apart_from_main, begin_worker, check_processes

_WORKERS: Final = min(4, os.cpu_count() or 1)


class Pictures:
    """Encodes media beneath ``root``; ``workers`` processes start with the first medium."""

    def __init__(self, root: Root, *, size: int, frames: int, workers: int = _WORKERS) -> None:
        self._root, self._workers = root, workers
        self._options = MediaOptions(size=size, frames=frames)
        self._pool: ProcessPoolExecutor | None = None
        self._alone = asyncio.Lock()

    async def of(self, media: Sequence[MediaRef]) -> list[tuple[str, bytes]]:
        """(extension, bytes) of every picture and frame, in order; `RejectedError` as in a build."""
        pictures: list[tuple[str, bytes]] = []
        for ref in media:
            encoded = await self._encoded(ref)
            pictures += [(encoded.extension, data) for data in encoded.files]
        return pictures

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    async def _encoded(self, ref: MediaRef) -> EncodedMedia:
        pool = self._pool = self._pool or _new_pool(self._workers)
        task = (self._root, ref, self._options)
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, _encode, *task)
        except BrokenProcessPool:
            if self._pool is pool:
                self._pool = None
        async with self._alone:
            with _new_pool(1) as alone:
                try:
                    return await asyncio.get_running_loop().run_in_executor(alone, _encode, *task)
                except BrokenProcessPool:
                    raise RejectedError("decoder_died", f"{ref.origin}: its decoder crashed or took too long") from None


def _new_pool(workers: int) -> ProcessPoolExecutor:
    check_processes()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker)
    with apart_from_main():
        for _ in range(workers):  # started here, where no script of the user runs again
            pool.submit(os.getpid)
    return pool


def _encode(root: Root, ref: MediaRef, options: MediaOptions) -> EncodedMedia:
    """Runs in a worker."""
    with kept_reader(root, Path(tempfile.gettempdir())) as reader, bounded(options):
        return _encoded(reader, ref, options)


def _encoded(reader: Reader, ref: MediaRef, options: MediaOptions) -> EncodedMedia:
    if ref.timestamps_s is not None:
        frames = (reader.read(part) for part in ref.parts)
        return encode_frames(frames, ref.timestamps_s, options, duration_s=ref.duration_s)
    (part,) = ref.parts
    if ref.kind == "video":
        with reader.as_file(part) as path:
            return encode_video(path, options)
    return encode_image(reader.read(part), options)
