"""TOML of others takes bounded time."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import UsageError
from mimicit.options import parse_toml
from mimicit.pipeline.mixture import read_mixture

HOSTILE = {
    "a dotted key": ".".join("a" * 100_000) + " = 1",
    "a dotted key of literals": ".".join(['"a"'] * 100_000) + " = 1",
    "a dotted table": "[" + ".".join("a" * 100_000) + "]",
    "a dotted key with spaces": " . ".join("a" * 100_000) + " = 1",
    "a dotted key inside a table": "x = {" + ".".join("a" * 100_000) + " = 1}",
    "a thousand dotted keys": "\n".join(f"[a{n}]\n" + ".".join("b" * 400) + " = 1" for n in range(1000)),
    "brackets": "a = " + "[" * 100_000,
    "braces": "a = " + "{a=" * 100_000,
    "megabytes": "a = 1\n" * 1_000_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_toml_is_refused_in_bounded_time(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mimicit.toml"
    path.write_text(HOSTILE[kind])
    started = time.process_time()
    with pytest.raises(UsageError, match=r"mimicit\.toml"):
        read_mixture(path)
    assert time.process_time() - started < 10


def test_a_fifo_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mimicit.toml")
    with pytest.raises(UsageError, match="FIFO"):
        read_mixture(tmp_path / "mimicit.toml")


def test_dots_in_texts_and_numbers_are_no_steps() -> None:
    text = "a = [" + ", ".join(["0.5"] * 100) + ']\nb = "' + "." * 1000 + "\"\nc = '" + "." * 1000 + "'\nd.e.f = 1\n"
    assert parse_toml(text) == {"a": [0.5] * 100, "b": "." * 1000, "c": "." * 1000, "d": {"e": {"f": 1}}}


@given(st.text(max_size=200))
def test_nothing_but_value_errors(text: str) -> None:
    with suppress(ValueError):
        parse_toml(text)
