"""What becomes of a table whose reader ends its process, runs out of memory, or fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from mimicit.errors import RejectedError, SourceError
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
