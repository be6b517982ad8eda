"""What becomes of a table whose reader ends its process, runs out of memory, or fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.arrow import arrow_damage
from mimicit.sources.containers.table_process import rows_apart, value_apart
from mimicit.sources.files.root import Root


def aborts(file: BinaryIO, path: str) -> int:
    os.write(2, b"terminate called after throwing an instance of 'parquet::ParquetException'\n")
    os.abort()


def aborts_at_the_second_row(
    file: BinaryIO, path: str, at_once: int, start: tuple[int, int]
) -> Iterator[tuple[int, int, str]]:
    for row in range(start[1], 2 if start[0] == 0 else 1):
        if (start[0], row) == (0, 1):
            aborts(file, path)
        yield start[0], row, f"{start[0]}.{row}"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    return Root(tmp_path)


def test_a_library_that_ends_its_process_says_so_in_our_words_alone(
    root: Root, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SourceError, match=r"^rows.parquet: reading ended its process \(exit code -6\)$"):
        value_apart(root, "rows.parquet", aborts)
    assert capfd.readouterr() == ("", "")


def test_rows_before_and_row_groups_behind_such_an_end_are_read(root: Root, capfd: pytest.CaptureFixture[str]) -> None:
    rows = list(rows_apart(root, "rows.parquet", aborts_at_the_second_row))
    (fault,) = (value for _, _, value in rows if isinstance(value, RejectedError))
    assert fault.reason == "too_much_memory" and "exit code -6" in str(fault)
    assert [value for _, _, value in rows if value is not fault] == ["0.0", "1.0"]
    assert capfd.readouterr() == ("", "")


def arrow_that_finds_no_room(
    file: BinaryIO, path: str, words: str, at_once: int, start: tuple[int, int]
) -> Iterator[tuple[int, int, str]]:
    with arrow_damage(path):
        if at_once > 1:
            raise OSError(words)
        yield 0, 0, "read"


@pytest.mark.parametrize(
    "words",
    [
        "Couldn't deserialize thrift: std::bad_alloc",
        "Unknown error: Failed to launch worker thread: Resource temporarily unavailable",
    ],
)
def test_want_of_memory_in_the_words_of_a_library_is_no_damage(root: Root, words: str) -> None:
    assert list(rows_apart(root, "rows.parquet", arrow_that_finds_no_room, words)) == [(0, 0, "read")]


_kept: list[bytes] = []


def keeps_memory(file: BinaryIO, path: str, size: int) -> tuple[int, int]:
    _kept.append(bytes(size))
    return os.getpid(), sum(map(len, _kept))


def test_what_a_table_left_behind_is_not_taken_from_the_next(root: Root) -> None:
    first, _ = value_apart(root, "rows.parquet", keeps_memory, 1 << 20)
    assert value_apart(root, "rows.parquet", keeps_memory, 200 << 20) == (first, 201 << 20)
    second, kept = value_apart(root, "rows.parquet", keeps_memory, 200 << 20)
    assert second != first and kept == 200 << 20
