"""Many JSON texts at once, each put together from pieces that several of them share: Arrow copies the bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import orjson
import pyarrow as pa

from mimicit.pipeline.ragged import Numbers

__all__ = ["Pieces"]

_IS_ESCAPED: Final = np.array([byte < 0x20 or byte in b'"\\' for byte in range(256)])


class Pieces:
    """The pieces at hand; each is known by its number."""

    def __init__(self) -> None:
        self._arrays: list[pa.Array] = []
        self._count = 0

    def add(self, pieces: Sequence[bytes] | pa.Array) -> int:
        """Take more pieces; the number of the first."""
        array = pieces if isinstance(pieces, pa.Array) else pa.array(pieces, pa.large_binary())
        self._arrays.append(array)
        self._count += len(array)
        return self._count - len(array)

    def add_texts(self, texts: pa.Array) -> int:
        """Take texts (large strings) as they stand between the quotation marks of JSON; the number of the first."""
        data = texts.buffers()[2]
        if data is None or not _IS_ESCAPED[np.frombuffer(data, np.uint8)].any():
            return self.add(texts.cast(pa.large_binary()))
        # A quotation mark within a text has a backslash before it, so what stands between two texts is in none.
        return self.add(orjson.dumps(texts.to_numpy(zero_copy_only=False).tolist())[2:-2].split(b'","'))

    def joined(self, order: Numbers, begins: Numbers) -> pa.Array:
        """The pieces ``order``, one after the other, cut into texts (large binary) where each of these begins."""
        whole = pa.concat_arrays(self._arrays).take(pa.array(order))
        offsets = np.frombuffer(whole.buffers()[1], np.int64)[np.append(begins, len(order))]
        return pa.Array.from_buffers(pa.large_binary(), len(begins), [None, pa.py_buffer(offsets), whole.buffers()[2]])
