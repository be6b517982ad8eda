"""What happens to a bad sample: it raises, or its slot is masked, counted and written down; no other slot moves.

The order of positions never depends on what can be read. A masked slot yields None at its own position, and one JSON
line ``{"shard", "key", "reason"}`` goes to the quarantine file, which several workers may share. A fault of a whole
shard (missing, cut, another one) and a network that fails are not faults of a sample: they always raise.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

import orjson

from mimicit.errors import ChangedShardError, CorruptShardError, UsageError
from mimicit.records import Sample

T = TypeVar("T")

OnError = Literal["raise", "mask"]

_FEWEST_READS: Final = 100  # below that a fraction says nothing
_SHOWN: Final = 5


class _Store(Protocol):
    def read(self, row: int) -> Sample:
        """The sample at ``row``."""

    def key(self, row: int) -> str:
        """The key of that sample."""

    def shard_name(self, row: int) -> str:
        """The path or URL of its shard."""


class Quarantine:
    """The policy for bad samples, and the count of them in this process.

    With ``on_error="mask"``, more than ``most_fraction`` of the samples read (from the 100th on), or ``most_in_a_row``
    one after the other, raise `CorruptShardError` with a summary: the fault is then not in single samples. Limits and
    counts hold for each worker process by itself; a row is written once.
    """

    def __init__(
        self,
        on_error: OnError = "raise",
        *,
        path: str | Path | None = None,
        most_fraction: float = 0.01,
        most_in_a_row: int = 32,
    ) -> None:
        if on_error not in ("raise", "mask"):
            raise UsageError(f"on_error={on_error!r}: choose 'raise' or 'mask'")
        if not 0 <= most_fraction <= 1 or most_in_a_row < 1:
            raise UsageError(
                f"most_fraction={most_fraction} lies in 0 to 1, and most_in_a_row={most_in_a_row} from 1 on"
            )
        self.on_error = on_error
        self.path = Path(path) if path is not None else None
        self.most_fraction = most_fraction
        self.most_in_a_row = most_in_a_row
        self.reads = 0
        self.masked = 0
        self._in_a_row = 0
        self._reasons: dict[tuple[str, str], str] = {}  # by shard and key

    def attempt(self, store: _Store, row: int, work: Callable[[Sample], T]) -> T | None:
        """``work(sample)`` for the sample at ``row``; None if reading it, or ``work``, raises `CorruptShardError`.

        Use it to decode under the same policy. If ``on_error`` is ``"raise"``, the error passes through.
        """
        self.reads += 1
        try:
            result = work(store.read(row))
        except ChangedShardError:
            raise
        except CorruptShardError as error:
            if self.on_error == "raise":
                raise
            self._mask(store.shard_name(row), store.key(row), str(error))
            return None
        self._in_a_row = 0
        return result

    def _mask(self, shard: str, key: str, reason: str) -> None:
        self.masked += 1
        self._in_a_row += 1
        if (shard, key) not in self._reasons:
            self._reasons[shard, key] = reason
            if self.path is not None:
                _append(self.path, {"shard": shard, "key": key, "reason": reason})
        too_many = self.reads >= _FEWEST_READS and self.masked > self.most_fraction * self.reads
        if too_many or self._in_a_row >= self.most_in_a_row:
            raise CorruptShardError(self._summary())

    def _summary(self) -> str:
        shown = "; ".join(list(self._reasons.values())[:_SHOWN])
        listed = f"all are listed in {self.path}" if self.path is not None else "give a quarantine file to list all"
        return (
            f"{self.masked} of {self.reads} samples are bad, {self._in_a_row} in a row (allowed: a fraction of "
            f"{self.most_fraction} and {self.most_in_a_row - 1} in a row); {listed}; run mimicit verify. First: {shown}"
        )


def _append(path: Path, entry: dict[str, Any]) -> None:
    """Append one whole line, whatever other processes write at the same time; a torn last line is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        line = orjson.dumps(entry) + b"\n"
        if file.seek(0, 2):
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)
