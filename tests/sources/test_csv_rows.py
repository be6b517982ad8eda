from __future__ import annotations

import csv
import io
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.csv_rows import csv_columns, csv_rows, csv_starts
from mimicit.sources.containers.unpacked import as_utf8, open_text
from mimicit.sources.files.root import Root
from mimicit.sources.items import Piece, Row
from tests.factories.sources import put


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("csv")


def rows(folder: Path, content: bytes | str) -> list[tuple[str, Any]]:
    put(folder, "t.csv", content)
    found = csv_rows(Root(folder), "t.csv")
    return [(place, row.reason if isinstance(row, RejectedError) else row) for place, row, *_ in found]


def test_a_cell_of_many_short_lines_takes_little_more_than_its_text(folder: Path) -> None:
    """Each of two characters, of which the text of a cell has at most eight million."""
    put(folder, "t.csv", 'id,text\n1,"' + "\U0001f600\n" * 200_000 + '"\n')
    found = csv_rows(Root(folder), "t.csv")
    tracemalloc.start()
    try:
        (row,) = (row for _, row, *_ in found)
        assert tracemalloc.get_traced_memory()[1] < 16e6  # 1.6 MB of text in all the ways in which it is held
    finally:
        tracemalloc.stop()
    assert isinstance(row, dict) and len(row["text"]) == 400_000


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


def table(written: Iterable[Sequence[str]], delimiter: str = ",", end: str = "\r\n", quoting: int = 0) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(written)  # type: ignore[arg-type]
    return text.getvalue()


@given(
    st.lists(st.tuples(cells, cells), max_size=5),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.booleans(),
)
def test_every_row_that_csv_writes_is_read_back(
    folder: Path, written: list[tuple[str, str]], delimiter: str, end: str, encoding: str, names_delimiter: bool
) -> None:
    text = table([("id", "answer"), *written], delimiter, end, csv.QUOTE_ALL)
    content = (f"sep={delimiter}{end}{text}" if names_delimiter else text).encode(encoding)
    assert csv_columns(as_utf8(content)) == ["id", "answer"]
    assert [row for _, row in rows(folder, content)] == [
        {"id": id or None, "answer": answer or None} for id, answer in written if id or answer
    ]


def located(row: Row) -> object:
    """What is read of ``row``, with the places of its cells."""
    if row.locate is None or isinstance(row.fields, RejectedError):
        return row.place, str(row.fields)
    return row.place, row.fields, [row.locate([name]) for name, cell in row.fields.items() if cell]


@given(
    st.text(st.sampled_from('a,;"\n\r\ufeffé\ud800'), max_size=40),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.integers(1, 20),
)
def test_a_table_in_pieces_is_the_whole(folder: Path, text: str, encoding: str, size: int) -> None:
    put(folder, "t.csv", f"id,answer\r\n{text}".encode(encoding, "surrogatepass"))
    root = Root(folder)
    try:
        whole = [located(row) for row in csv_rows(root, "t.csv")]
    except SourceError:
        with open_text(root, "t.csv") as file, pytest.raises(SourceError):
            list(csv_starts(size, file, "t.csv"))
        return
    with open_text(root, "t.csv") as file:
        starts = list(csv_starts(size, file, "t.csv"))
        ends = [*(start for _, start in starts[1:]), file.seek(0, io.SEEK_END)]
    pieces = [
        Piece(paths=("t.csv",), start=start, end=end, first=first)
        for (first, start), end in zip(starts, ends, strict=True)
    ]
    assert [located(row) for piece in pieces for row in csv_rows(root, "t.csv", piece)] == whole


def test_what_a_spreadsheet_or_a_data_frame_adds_is_left_out(folder: Path) -> None:
    content = "id,answer,,\n1,a,,\n,,,\n2,b,,\n3,c,,d\n"
    assert rows(folder, content) == [
        ("t.csv:2", {"id": "1", "answer": "a"}),
        ("t.csv:4", {"id": "2", "answer": "b"}),
        ("t.csv:5", "malformed"),
    ]
    assert rows(folder, ",id,answer\n0,1,a\n1,2,\n") == [
        ("t.csv:2", {"id": "1", "answer": "a"}),
        ("t.csv:3", {"id": "2", "answer": None}),
    ]


def test_the_header_says_what_stands_between_cells(folder: Path) -> None:
    assert csv_columns(b"image;question;answer, in words\n") == ["image", "question", "answer, in words"]
    assert rows(folder, "id;answer\n1;a, b\n2;c;d\n")[0] == ("t.csv:2", {"id": "1", "answer": "a, b"})
    assert rows(folder, "id;answer\n1;a, b\n2;c;d\n")[1] == ("t.csv:3", "malformed")


def test_utf_16_that_is_cut_is_a_fault_and_half_a_pair_costs_its_row(folder: Path) -> None:
    content = "id,answer\n1,\ud800\n2,b\n".encode("utf-16", "surrogatepass")
    assert rows(folder, content) == [("t.csv:2", "malformed"), ("t.csv:3", {"id": "2", "answer": "b"})]
    with pytest.raises(SourceError, match=r"^t\.csv: not utf-16.* save it as UTF-8"):
        rows(folder, content[:-1])


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


@pytest.mark.parametrize("header", [b"", b"\n", b"a,a\n", b"a,,b\n", b"\xff\xfd,b\n", b'"a\n', b"sep=;\n", b",\n"])
def test_a_file_without_a_header_is_a_fault(folder: Path, header: bytes) -> None:
    assert csv_columns(header) == []
    with pytest.raises(SourceError, match=r"^t\.csv:1: "):
        rows(folder, header)


def test_a_line_that_never_ends_is_a_fault(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"^t\.csv:2: the line is longer"):
        rows(folder, b"id,answer\n" + b"x" * 9_000_000)


@pytest.mark.parametrize("size", [131_073, 1_000_000, 8_000_000])
def test_a_long_cell_is_a_cell_as_in_every_format(folder: Path, size: int) -> None:
    long = "x" * size
    quoted = f'"{long[:-2]}\n,"'
    content = f"id,text\na,{long}\nb,{quoted}\nc,short\n"
    assert [row["text"] for _, row in rows(folder, content)] == [long, quoted[1:-1], "short"]
