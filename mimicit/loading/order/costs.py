"""The cost of each sample as a whole number: a column of the index, or measured once and kept in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mimicit.errors import CorruptShardError, UsageError
from mimicit.loading.order.steps import digest
from mimicit.loading.samples import Samples
from mimicit.prompt import render
from mimicit.records import Sample
from mimicit.shards.files import publish


@dataclass(frozen=True, slots=True)
class Cost:
    """A measure of samples; ``fingerprint`` differs if ``measure`` may give another number."""

    measure: Callable[[Sample], int]
    fingerprint: str


class _Tokenizer(Protocol):
    def __call__(self, text: str) -> Mapping[str, Any]: ...
    def get_vocab(self) -> Mapping[str, int]: ...


def token_cost(tokenizer: _Tokenizer, template: str = "otter") -> Cost:
    """Tokens of the whole prompt (see `mimicit.prompt.render`) under a tokenizer like those of `transformers`."""

    def measure(sample: Sample) -> int:
        return len(tokenizer(render(sample, template))["input_ids"])

    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else ""
    return Cost(measure, digest("tokens", template, rules, sorted(tokenizer.get_vocab().items())))


def costs_of(
    samples: Samples, cost: str | Cost | NDArray[np.int64], cache_dir: Path | None = None
) -> NDArray[np.int64]:
    """The cost of each sample that takes part, in stored order: int64[number of samples].

    ``cost`` names an integer column of the index (``frames``, ``media``, ``triplets``, ``characters``, ``size``), is
    such an array itself, or a measure: every sample is read once, and the result kept in ``cache_dir`` for all later
    runs with the same folder, filter and measure. `UsageError` if there is no such column, the array has another
    length, or a cost is negative.
    """
    if isinstance(cost, str):
        costs = _column(samples, cost)
    elif isinstance(cost, np.ndarray):
        costs = cost
        if costs.shape != (len(samples),):
            raise UsageError(f"{costs.size} costs of {len(samples)} samples; give one for each")
    else:
        prints = samples.fingerprints
        name = f"costs-{digest(prints['content'], prints['filter'], cost.fingerprint)}"
        costs = kept_array(cache_dir, name, lambda: _measured(samples, cost.measure))
        if len(costs) != len(samples):
            raise CorruptShardError(f"{cache_dir}/{name}.npy: {len(costs)} costs of {len(samples)} samples; delete it")
    if costs.min() < 0:
        row = int(samples.rows(np.array([costs.argmin()]))[0])
        raise UsageError(f"sample {samples.store.key(row)}: the cost {costs.min()} is negative")
    return costs


def kept_array(folder: Path | None, name: str, make: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
    """The array that ``make`` returns, kept in ``folder`` and memory-mapped from there; without a folder, only made.

    The file appears whole or not at all, so processes may race for it; ``name`` must identify its content.
    """
    if folder is None:
        return make()
    path = folder / f"{name}.npy"
    if not path.is_file():
        array = make()
        folder.mkdir(parents=True, exist_ok=True)
        with publish(path, folder / f".{name}.{os.getpid()}.tmp") as file:
            np.save(file, array)
    try:
        kept: NDArray[np.int64] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorruptShardError(f"{path}: {error}; delete it") from None
    if kept.ndim != 1 or kept.dtype != np.int64:
        raise CorruptShardError(f"{path}: not what was written there; delete it")
    return kept


def _column(samples: Samples, name: str) -> NDArray[np.int64]:
    column = samples.store.columns([name])[name].to_numpy()
    if column.dtype.kind not in "iu":
        raise UsageError(f"cost={name!r}: this column holds no whole numbers; choose frames, media or characters")
    costs: NDArray[np.int64] = column[samples.rows()].astype(np.int64)
    return costs


def _measured(samples: Samples, measure: Callable[[Sample], int]) -> NDArray[np.int64]:
    rows = samples.rows()
    return np.fromiter((measure(samples.store.read(row)) for row in rows.tolist()), dtype=np.int64, count=len(rows))
