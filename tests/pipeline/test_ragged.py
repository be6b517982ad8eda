"""Lists as flat arrays give what the lists themselves would."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from mimicit.pipeline.ragged import before, flat, list_array, owners, starts, sums

LISTS = st.lists(st.lists(st.integers(-5, 99), max_size=4), max_size=6)


@given(LISTS)
def test_what_is_known_of_each_list(lists: list[list[int]]) -> None:
    counts = np.array([len(values) for values in lists], np.int64)
    values = np.array([value for values in lists for value in values], np.int64)
    assert starts(counts).tolist() == [sum(map(len, lists[:place])) for place in range(len(lists))]
    assert owners(counts).tolist() == [place for place, values in enumerate(lists) for _ in values]
    assert sums(values, counts).tolist() == [sum(values) for values in lists]
    assert before(values, counts).tolist() == [
        so_far for values in lists for so_far in list(accumulate(values, initial=0))[:-1]
    ]
    assert list_array(pa.array(values), counts).to_pylist() == lists


@given(LISTS, st.lists(st.integers(0, 5), max_size=8), st.integers(0, 3))
def test_lists_are_gathered_in_any_order(lists: list[list[int]], rows: list[int], first: int) -> None:
    array = pa.array(lists, pa.list_(pa.int64())).slice(first)
    rows = [row for row in rows if row < len(array)]
    values, counts = flat(array, np.array(rows, np.int64))
    gathered = [lists[first:][row] for row in rows]
    assert values.tolist() == [value for values in gathered for value in values]
    assert counts.tolist() == [len(values) for values in gathered]
