"""The order and the exact resume of our loaders in `transformers.Trainer` and the trainers of TRL.

A trainer asks a map-style data set for indices; here an index is a position of the endless order. Taken one after the
other, they make the same global batches as `mimicit.loading.torch.Loader`, for every number of processes and workers,
and a trainer that resumes skips what was trained on without reading it. `OrderCallback` checks all of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import torch.utils.data
from transformers.trainer_callback import ExportableState, TrainerCallback

from mimicit.errors import UsageError
from mimicit.loading.order import LoaderState, Ordered, digest
from mimicit.loading.torch import SampleDataset

Value = TypeVar("Value")

_OF_EACH: Final = 64  # numbers of each weight


class TrainerDataset(torch.utils.data.Dataset["Value | None"]):
    """The first ``length`` positions of ``samples`` (`Samples`, packs, a `Mixture`) as a trainer's ``train_dataset``.

    ``length`` is the number of samples of the whole run: its steps times the global batch. Without it, one epoch. The
    trainer needs ``train_sampling_strategy="sequential"`` and, to check that, an `OrderCallback`. A value is None for a
    damaged sample if damage is masked; `ChatCollator` leaves it out.
    """

    def __init__(self, samples: Ordered[Value], length: int | None = None) -> None:
        self.samples = samples
        self._length = len(samples) if length is None else length
        self._values = SampleDataset(samples)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> Value | None:
        return self._values[position]

    def __getitems__(self, positions: Sequence[int]) -> list[Value | None]:
        """All values of a batch in one go; `DataLoader` calls it by this name."""
        return self._values.__getitems__(positions)

    def to_datasets(self) -> Any:
        """The same as a `datasets.Dataset` of rows with a ``sample``, for trainers that take nothing else (TRL's).

        It holds positions, 8 bytes each, and reads a sample when it is asked for.
        """
        try:
            import datasets
        except ModuleNotFoundError:
            raise UsageError("datasets is missing: pip install 'mimicit[hub]'") from None
        positions = datasets.Dataset.from_dict({"position": range(len(self))})
        return positions.with_transform(_Rows(self))


class _Rows:
    """The transform of `TrainerDataset.to_datasets`."""

    def __init__(self, data: TrainerDataset[Any]) -> None:
        self.data = data

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
        return {"sample": self.data.__getitems__(batch["position"])}


class OrderCallback(TrainerCallback, ExportableState):  # type: ignore[misc]  # transformers has no types
    """Keeps a trainer to the order of its `TrainerDataset`, and its checkpoints to their samples.

    Checkpoints hold the state that a `Loader` of the same global batch would have there. When training begins,
    `UsageError` names what differs from that state (content, order, filter, mixture, packing, or the global batch), or
    the setting that the trainer needs to keep the order, or says that the weights are not those of the checkpoint.
    """

    def __init__(self) -> None:
        self._state: LoaderState | None = None
        self._model: torch.nn.Module | None = None

    def state(self) -> dict[str, Any]:
        """What checkpoints keep of this callback."""
        if self._state is None or self._model is None:
            return {"args": {}, "attributes": {}}
        return {"args": {}, "attributes": {"loader": self._state.to_json(), "weights": _weights(self._model)}}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, train_dataloader: Any = None, **_others: Any
    ) -> None:
        """Check the settings, and the checkpoint if training resumes from one."""
        data = _data_of(train_dataloader)
        batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        if getattr(args, "train_sampling_strategy", None) != "sequential":
            raise UsageError('samples come in their own order with train_sampling_strategy="sequential" alone')
        if state.max_steps * batch_size > len(data):
            raise UsageError(
                f"{state.max_steps} steps of {batch_size} samples are more than the {len(data)} of the data set; give "
                f"TrainerDataset length={state.max_steps * batch_size}"
            )
        if args.ignore_data_skip and state.global_step:
            raise UsageError("ignore_data_skip=True trains on the first samples again; skipping them costs nothing")
        saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes") if state.global_step else None
        if saved:
            LoaderState.from_json(saved["loader"]).check(data.samples.fingerprints, batch_size)
            if saved["weights"] != _weights(model):
                raise UsageError(
                    "the weights are not those of the checkpoint: the trainer did not find them under the names that "
                    "this model saves; make the model with from_pretrained(CHECKPOINT) before it resumes"
                )
        self._batch_size = batch_size
        self._fingerprints = data.samples.fingerprints
        self._model = model
        self._count(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_others: Any) -> None:
        """Count the step."""
        self._count(state)

    def _count(self, state: Any) -> None:
        self._state = LoaderState(
            batches=state.global_step, batch_size=self._batch_size, fingerprints=self._fingerprints
        )


def _weights(model: torch.nn.Module) -> str | None:
    """A digest of the first numbers of each trained weight; None if this process has only a part of the weights."""
    trained = [weight.detach() for weight in model.parameters() if weight.requires_grad]
    if any(not weight.numel() or hasattr(weight, "full_tensor") for weight in trained):
        return None
    parts = [weight.flatten()[:_OF_EACH].float().cpu().numpy() for weight in trained]
    return digest(*(weight.dtype for weight in trained), *parts)


def _data_of(loader: Any) -> TrainerDataset[Any]:
    data = getattr(loader, "dataset", None)
    rows = (getattr(data, "format", None) or {}).get("format_kwargs", {}).get("transform")
    found = rows.data if isinstance(rows, _Rows) else data
    if not isinstance(found, TrainerDataset):
        raise UsageError("the train_dataset of the trainer is no TrainerDataset; leave out the OrderCallback")
    return found
