"""Where a run stands, as a few hundred bytes of JSON that are the same on every rank.

The state counts global batches that were delivered, and holds a fingerprint of everything else that decides what the
next one is; so it can be taken up with any number of processes and workers, and by nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mimicit.errors import UsageError
from mimicit.loading.order.steps import PARTS

__all__ = ["MAX_STATE_BYTES", "LoaderState"]

MAX_STATE_BYTES: Final = 512
_VERSION: Final = 1
_MOST_BATCHES: Final = 10**15
_MOST: Final = 2**53  # what JSON holds exactly everywhere
_MENDS: Final = {
    "content": "give the same shards",
    "order": "give the same shuffle and seed",
    "filter": "give the same where=",
    "mixture": "give the same folders, weights and window",
    "packing": "give the same budget and cost",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderState:
    """``batches`` global batches of ``batch_size`` positions were delivered.

    ``fingerprints`` are those of `Ordered`. ``changes`` are the weights of a mixture that were set during the run.
    """

    batches: int
    batch_size: int
    fingerprints: Mapping[str, str]
    changes: Sequence[tuple[int, Sequence[int]]] = ()

    def to_json(self) -> dict[str, Any]:
        """At most `MAX_STATE_BYTES` of JSON; `UsageError` where too many changes of weights do not fit."""
        value: dict[str, Any] = {
            "version": _VERSION,
            "batches": self.batches,
            "batch_size": self.batch_size,
            **{part: self.fingerprints[part] for part in PARTS},
        }
        if self.changes:
            value["weights"] = [[window, list(units)] for window, units in self.changes]
        size = len(json.dumps({**value, "batches": _MOST_BATCHES}))  # what fits once fits until the end of the run
        if size > MAX_STATE_BYTES:
            raise UsageError(
                f"{len(self.changes)} changes of weights make a state of {size} bytes, more than {MAX_STATE_BYTES}; "
                "begin a new run with the weights of now"
            )
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LoaderState:
        """The state that `to_json` gave; `UsageError` where ``value`` is not one."""
        try:
            if value["version"] != _VERSION:
                raise UsageError(f"loader state of version {value['version']}; this is version {_VERSION}")
            state = cls(
                batches=_whole(value["batches"]),
                batch_size=_whole(value["batch_size"]),
                fingerprints={part: str(value[part]) for part in PARTS},
                changes=[
                    (_whole(window), [_whole(unit) for unit in units]) for window, units in value.get("weights", ())
                ],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not a loader state ({type(error).__name__}: {error})") from None
        return state

    def check(self, fingerprints: Mapping[str, str], batch_size: int) -> None:
        """`UsageError` names every part in which a loader differs from the one that gave this state."""
        wrong = [
            f"another {part} ({self.fingerprints[part]}, here {fingerprints[part]}): {_MENDS[part]}"
            for part in PARTS
            if self.fingerprints[part] != fingerprints[part]
        ]
        if self.batch_size != batch_size:
            wrong.append(f"another batch_size ({self.batch_size}, here {batch_size})")
        if wrong:
            raise UsageError(f"the loader state is of {'; of '.join(wrong)}")


def _whole(value: object) -> int:
    """``value``, if it is a whole number from 0 to 2^53; `ValueError` where it is text, a float, or beyond."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST:
        raise ValueError(f"{value!a:.40} is no whole number from 0 to {_MOST:,}")
    return value
