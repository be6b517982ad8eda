"""``--continue-as``: a new run that continues from the last checkpoint of another, with some other options.

Weights, moments of the optimizer, random generators and the place in the data are taken over. The options in
`CHANGEABLE` and the weights of folders may change. ``lineage.json`` in the new run's folder, not in its checkpoints,
records where it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from mimicit.errors import TrainError, UsageError
from mimicit.shards.files import write_atomically
from otter_train.config.command_line import CONFIG_NAME, same_place
from otter_train.data.shards import absolute_shards, parse_shards, weighted

LINEAGE_NAME: Final = "lineage.json"
CHANGEABLE: Final = frozenset(
    {
        *("beta2", "clip", "epochs", "guard", "guard_factor", "max_steps", "schedule", "warmup", "weight_decay"),
        *("lr", "lr_cross_attention", "lr_language", "lr_perceiver", "lr_vision"),
    }
)
"""The options of a run that decide how its steps update the model, or their number, but not the model or the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """The run in the folder ``run``, which was left after ``step``, and the ``changes`` from there on."""

    run: str
    step: int
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The ``ancestors`` of a run, the first one first, and the ``shards`` that this one began with."""

    ancestors: tuple[Ancestor, ...] = ()
    shards: tuple[str, ...] = ()


def read_lineage(run: Path) -> Lineage:
    """Where ``run`` comes from; `TrainError` if its file is damaged."""
    path = run / LINEAGE_NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        ancestors = [Ancestor(**{**one, "changes": tuple(one["changes"])}) for one in value["ancestors"]]
        return Lineage(ancestors=tuple(ancestors), shards=tuple(value["shards"]))
    except FileNotFoundError:
        return Lineage(shards=_shards_of(run))
    except (ValueError, KeyError, TypeError) as error:
        raise TrainError(f"{path}: is damaged ({type(error).__name__}); begin this run anew") from None


def descend(parent: Path, run: Path, step: int, changes: Sequence[str]) -> None:
    """Record that ``run`` continues from ``parent`` after ``step``, with ``changes``."""
    before = read_lineage(parent)
    mine = Ancestor(run=str(parent.absolute()), step=step, changes=tuple(changes))
    value = asdict(Lineage(ancestors=(*before.ancestors, mine), shards=before.shards))
    run.mkdir(parents=True, exist_ok=True)
    write_atomically(run / LINEAGE_NAME, [json.dumps(value, indent=2).encode(), b"\n"])


def shards_to_open(run: Path, parent: Path | None, given: Sequence[str]) -> tuple[list[str], list[float] | None]:
    """The folders with the weights that the first of the runs gave them, and those from now on; None: unchanged.

    The order of a mixture depends on its first weights; later ones are a part of the state. Folders may have moved: the
    state knows what they hold. `UsageError` if ``run`` is resumed with other weights, began from a run that is not
    named, or does not continue from ``parent``.
    """
    given = absolute_shards(given)
    has_begun = any(run.glob("checkpoint-*"))
    before = read_lineage(run)
    if parent is not None and has_begun:
        _check_descent(run, parent, before)
    if before.ancestors and parent is None and not has_begun:
        last = before.ancestors[-1].run
        raise UsageError(f"{run} goes on from {last}, and has no checkpoint yet; give --out {last} --continue-as {run}")
    holder = run if has_begun and before.ancestors else parent
    if holder is None:
        return given, None
    places, weights = zip(*parse_shards(given), strict=True)
    first, last_given = parse_shards(read_lineage(holder).shards), _shards_of(holder)
    if len(first) != len(places) or not any(weights):
        return given, None
    at_first = [weighted(place, weight) for place, (_, weight) in zip(places, first, strict=True)]
    if _numbers(weights) == _numbers([weight for _, weight in parse_shards(last_given)]):
        return at_first, None
    if holder is run:
        words = " ".join(last_given)
        raise UsageError(f"{run}: --shards had the weights {words}; give them again, or go on with --continue-as")
    return at_first, _numbers(weights)


def _check_descent(run: Path, parent: Path, lineage: Lineage) -> None:
    if same_place(str(run), str(parent)):
        raise UsageError(f"--continue-as {run}: is --out itself; give a new folder")
    last = lineage.ancestors[-1].run if lineage.ancestors else None
    if last is None or (Path(last).exists() and not same_place(last, str(parent))):
        origin = f"continues {last}" if last else "is a run of its own"
        raise UsageError(f"--continue-as {run}: {origin}, and does not continue {parent}; give a new folder")


def _numbers(weights: Sequence[float | None]) -> list[float] | None:
    """The shares that ``weights`` mean; None: by size."""
    return [1.0 if weight is None else weight for weight in weights] if any(weights) else None


def _shards_of(run: Path) -> tuple[str, ...]:
    """The folders in the options that ``run`` keeps; none if it keeps no options yet."""
    try:
        value = json.loads((run / CONFIG_NAME).read_text(encoding="utf-8"))["shards"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),) if value else ()
