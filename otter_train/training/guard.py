"""The guard of a run: it leaves out steps that would spoil the weights, and names the samples they were made of.

A step is bad if its gradient is not finite, or its norm far above what is usual in this run. The verdict is computed
on the device, where AdamW reads it, so no step waits for it; the names are looked up when the log is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import orjson
import torch
from torch import Tensor

from mimicit.errors import TrainError
from otter_train.config.run_config import GuardMode
from otter_train.reporting.metrics import GrowingFile

_MEMORY: Final = 0.98  # of the average norm, per step: it looks back over about 50 of them
_FEWEST: Final = 50  # steps before a norm can be called unusual
_MOST_IN_A_ROW: Final = 5
_NAMED: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BadSample:
    """A sample of a bad step; ``loss`` is the mean over its labelled tokens in nats, None if that is not finite."""

    id: str
    source: str
    loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BadStep:
    """A step that was left out (``step`` counts from 1, as the log does) and all the samples it saw."""

    step: int
    reason: Literal["not a number", "spike"]
    gradient_norm: float | None
    samples: tuple[BadSample, ...]

    @property
    def suspects(self) -> tuple[BadSample, ...]:
        """The samples whose own loss is not finite; if there are none, all of them, the worst first."""
        broken = tuple(sample for sample in self.samples if sample.loss is None)
        return broken or tuple(sorted(self.samples, key=lambda sample: -(sample.loss or 0.0)))

    def line(self) -> str:
        """``step 7: the gradient is not a number; sample-3 (vqa); --replay 7 computes it again``."""
        names = list(dict.fromkeys(f"{sample.id} ({sample.source})" for sample in self.suspects))
        named = ", ".join(names[:_NAMED])
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        what = "is not a number" if self.gradient_norm is None else f"has norm {self.gradient_norm:.3g}, a spike"
        return f"step {self.step}: the gradient {what}; {named}{more}; --replay {self.step} computes it again"


class Guard:
    """Judges the gradient norms of a run; its state goes into checkpoints, so a resumed run judges the same.

    A norm above ``factor`` times the average is a spike (0: no such limit). A norm of at most ``harmless``, which
    gradients are clipped to (0: they are not), never is: when nearly everything has been learned, the steps that still
    teach something stand far above the average. With clipping, a norm that stays far above the average is no spike
    either: a model that has begun to use something new has steep gradients, and leaving out step after step would keep
    it where it is. The fifth such step in a row is taken, clipped, and its norm becomes the average. With ``mode``
    ``off`` no step is bad.
    """

    def __init__(self, mode: GuardMode, factor: float, device: torch.device, *, harmless: float = 0.0) -> None:
        self.mode: GuardMode = mode
        self.factor = factor or math.inf
        self.harmless = harmless
        self._average = torch.zeros((), device=device)
        self._seen = torch.zeros((), device=device)
        self._in_a_row = torch.zeros((), device=device)

    def judge(self, norm: Tensor) -> Tensor:
        """True (bool scalar, on the device) if a step whose gradient has ``norm`` is to be left out."""
        usual = (self._seen < _FEWEST) | (norm <= (self.factor * self._average).clamp(min=self.harmless))
        stays = (self._in_a_row >= _MOST_IN_A_ROW - 1) & (self.harmless > 0)
        good = torch.isfinite(norm) & (usual | stays)
        memory = torch.minimum(self._seen / (self._seen + 1), torch.full_like(self._seen, _MEMORY))
        moved = torch.where(usual, memory * self._average + (1 - memory) * norm, norm)
        self._average = torch.where(good, moved, self._average)
        self._seen += good
        self._in_a_row = torch.where(good, 0.0, self._in_a_row + 1)
        return ~good if self.mode != "off" else torch.zeros_like(good)

    def report(self, bad: Sequence[BadStep], file: GrowingFile | None) -> None:
        """Append ``bad`` to ``file``, one JSON object a line; `TrainError` if the run must stop."""
        if file is not None and bad:
            file.append(b"".join(orjson.dumps(asdict(step)) + b"\n" for step in bad))
        if bad and self.mode == "stop":
            raise TrainError(f"{bad[0].line()}; nothing was learned from it, and --guard skip would go on")
        if bad and self._in_a_row.item() >= _MOST_IN_A_ROW:
            what = "no number" if bad[-1].gradient_norm is None else "far above what it was"
            raise TrainError(
                f"the gradient is {what} at step {bad[-1].step}, as in the steps before it; try a lower --lr, "
                "a longer --warmup or --clip 1.0"
            )

    def state(self) -> dict[str, float]:
        """What a checkpoint stores of the guard; it waits for the device."""
        return {
            "average_norm": self._average.item(),
            "seen": self._seen.item(),
            "in_a_row": self._in_a_row.item(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state`."""
        self._average.fill_(state["average_norm"])
        self._seen.fill_(state["seen"])
        self._in_a_row.fill_(state["in_a_row"])
