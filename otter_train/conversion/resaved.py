"""Folders that transformers saved itself, with its trainer for example, where it stores some families by other names.

Experts that a model holds joined are stored one by one then, and decoders under the names of their first release. Such
a folder can only be read by transformers, so that the model is loaded as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from mimicit.errors import TrainError
from otter_train.conversion.frozen import empty_model
from otter_train.model import ModelConfig
from otter_train.model.convert import neutral_state
from otter_train.model.lazy import LazyTensor
from otter_train.model.sources import read_pretrained

__all__ = ["read_resaved"]


def read_resaved(
    folder: Path, tensors: Mapping[str, LazyTensor], architecture: ModelConfig
) -> dict[str, LazyTensor] | None:
    """The weights of ``folder`` by our names, where its ``tensors`` have some of other names; None where they have not.

    Each keeps the dtype it was stored in; what was stored by another name, that of most of these. None, too, where
    transformers cannot read them either.
    """
    expected = neutral_state(empty_model(architecture, 1)).keys()
    unknown = [name for name in tensors if name not in expected and name.startswith("language.lm.")]
    if not unknown:
        return None
    from otter_train.pretrained.modeling import OtterForConditionalGeneration

    widest = max((one.dtype for one in tensors.values() if one.dtype.is_floating_point), key=lambda one: one.itemsize)
    try:
        model = read_pretrained(OtterForConditionalGeneration, folder, "model", dtype=widest)
    except TrainError:
        return None  # whoever reads the weights says what is wrong with them
    dtypes = Counter(tensors[name].dtype for name in unknown)
    other: torch.dtype = dtypes.most_common(1)[0][0]
    state = neutral_state(model.model)
    return {name: one.cast(tensors[name].dtype if name in tensors else other) for name, one in state.items()}
