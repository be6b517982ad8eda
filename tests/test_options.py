"""Options are declared once: from the fields of a dataclass come flags, checks, keys of a file, and a schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import jsonschema_rs
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import UsageError
from mimicit.options import about, check, click_options, configured, json_schema, option, options_of, same_option


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    side: int = option(336, "Longest side.", least=1)
    ratio: float = option(1.0, "Ratio.", above=0, most=4, flag=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paint:
    color: Literal["red", "green"] = option("red", "Color.")
    thick: bool = option(False, "Thick.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    name: str | None = option(None, "Name.", unset="that of the folder")
    room: int = option(2 << 20, "Room in MiB.", least=1024, key="room_mib", unit=1 << 20)
    size: Size = field(default_factory=Size)
    paint: Paint = field(default_factory=Paint, metadata=about("Paint."))
    resume: bool = option(True, "Resume.")
    out: Path | None = option(None, "Folder.")
    roots: tuple[str, ...] = option((), "Roots.", flag="--root")
    names: Mapping[str, str] = field(default_factory=dict, metadata=about("Names.", flag=False))
    internal: int = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    path: str = field(metadata=about("Path.", flag=False))
    name: str | None = same_option(Settings, "name")
    paint: Paint | None = same_option(Settings, "paint")
    share: float = option(1.0, "Share.", above=0, most=1, flag=False)

    def __post_init__(self) -> None:
        check(self, f"entry {self.path!r}")


def parsed(*arguments: str, defaults: bool = True) -> dict[str, Any]:
    @click.command()
    @click_options(Settings, defaults=defaults)
    def command(**given: Any) -> None:
        found.update(given)

    found: dict[str, Any] = {}
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found


def test_the_command_line_gives_values_by_their_keys_in_a_file() -> None:
    assert parsed() == {
        "name": None, "room_mib": 2, "side": 336, "color": "red", "thick": False, "resume": True, "out": None,
        "roots": (),
    }  # fmt: skip
    given = parsed("--room-mib", "3", "--no-resume", "--root", "a", "--root", "b", "--color", "green", defaults=False)
    assert {name: value for name, value in given.items() if value is not None} == {
        "room_mib": 3, "color": "green", "thick": False, "resume": False, "roots": ("a", "b"),
    }  # fmt: skip


def test_what_a_file_says_becomes_the_dataclass_and_what_stands_outside_a_table_wins() -> None:
    assert configured(Settings, {}) == Settings()
    made = configured(Settings, {"room_mib": 3, "side": 5, "ratio": 2, "roots": ["a"], "paint": {"thick": True}})
    assert made == Settings(room=3 << 20, size=Size(side=5, ratio=2.0), roots=("a",), paint=Paint(thick=True))
    assert type(made.size.ratio) is float
    assert configured(Settings, {"paint": {"color": "red"}, "color": "green"}).paint.color == "green"
    assert configured(Entry, {"path": "a"}) == Entry(path="a", paint=None)
    assert configured(Entry, {"path": "a", "paint": {"thick": True}}).paint == Paint(thick=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Settings(size=Size(side=0)), "--side 0: must be at least 1"),
        (Settings(size=Size(ratio=5.0)), "ratio 5.0: must be more than 0 and at most 4"),
        (Settings(size=Size(ratio=float("nan"))), "ratio nan: must be .* and finite"),
        (Settings(room=0), "--room-mib 0: must be at least 1"),
        (Settings(size=Size(side=10**400)), "--side: a number of at most 64 bits"),
        (Settings(room=2**63), "--room-mib: a number of at most 64 bits"),
        (Settings(paint=Paint(color="grene")), "--color grene: no such choice; did you mean green"),  # type: ignore[arg-type]
    ],
)
def test_a_value_out_of_range_is_named_with_its_limit(config: Settings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(config)


def test_a_value_of_an_entry_is_named_with_the_entry() -> None:
    with pytest.raises(UsageError, match="entry 'a': share 0: must be more than 0 and at most 1"):
        Entry(path="a", share=0)
    with pytest.raises(UsageError, match="entry 'a': color blue: no such choice"):
        Entry(path="a", paint=Paint(color="blue"))  # type: ignore[arg-type]


def test_the_schema_knows_the_same_keys_and_limits() -> None:
    schema = json_schema(Settings)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {
        "name", "room_mib", "side", "ratio", "paint", "resume", "out", "roots", "names",
    }  # fmt: skip
    assert schema["properties"]["room_mib"] == {"type": "integer", "minimum": 1, "description": "Room in MiB."}
    assert schema["properties"]["paint"]["properties"]["color"] == {"enum": ["red", "green"], "description": "Color."}
    assert json_schema(Entry)["required"] == ["path"]
    assert [table + one.key for table, one in options_of(Entry)] == [
        "path", "name", "paint.color", "paint.thick", "share",
    ]  # fmt: skip


@given(st.integers(-3, 3) | st.floats(-6, 6))
def test_the_schema_and_the_check_agree_about_every_number(value: float) -> None:
    try:
        check(Size(ratio=value))
        fine = True
    except UsageError:
        fine = False
    assert jsonschema_rs.is_valid(json_schema(Size), {"ratio": value}) == fine
