"""How many tokens each prompt will have, from the index alone: rows of a token budget without reading the samples.

The index knows characters, triplets and media of every sample. Special tokens are counted exactly; for the words, some
samples of each source are read to learn how many tokens a character makes, for that depends on tokenizer and language.
This estimates a prompt within a few percent, and a row of many more closely, as the errors of its prompts average out.
Rows are filled up to three standard errors below the budget: few exceed it, by a percent or two. Cost: reading 64
samples of each source, once, whatever the size of the folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mimicit.errors import UsageError
from mimicit.loading.mixture import Mixture
from mimicit.loading.order import Ordered
from mimicit.loading.packing import Pack, PackedSamples, costs_of, pack
from mimicit.loading.samples import Samples
from mimicit.prompt import template_named
from mimicit.records import Sample
from otter_train.data.encoding import PromptEncoder

_READ: Final = 64  # samples of each source; their mean has an eighth of the error of one
_MARGIN: Final = 3.0  # standard errors


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """What is known of prompts, in stored order, as float64[number of samples].

    ``tokens``: the estimates, none above ``longest``, where prompts are cut; ``error``: their relative standard errors.
    """

    tokens: NDArray[np.float64]
    error: NDArray[np.float64]
    longest: int

    def costs(self, budget: int) -> NDArray[np.int64]:
        """What each prompt counts in rows of ``budget`` tokens: its estimate, and its share of the row's margin.

        The error of a row of n such prompts is n ** 0.5 times that of one.
        """
        margin = _MARGIN * self.error * np.sqrt(self.tokens / budget)
        return np.clip(np.ceil(self.tokens * (1 + margin)), 1, self.longest).astype(np.int64)


def showable(samples: Ordered[Sample], encoder: PromptEncoder) -> tuple[Ordered[Sample], list[str]]:
    """``samples`` without those whose query cannot be shown, by their index, and why, one line for each.

    A sample of one triplet needs a token for each of its media. If it has context, or ``samples`` no index, only the
    prompt can tell (`TooLongError`). `UsageError` if none can be shown.
    """
    if isinstance(samples, Mixture) and not samples.changes:
        shown = [showable(part, encoder) for part in samples.parts]
        lines = [line for _, part_lines in shown for line in part_lines]
        if not lines:
            return samples, []
        parts = [part for part, _ in shown]
        return Mixture(parts, samples.weights, seed=samples.seed, window=samples.window), lines
    if not isinstance(samples, Samples):
        return samples, []
    media = costs_of(samples, "media")
    room = encoder.max_tokens - (encoder.special.bos is not None)
    fits = (media <= room) | (costs_of(samples, "triplets") > 1)
    if fits.all():
        return samples, []
    names = samples.store.columns(["id", "source"]).take(samples.rows(np.flatnonzero(~fits))).to_pylist()
    why = [
        f"sample {row['id']!r} of {row['source']}: {count} pictures do not fit into {encoder.max_tokens} tokens; "
        "raise --max-tokens"
        for row, count in zip(names, media[~fits].tolist(), strict=True)
    ]
    if not fits.any():
        raise UsageError(f"none of the {len(fits)} samples can be shown; {why[0]}")
    return samples.only(np.flatnonzero(fits)), why


def within_budget(samples: Ordered[Sample], encoder: PromptEncoder, budget: int, cache: Path) -> Ordered[Pack]:
    """Rows of ``samples`` whose prompts have about ``budget`` tokens together, and hardly ever more.

    A mixture stays one: the shares of its parts are shares of samples. ``cache`` keeps which samples share a row.
    `UsageError` if the samples have no index, because they do not come from a folder.
    """
    if isinstance(samples, Mixture) and not samples.changes:
        rows = [within_budget(part, encoder, budget, cache) for part in samples.parts]
        return Mixture(rows, shares_of_rows(rows, samples.weights), seed=samples.seed, window=samples.window)
    if not isinstance(samples, Samples):
        raise UsageError(
            "--batch-tokens packs the samples of a folder of shards, or of a mixture of folders with fixed weights; "
            "give --batch-size instead"
        )
    return pack(samples, budget=budget, cost=estimate_lengths(samples, encoder).costs(budget), cache_dir=cache)


def shares_of_rows(parts: Sequence[Ordered[Pack]], weights: Sequence[float]) -> list[float]:
    """The weights of ``parts`` by which ``weights`` are shares of samples: a part with more in each row gives fewer."""
    return [
        weight * len(part) / len(part.samples) if isinstance(part, PackedSamples) else weight
        for weight, part in zip(weights, parts, strict=True)
    ]


def estimate_lengths(samples: Samples, encoder: PromptEncoder) -> Lengths:
    """The `Lengths` of the prompts that ``encoder`` makes of ``samples``, some of which are read and encoded."""
    template = template_named(encoder.template)
    triplets = costs_of(samples, "triplets")
    special = costs_of(samples, "media") + 2 * triplets + (1 if encoder.special.bos is None else 2)
    characters = costs_of(samples, "characters")
    words = characters + len(template.before + template.between) * triplets
    estimated = special.astype(np.float64)
    error = np.zeros(len(samples))
    for members in _sources(samples):
        # Longer samples cost time to encode, and will be cut anyway.
        short = members[characters[members] <= encoder.most_characters]
        if not len(short):
            continue
        read = short[np.unique(np.linspace(0, len(short) - 1, _READ).astype(np.int64))]
        found = dict(_measured(samples, encoder, read))
        places = np.array(list(found), dtype=np.int64)
        spoken = np.array(list(found.values()), dtype=np.float64) - special[places]
        rate = float(spoken.sum()) / max(1, int(words[places].sum()))
        estimated[members] += rate * words[members]
        missed = float(np.linalg.norm(spoken - rate * words[places]))
        error[members] = missed / max(1.0, float(np.linalg.norm(spoken + special[places])))
    estimated[characters > encoder.most_characters] = encoder.max_tokens
    return Lengths(np.minimum(estimated, encoder.max_tokens), error, encoder.max_tokens)


def _sources(samples: Samples) -> Iterator[NDArray[np.int64]]:
    """For each source the places of its samples, ascending."""
    column: Any = samples.store.columns(["source"])["source"].dictionary_encode().combine_chunks()
    numbers = column.indices.to_numpy()[samples.rows()]
    in_turn = np.argsort(numbers, kind="stable")
    yield from np.split(in_turn, np.flatnonzero(np.diff(numbers[in_turn])) + 1)


def _measured(samples: Samples, encoder: PromptEncoder, places: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """The place and the tokens, before cutting, of each sample at ``places`` that can be read."""
    whole = encoder.without_limit()
    for place, row in zip(places.tolist(), samples.rows(places).tolist(), strict=True):
        sample = samples.fetch(row)
        if sample is not None:
            yield place, len(whole.encode(sample).ids)
