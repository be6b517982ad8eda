"""A key that stands twice in an object is found, wherever it stands and however it is written; nothing else is."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import RejectedError
from mimicit.sources.containers.json_rows import parsed, repeated_key

TEXT = st.text(alphabet='a":,{}[]\\ \n', max_size=6)
VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(value=VALUES, indent=st.sampled_from([None, 1]))
def test_what_python_writes_repeats_no_key(value: object, indent: int | None) -> None:
    raw = json.dumps(value, indent=indent, separators=(",", " :\n")).encode()
    assert repeated_key(raw, orjson.loads(raw)) is None


@given(value=VALUES, key=TEXT)
def test_a_repeated_key_is_named(value: object, key: str) -> None:
    inner = json.dumps(value)
    raw = f"[{inner}, {{{json.dumps(key)}: {inner}, {json.dumps(key)} : 1}}]".encode()
    assert repeated_key(raw, orjson.loads(raw)) == key


@pytest.mark.parametrize(
    "raw", [b'{"a":1,"a":1}', b'{"a":{"b":1},"c":[{"b":1,"\\u0062":2}]}', b'{"a":1,"a":"\\u003A"}']
)
def test_a_record_with_a_repeated_key_is_malformed(raw: bytes) -> None:
    with pytest.raises(RejectedError, match=r"malformed: key '[ab]' stands twice"):
        parsed(raw)
    assert parsed(b'{"a":{"b":1},"c":[{"b":1},{"b":2}]}')["a"] == {"b": 1}


def test_a_value_too_deep_to_tell_is_malformed() -> None:
    with pytest.raises(RejectedError, match="malformed"):
        parsed(b'{"a":1,"a":' + b"[" * 1020 + b"]" * 1020 + b"}")
