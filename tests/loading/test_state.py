"""The state: small, the same after a round trip, and of no use to a loader that differs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mimicit.errors import UsageError
from mimicit.loading.order import MAX_STATE_BYTES, PARTS, LoaderState, digest

PRINTS = {part: digest(part) for part in PARTS}


def state(**fields: Any) -> LoaderState:
    return LoaderState(**{"batches": 2**50, "batch_size": 2**20, "fingerprints": PRINTS, **fields})


def test_round_trip_through_json() -> None:
    changed = state(changes=[(7, [524_288, 524_288]), (2**40, [1, 1_048_575])])
    value = changed.to_json()
    assert LoaderState.from_json(json.loads(json.dumps(value))) == changed
    assert len(json.dumps(value)) <= MAX_STATE_BYTES


def test_a_state_that_grows_too_large_is_refused() -> None:
    changes = [(window, [131_072] * 8) for window in range(3)]
    assert len(json.dumps(state(changes=changes[:2]).to_json())) <= MAX_STATE_BYTES
    with pytest.raises(UsageError, match=r"60 changes of weights make a state of .* bytes, more than 512"):
        state(changes=changes * 20).to_json()


@pytest.mark.parametrize("part", PARTS)
def test_what_differs_is_named(part: str) -> None:
    with pytest.raises(UsageError, match=f"another {part} ") as caught:
        state().check({**PRINTS, part: digest("else")}, 2**20)
    assert all(f"another {other} " not in str(caught.value) for other in PARTS if other != part)


def test_all_that_differs_is_named() -> None:
    state().check(PRINTS, 2**20)
    with pytest.raises(UsageError, match=r"another order .* another filter .* another batch_size \(1048576, here 64\)"):
        state().check({**PRINTS, "order": "0", "filter": "0"}, 64)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"version": 2},
        {**state().to_json(), "batches": -1},
        {**state().to_json(), "batches": "many"},
        {**state().to_json(), "weights": 3},
        {**state().to_json(), "weights": [[1]]},
    ],
)
def test_what_is_no_state_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="loader state"):
        LoaderState.from_json(value)


def test_digests_frame_their_values() -> None:
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert digest() == digest()


@pytest.mark.parametrize("part", ["batches", "batch_size"])
@pytest.mark.parametrize("value", [2**62, -1, float("inf"), float("nan"), 7.0, "7", True, None, [7]])
def test_what_is_no_count_is_refused_by_name(part: str, value: object) -> None:
    with pytest.raises(UsageError, match="not a loader state"):
        LoaderState.from_json({**state().to_json(), part: value})
    with pytest.raises(UsageError, match="not a loader state"):
        LoaderState.from_json({**state().to_json(), "weights": [[value, [1]]]})
