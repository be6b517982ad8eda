"""What is measured between two lines of the log; sums stay on the device until the line is written."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from otter_train.data.micro_batches import Group
from otter_train.distributed import World, whole
from otter_train.model import Otter
from otter_train.training.flops import Work
from otter_train.training.guard import BadSample, BadStep
from otter_train.training.step import StepResult


class SourceLoss(NamedTuple):
    """``samples`` of a source, and the sum of their loss (nats) over their ``labelled`` tokens."""

    samples: int
    labelled: int
    nats: float


class _Scored(NamedTuple):
    """The samples of one micro-batch; ``nats`` float32 (B,) still lies on the device."""

    step: int
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    labelled: tuple[int, ...]
    nats: Tensor


class Window:
    """The steps since the last line of the log, on this process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.started = time.perf_counter()
        self.waited_s = 0.0
        self.work = Work()
        self._results: list[tuple[int, StepResult]] = []
        self._scored: list[_Scored] = []
        self._left_out: list[str] = []

    def add(self, step: int, result: StepResult, group: Group) -> None:
        """Count ``step`` (from 1), which was made of ``group``; the batches themselves are not kept."""
        for batch in group:
            if batch is not None:
                self.work += Work.of(batch)
                self._left_out += batch.left_out
        for batch, nats in result.row_nats:
            self._scored.append(_Scored(step, batch.ids, batch.sources, tuple(batch.labelled_per_sample), nats))
        self._results.append((step, result._replace(row_nats=())))

    def leave_out(self, seconds: float) -> None:
        """Do not count ``seconds`` that were spent on something other than training."""
        self.started += seconds

    @property
    def gradient_norm(self) -> float:
        """The gradient norm of the last step, before clipping."""
        return self._results[-1][1].gradient_norm.item()

    def loss(self, world: World) -> float:
        """The mean over the labelled tokens of all good steps on all processes, in nats.

        0 if no step had labelled tokens, NaN if all steps that had were bad.
        """
        total = torch.zeros((), device=self.device)
        labelled = torch.zeros((), device=self.device)
        for _, result in self._results:
            total += torch.where(result.bad, 0.0, result.loss * result.labelled)
            labelled += torch.where(result.bad, 0, result.labelled)
        world.sum_(total)
        if not any(result.labelled for _, result in self._results):
            return 0.0
        return (total / labelled).item()

    def left_out(self, world: World) -> list[str]:
        """Why samples of these steps were left out, on all processes: a line for each."""
        return [line for lines in world.gather(tuple(self._left_out)) for line in lines]

    def bad_steps(self, world: World) -> list[BadStep]:
        """The steps that the guard left out, with the samples of all processes."""
        verdicts = torch.stack([result.bad for _, result in self._results]).tolist()
        bad = []
        for (step, result), is_bad in zip(self._results, verdicts, strict=True):
            if is_bad:  # on every process, for all of them judge the same norm
                mine = tuple(sample for scored in self._scored if scored.step == step for sample in _samples(scored))
                norm = result.gradient_norm.item()
                finite = norm - norm == 0.0
                bad.append(
                    BadStep(
                        step=step,
                        reason="spike" if finite else "not a number",
                        gradient_norm=norm if finite else None,
                        samples=tuple(sample for part in world.gather(mine) for sample in part),
                    )
                )
        return bad

    def source_losses(self, world: World, bad: Sequence[BadStep]) -> dict[str, SourceLoss]:
        """What all processes have seen of each source in the good steps, by name."""
        left_out = {step.step for step in bad}
        mine: dict[str, SourceLoss] = {}
        for scored in self._scored:
            if scored.step not in left_out:
                for source, labelled, nats in zip(scored.sources, scored.labelled, scored.nats.tolist(), strict=True):
                    _add(mine, source, SourceLoss(1, labelled, nats))
        together: dict[str, SourceLoss] = {}
        for part in world.gather(mine):
            for source, loss in part.items():
                _add(together, source, loss)
        return dict(sorted(together.items()))


def gates(model: Otter) -> list[tuple[int, float, float]]:
    """Layer, tanh(attn_gate) and tanh(ff_gate) of each cross-attention block; every process must call it."""
    blocks = model.language.blocks_by_layer
    attention = torch.cat([whole(block.attn_gate.detach()) for block in blocks.values()]).tanh().tolist()
    feed_forward = torch.cat([whole(block.ff_gate.detach()) for block in blocks.values()]).tanh().tolist()
    return list(zip(blocks, attention, feed_forward, strict=True))


def peak_memory_bytes(device: torch.device) -> int:
    """The peak of memory so far: what torch allocated on the device, or (CPU) that of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _samples(scored: _Scored) -> list[BadSample]:
    means = [nats / max(1, labelled) for nats, labelled in zip(scored.nats.tolist(), scored.labelled, strict=True)]
    return [
        BadSample(id=id, source=source, loss=mean if mean - mean == 0.0 else None)
        for id, source, mean in zip(scored.ids, scored.sources, means, strict=True)
    ]


def _add(totals: dict[str, SourceLoss], source: str, more: SourceLoss) -> None:
    before = totals.get(source, SourceLoss(0, 0, 0.0))
    totals[source] = SourceLoss(before.samples + more.samples, before.labelled + more.labelled, before.nats + more.nats)
