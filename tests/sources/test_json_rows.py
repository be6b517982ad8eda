from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import RejectedError, SourceError
from mimicit.schema import null_for_nan
from mimicit.sources.containers import json_rows as module
from mimicit.sources.containers.json_cursor import JsonCursor
from mimicit.sources.containers.json_rows import json_rows
from mimicit.sources.files.root import Root
from tests.factories.sources import json_values, put, put_lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


def rows(folder: Path, content: bytes | str | Any) -> list[tuple[str, Any]]:
    """(place, fields or reason) of every record of a file with ``content``."""
    put(folder, "r.json", content)
    found = json_rows(Root(folder), "r.json")
    return [(place, row.reason if isinstance(row, RejectedError) else null_for_nan(row)) for place, row, *_ in found]


@given(st.lists(json_values, max_size=6), st.sampled_from([None, 2]))
def test_an_array_gives_one_row_per_element(folder: Path, values: list[Any], indent: int | None) -> None:
    assert rows(folder, json.dumps(values, indent=indent)) == [
        (f"r.json[{index}]", value if isinstance(value, dict) else "malformed") for index, value in enumerate(values)
    ]


@given(st.lists(st.dictionaries(st.text(max_size=4), json_values, max_size=3), min_size=1, max_size=6))
def test_lines_give_one_row_per_line(folder: Path, values: list[Any]) -> None:
    put_lines(folder, "r.json", values)
    found = [row[:2] for row in json_rows(Root(folder), "r.json")]
    assert found == [(f"r.json:{number}", value) for number, value in enumerate(values, 1)]


def test_a_bad_line_loses_only_that_line(folder: Path) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": \n{"a": NaN}\n{"a": "\xff"}\n[2]\n{"a": "\\ud800"}\n  {"a": 3}\n'
    content += b'{"a": -1e999}'
    assert rows(folder, content) == [
        ("r.json:1", {"a": 1}),
        ("r.json:3", "malformed"),
        ("r.json:4", {"a": None}),
        ("r.json:5", "malformed"),
        ("r.json:6", "malformed"),
        ("r.json:7", "malformed"),
        ("r.json:8", {"a": 3}),
        ("r.json:9", {"a": None}),
    ]


def test_a_bad_element_loses_only_that_element(folder: Path) -> None:
    content = '[{"a": 1}, {"a": 01}, {"a": "\\ud800"}, "x", ' + '{"a":' * 2000 + "1" + "}" * 2000 + ', {"a": 2}]'
    assert [row for _, row in rows(folder, content)] == [{"a": 1}, *["malformed"] * 4, {"a": 2}]


@pytest.mark.parametrize(
    "content", ['[{"a": 1}, {"a": 2}', '[{"a": 1} {"a": 2}]', '[{"a": 1}] {"a": 2}', '[{"a": 1}, {"a": "2]']
)
def test_an_array_that_breaks_is_a_fault_that_names_the_byte(folder: Path, content: str) -> None:
    with pytest.raises(SourceError, match=r"^r\.json: not valid JSON at byte \d+: "):
        rows(folder, content)


@pytest.mark.parametrize("is_array", [True, False])
def test_a_record_over_the_limit_is_too_long_and_the_next_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_array: bool
) -> None:
    monkeypatch.setattr(module, "MAX_RECORD_BYTES", 50)
    values = [{"a": "x" * length} for length in (41, 42, 43, 1000, 1)]  # a record of 51 bytes is one too many
    content = json.dumps(values) if is_array else "".join(json.dumps(value) + "\n" for value in values)
    kept = [row if isinstance(row, str) else len(row["a"]) for _, row in rows(folder, content)]
    assert kept == [41, "too_long", "too_long", "too_long", 1]


ODD_ELEMENTS = (
    *(b'{"id": 1, "id": 2}', b'{"id": {"a": 1, "\\u0061": 2}}', b'{"id": NaN}', b'{"id": 1e999}', b'{"id": "\\ud800"}'),
    *(b'{"id": "\\"\\u003a 1", "b": 2}', b'{"id": "NaN", "n": 123456789012345678901234567890}', b'{"id": 01}', b"[]"),
    *(
        b'{"id": [{"id": 1}, {"id": 2}]}',
        b'{"id": "},{\\"id\\""}',
        b'{"other": 1}',
        b"5",
        b'"x"',
        b"null",
        b'{"id": "\xff"}',
    ),
    *(
        b'{"id": ' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"id": "' + b"x" * 200_000 + b'"}',
        b"{}",
        b"[{}",
        b"}",
        b"",
        b"{},",
    ),
)


@pytest.mark.parametrize(("places", "between"), [((0,), b","), ((1, 2, 500), b" ,\n "), ((1000,), b", ")])
@pytest.mark.parametrize("odd", ODD_ELEMENTS)
def test_elements_are_the_same_in_runs_and_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[int, ...], between: bytes, odd: bytes
) -> None:
    text = rb"a, {\"id\": 0}" * 10
    elements = [b'{"id": %d, "text": "%b", "image": "x"}' % (number, text) for number in range(1000)]
    for place in places:
        elements.insert(place, odd)
    put(tmp_path, "r.json", b"[" + between.join(elements) + b"]")

    def read() -> Iterator[object]:
        try:
            for number, (place, fields, locate, *_) in enumerate(json_rows(Root(tmp_path), "r.json")):
                has_text = locate and isinstance(fields, dict) and "image" in fields and number % 20 == 0
                yield place, repr(fields), has_text and locate and locate(["image"])
        except SourceError as error:
            yield str(error)

    in_runs = list(read())
    monkeypatch.setattr(JsonCursor, "run", lambda self, most: b"")
    assert in_runs == list(read())
