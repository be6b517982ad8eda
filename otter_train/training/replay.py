"""``--replay STEP``: compute one step of a run again, sample by sample, with the weights from before it.

Training continues from the last checkpoint before the step up to it, which gives the same weights on the same machine;
nothing is written. So a sample that spoilt a step can be examined long after.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mimicit.errors import TrainError, UsageError
from mimicit.loading.order import Ordered
from mimicit.records import Sample
from otter_train.checkpoint.files import Checkpoint, checkpoint_name, open_checkpoint
from otter_train.checkpoint.lineage import read_lineage
from otter_train.config.run_config import RunConfig, RunOptions
from otter_train.data.batches import Batch
from otter_train.data.micro_batches import each_group
from otter_train.data.packed import PackedBatch
from otter_train.distributed import join_world, pick_device
from otter_train.reporting.metrics import Console
from otter_train.training.loop import run_step
from otter_train.training.session import Session, begin, changes_since
from otter_train.training.step import batch_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedSample:
    """A sample of the step; ``loss`` is the mean over its ``labelled`` tokens in nats."""

    id: str
    source: str
    labelled: int
    loss: float


def replay(
    config: RunConfig, samples: Ordered[Sample], run: Path, step: int, *, options: RunOptions, console: Console
) -> list[ReplayedSample]:
    """The samples of ``step`` (from 1, as in the log) with their losses before its update, in the order of the batch.

    `UsageError` if the run has no such step, or was begun with other options; `TrainError` if a checkpoint that is
    needed is damaged. It works in one process.
    """
    if join_world(pick_device(options.device)).size > 1:
        raise UsageError("--replay works in one process; start it without torchrun")
    checkpoint = _checkpoint_before(run, step)
    if checkpoint is None and (ancestors := read_lineage(run).ancestors):
        raise UsageError(
            f"--replay {step}: {run} goes on from {ancestors[-1].run}; no checkpoint of its own is before it"
        )
    if checkpoint is not None:
        changes = changes_since(checkpoint, config)
        if changes:
            raise UsageError(f"{run} was begun with other options: {'; '.join(changes.values())}; give them again")
    session = begin(config, samples, run, options, console, checkpoint)
    if not 1 <= step <= session.total:
        raise UsageError(f"--replay {step}: the run has the steps 1 to {session.total}")
    for number, group in enumerate(each_group(session.loader), session.first + 1):
        if number == step:
            return [scored for batch in group if batch is not None for scored in _scores(session, batch)]
        run_step(session, number - 1, group)
    raise TrainError(f"--replay {step}: the data ends before this step")


def lines(replayed: Sequence[ReplayedSample]) -> Iterator[str]:
    """A line for each sample: its loss, its labelled tokens, its source and its id; the worst first."""
    yield "loss      tokens  source  sample"
    for one in sorted(replayed, key=lambda one: one.loss if math.isfinite(one.loss) else math.inf, reverse=True):
        yield f"{one.loss:<8.4f}  {one.labelled:>6}  {one.source}  {one.id}"


def _checkpoint_before(run: Path, step: int) -> Checkpoint | None:
    """The last checkpoint before ``step``; None if the run has to start from the beginning."""
    steps = sorted(int(match[1]) for path in run.glob("checkpoint-*") if (match := re.search(r"-(\d+)$", path.name)))
    before = [one for one in steps if one < step]
    return open_checkpoint(run / checkpoint_name(before[-1])) if before else None


def _scores(session: Session, batch: Batch | PackedBatch) -> Iterator[ReplayedSample]:
    with torch.no_grad():
        nats = batch_loss(
            session.model, batch.to(session.device), session.config.precision, session.features
        ).row_nats.tolist()
    for id, source, tokens, loss in zip(batch.ids, batch.sources, batch.labelled_per_sample, nats, strict=True):
        yield ReplayedSample(id=id, source=source, labelled=tokens, loss=loss / max(1, tokens))
