"""Groups: a step is shared out without loss, and is the same one whatever prepares it."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import TrainError
from mimicit.loading.order import PADDING, Slots
from otter_train.data.batches import Batch
from otter_train.data.encoding import PromptEncoder
from otter_train.data.micro_batches import Group, GroupCollator, evaluation_loader, training_loader
from otter_train.distributed import World
from tests.factories.train import TOKENIZER, Colours, sample, triplet

COLLATOR = GroupCollator(encoder=PromptEncoder(TOKENIZER), image_size=16)


def ids(group: Group) -> list[tuple[str, ...]]:
    return [() if batch is None else batch.ids for batch in group]


@given(st.lists(st.integers(PADDING, 30), min_size=1, max_size=9), st.integers(1, 5), st.none() | st.integers(0, 30))
def test_micro_batches_share_what_counts_of_a_step(positions: list[int], accumulate: int, end: int | None) -> None:
    values = [None if position in (PADDING, 7) else sample(triplet(), id=f"p{position}") for position in positions]
    collator = GroupCollator(encoder=PromptEncoder(TOKENIZER), image_size=16, accumulate=accumulate, end=end)
    parts = ids(collator(Slots(0, tuple(positions), tuple(values))))
    counted = [p for p in positions if p not in (PADDING, 7) and (end is None or p < end)]
    assert [name for part in parts for name in part] == [f"p{position}" for position in counted]
    assert len(parts) == accumulate and max(map(len, parts)) - min(map(len, parts)) <= 1


def as_lists(group: Group) -> list[object]:
    made = [batch for batch in group if isinstance(batch, Batch)]
    return [[one.ids, one.lang_x.tolist(), one.labels.tolist(), one.vision_x.sum().item()] for one in made]


def test_workers_change_nothing() -> None:
    def groups(workers: int) -> list[list[object]]:
        loader = training_loader(Colours(), COLLATOR, batch_size=4, steps=5, world=World(), workers=workers)
        return [as_lists(group) for group in loader]

    alone = groups(0)
    assert len(alone) == 5 and groups(2) == alone


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_the_same_one_line(workers: int) -> None:
    loader = training_loader(Colours(broken=5), COLLATOR, batch_size=1, steps=12, world=World(), workers=workers)
    with pytest.raises(TrainError, match="sample-5") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("limit", "size"), [(7, 2), (99, 5), (1, 3)])
def test_an_evaluation_sees_each_sample_once_in_equally_many_steps(limit: int, size: int) -> None:
    ranks = [
        list(evaluation_loader(Colours(), COLLATOR, limit=limit, batch_size=size, world=World(rank, 3)))
        for rank in range(3)
    ]
    assert len({len(groups) for groups in ranks}) == 1
    seen = sorted(name for groups in ranks for group in groups for part in ids(group) for name in part)
    assert seen == sorted(Colours().get(position).id for position in range(min(limit, 12)))
