from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.csv_rows import csv_columns, csv_rows
from mimicit.sources.root import Root
from tests.factories.sources import put


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("csv")


def rows(folder: Path, content: bytes | str) -> list[tuple[str, Any]]:
    put(folder, "t.csv", content)
    found = csv_rows(Root(folder), "t.csv")
    return [(place, row.reason if isinstance(row, RejectedError) else row) for place, row in found]


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(cells, cells), max_size=5), st.sampled_from([",", "\t"]), st.booleans())
def test_every_row_that_csv_writes_is_read_back(
    folder: Path, written: list[tuple[str, str]], delimiter: str, has_bom: bool
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("id", "answer"), *written])
    found = rows(folder, text.getvalue().encode("utf-8-sig" if has_bom else "utf-8"))
    assert [row for _, row in found] == [{"id": id or None, "answer": answer or None} for id, answer in written]


def test_places_are_lines_and_blank_lines_are_no_rows(folder: Path) -> None:
    content = 'id,answer\n1,"two\nlines"\n\n2,b\n'
    assert rows(folder, content) == [
        ("t.csv:2", {"id": "1", "answer": "two\nlines"}),
        ("t.csv:5", {"id": "2", "answer": "b"}),
    ]


def test_a_bad_row_loses_only_that_row(folder: Path) -> None:
    content = b'id,answer\n1\n2,b,c\n3,"x"y\n4,\xff\n5,e\n'
    assert rows(folder, content) == [
        ("t.csv:2", "malformed"),
        ("t.csv:3", "malformed"),
        ("t.csv:4", "malformed"),
        ("t.csv:5", "malformed"),
        ("t.csv:6", {"id": "5", "answer": "e"}),
    ]


@pytest.mark.parametrize("rest", ["1,a\n2,b\n", "1,a\n" * 60_000])
def test_a_quote_left_open_is_a_fault_that_names_its_line(folder: Path, rest: str) -> None:
    with pytest.raises(SourceError, match=r"^t\.csv:3: .*quote"):
        rows(folder, 'id,answer\n0,z\n9,"open\n' + rest)


@pytest.mark.parametrize("header", [b"", b"\n", b"a,a\n", b"a,,b\n", b"\xff\xfe,b\n", b'"a\n'])
def test_a_file_without_a_header_is_a_fault(folder: Path, header: bytes) -> None:
    assert csv_columns(header) == []
    with pytest.raises(SourceError, match=r"^t\.csv:1: "):
        rows(folder, header)


def test_a_line_that_never_ends_is_a_fault(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"^t\.csv:2: the line is longer"):
        rows(folder, b"id,answer\n" + b"x" * 9_000_000)
