"""``--shards`` and what goes with it: the samples of one folder, or of several that are mixed in exact proportions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mimicit.errors import UsageError, hint
from mimicit.loading import Mixture, Quarantine, Samples, Where, load
from mimicit.loading.order import Order
from mimicit.loading.quarantine import OnError
from mimicit.records import Sample
from otter_train.config.command_line import absolute_path

_WINDOW: Final = 64  # samples in which the shares of folders are exact
_LARGEST_WINDOW: Final = 1 << 20


def open_shards(
    shards: Sequence[str],
    *,
    where: Sequence[str] = (),
    limit: int | None = None,
    on_error: OnError = "raise",
    quarantine: Path | None = None,
    seed: int = 0,
) -> Samples | Mixture[Sample]:
    """The samples of the folders or URLs ``shards``, shuffled by ``seed``.

    Several are mixed by their weights, or else by their sizes, so that an epoch shows each sample once (about once
    if there are more than a million). ``where`` are conditions, as in `parse_where`; ``limit`` is the most samples to
    keep of each folder, drawn by ``seed``. With ``on_error`` "mask", bad samples are left out and recorded in
    ``quarantine``. `UsageError` if nothing is left of a folder, and the errors of `load`.
    """
    places = parse_shards(shards)
    condition = parse_where(where)
    policy = Quarantine(on_error, path=quarantine)
    parts = []
    for place, _ in places:
        samples = load(place, shuffle="full", seed=seed, where=condition, on_error=policy)
        if limit is not None and limit < len(samples):
            drawn = Order(length=len(samples), shuffle="full", seed=seed).at(np.arange(limit))
            samples = samples.only(np.sort(drawn))
        parts.append(samples)
    if len(parts) == 1:
        return parts[0]
    if any(weight is not None for _, weight in places):
        return Mixture(parts, [1.0 if weight is None else weight for _, weight in places], seed=seed, window=_WINDOW)
    sizes = [len(part) for part in parts]
    return Mixture(parts, list(map(float, sizes)), seed=seed, window=min(sum(sizes), _LARGEST_WINDOW))


def parse_shards(given: Sequence[str]) -> list[tuple[str, float | None]]:
    """(folder or URL, weight or None) of each ``FOLDER`` or ``FOLDER=WEIGHT``; `UsageError` names what is wrong."""
    places: list[tuple[str, float | None]] = []
    for text in given:
        place, mark, number = text.rpartition("=")
        if not mark or not place or "?" in place or Path(text).exists():
            places.append((text, None))
            continue
        try:
            weight = float(number)
        except ValueError:
            if Path(place).exists():
                raise UsageError(f"--shards {text}: the weight is a number above 0, not {number!r}") from None
            places.append((text, None))
            continue
        if not 0 < weight < math.inf:
            raise UsageError(f"--shards {text}: the weight is a number above 0")
        places.append((place, weight))
    names = [place.rstrip("/") for place, _ in places]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--shards {name} is given twice; give it once, with a weight: {name}=2")
    return places


def absolute_shards(given: Sequence[str]) -> list[str]:
    """``given``, with the folders among it as absolute paths."""
    return [weighted(absolute_path(place), weight) for place, weight in parse_shards(given)]


def weighted(place: str, weight: float | None) -> str:
    """``place`` with its weight, as `parse_shards` reads it."""
    return place if weight is None else f"{place}={weight:g}"


def parse_where(conditions: Sequence[str]) -> Where | None:
    """The fields of `Where` as ``NAME=VALUE``; names that are given several times are alternatives.

    None if there are no conditions; `UsageError` for an unknown name, with the most similar one.
    """
    known = [field.name for field in dataclasses.fields(Where)]
    found: dict[str, Any] = {}
    for condition in conditions:
        name, mark, value = condition.partition("=")
        if not mark or name not in known:
            fault = "" if mark else "write NAME=VALUE; "
            raise UsageError(f"--where {condition}: {fault}{hint(name, known)}")
        if name.startswith(("min_", "max_")):
            if not (value.isascii() and value.isdigit()):
                raise UsageError(f"--where {condition}: {name} is a whole number")
            if name in found:
                raise UsageError(f"--where {condition}: {name} is given twice")
            found[name] = int(value)
        else:
            found.setdefault(name, []).append(value)
    return Where(**found) if found else None
