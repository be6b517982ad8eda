from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers import parquet as module
from mimicit.sources.containers.parquet import ParquetCells, parquet_columns, parquet_rows
from mimicit.sources.files.root import Root
from mimicit.sources.items import InParquet

ROWS = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``t.parquet`` with row groups of 40, 40 and 20 rows, and a damaged copy of it."""
    place = tmp_path_factory.mktemp("parquet")
    table = pa.table({"id": [f"id{row}" for row in range(ROWS)], "data": [b"%d" % row for row in range(ROWS)]})
    pq.write_table(table, place / "t.parquet", row_group_size=40, compression="none")
    data = (place / "t.parquet").read_bytes()
    (place / "cut.parquet").write_bytes(data[: len(data) // 2])
    (place / "holed.parquet").write_bytes(data[:4] + b"\xff" * 400 + data[404:])
    return place


def cell(row: int, column: str = "data") -> InParquet:
    return InParquet("t.parquet", row // 40, row % 40, column)


def test_columns_and_rows(folder: Path) -> None:
    root = Root(folder)
    assert parquet_columns(root, "t.parquet") == {"id": "string", "data": "binary"}
    found = list(parquet_rows(root, "t.parquet", ["id"]))
    assert found == [(row, row // 40, row % 40, {"id": f"id{row}"}) for row in range(ROWS)]


@pytest.mark.parametrize("order", ["forwards", "backwards", "shuffled"])
def test_cells_are_right_in_every_order(folder: Path, order: str) -> None:
    rows = list(range(ROWS))
    if order == "backwards":
        rows.reverse()
    elif order == "shuffled":
        random.Random(1).shuffle(rows)
    cells = ParquetCells(Root(folder))
    for row in rows:
        assert cells.read(cell(row)) == b"%d" % row
        assert cells.read(cell(row, "id")) == f"id{row}"
    cells.close()


def test_rows_in_order_cost_one_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = module._opened
    monkeypatch.setattr(module, "_opened", lambda *place: opened.append(place) or original(*place))
    cells = ParquetCells(Root(folder))
    for row in range(ROWS):
        cells.read(cell(row))
        cells.read(cell(row, "id"))
    cells.close()
    assert len(opened) == 6  # three row groups of two columns


@pytest.mark.parametrize(
    "place",
    [
        InParquet("t.parquet", 9, 0, "data"),
        InParquet("t.parquet", 2, 20, "data"),
        InParquet("t.parquet", 0, 0, "none"),
        InParquet("cut.parquet", 0, 0, "data"),
        InParquet("holed.parquet", 0, 0, "id"),
        InParquet("none.parquet", 0, 0, "id"),
    ],
)
def test_a_cell_that_is_not_there_is_a_reject_and_the_next_is_read(folder: Path, place: InParquet) -> None:
    cells = ParquetCells(Root(folder))
    assert cells.read(cell(0)) == b"0"
    for _ in range(2):
        with pytest.raises(RejectedError, match="missing_file" if place.path == "none.parquet" else "bad_media"):
            cells.read(place)
    assert cells.read(cell(1)) == b"1"
    cells.close()


def test_a_damaged_file_is_a_fault_that_names_it(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"^cut\.parquet: damaged"):
        parquet_columns(Root(folder), "cut.parquet")
    with pytest.raises(SourceError, match=r"^holed\.parquet: damaged"):
        list(parquet_rows(Root(folder), "holed.parquet", ["id"]))
