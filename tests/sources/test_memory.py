"""Reading the pictures of a table takes memory for its pages, not for the table: measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimicit.sources.containers.parquet import ParquetCells
from mimicit.sources.files.reading import kept_reader
from mimicit.sources.files.root import Root
from mimicit.sources.items import InParquet

MEGABYTE = 10**6
GROUPS, ROWS = 8, 40  # of 0.6 MB: 192 MB
LIMIT = 128 * MEGABYTE

READ_ALL = """
import sys
from pathlib import Path
from mimicit.sources.items import InArrow, InParquet
from mimicit.sources.files.reading import Reader
from mimicit.sources.files.root import Root
import pyarrow, pyarrow.parquet

folder, name, groups, rows = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
place = InParquet if name.endswith("parquet") else InArrow

def peak_kib():
    # Not ru_maxrss, which begins with the peak of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

before = peak_kib()
total = 0
with Reader(Root(folder)) as reader:
    for row in range(rows):  # all row groups over and over, as the references of one task may come
        for group in range(groups) if row % 8 == 0 else [row % groups]:
            total += len(reader.read(place(name, group, row, "data")))
    for group in range(groups):
        for row in range(rows):
            total += len(reader.read(place(name, group, row, "data")))
print((peak_kib() - before) * 1024, total)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tables")
    noise = np.random.default_rng(0)
    schema = pa.schema([("data", pa.binary())])
    with pq.ParquetWriter(place / "t.parquet", schema) as parquet, pa.ipc.new_file(place / "t.arrow", schema) as arrow:
        for _ in range(GROUPS):
            table = pa.table({"data": [noise.bytes(600_000) for _ in range(ROWS)]}, schema=schema)
            parquet.write_table(table)
            arrow.write_table(table)
    return place


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_memory_is_bounded_by_a_row_group(folder: Path, name: str) -> None:
    command = [sys.executable, "-c", READ_ALL, str(folder), name, str(GROUPS), str(ROWS)]
    grown, total = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    assert total > GROUPS * ROWS * 600_000
    assert grown < LIMIT, f"{grown / MEGABYTE:.0f} MB for a file of {GROUPS * ROWS * 0.6:.0f} MB"


def test_many_small_columns_stay_open_and_few_large_ones(folder: Path, tmp_path: Path) -> None:
    cells = ParquetCells(Root(folder))
    for group in range(GROUPS):
        cells.read(InParquet("t.parquet", group, 0, "data"))
        assert len(cells._columns) <= 2  # of 24 MB each
    cells.close()
    pq.write_table(pa.table({"data": [b"x"] * 100}), tmp_path / "t.parquet", row_group_size=10)
    cells = ParquetCells(Root(tmp_path))
    for group in range(10):
        cells.read(InParquet("t.parquet", group, 0, "data"))
    assert len(cells._columns) == 10
    cells.close()


def test_a_reader_goes_on_where_the_last_task_left_it_unless_the_file_has_changed(tmp_path: Path) -> None:
    def write(text: bytes) -> None:
        pq.write_table(pa.table({"data": [text] * 100}), tmp_path / "new")
        (tmp_path / "new").rename(tmp_path / "t.parquet")

    def read(row: int) -> bytes:
        with kept_reader(Root(tmp_path), tmp_path) as reader:
            seen.append(reader)
            return reader.read(InParquet("t.parquet", 0, row, "data"))

    seen: list[object] = []
    write(b"old")
    assert [read(row) for row in (0, 50, 99, 3)] == [b"old"] * 4
    write(b"new")
    assert read(4) == b"new"
    assert all(reader is seen[0] for reader in seen)
    (tmp_path / "t.parquet").unlink()
    with pytest.raises(Exception, match="missing_file"):
        read(5)
    with kept_reader(Root(tmp_path), tmp_path / "elsewhere") as reader:
        assert reader is not seen[0]
