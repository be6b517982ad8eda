"""Tables of samples, built again: the same samples; and what a damaged or foreign row costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from mimicit.records import Sample
from mimicit.sample_table import embedded_pictures, row_of_sample, table_schema
from mimicit.sources import detect
from mimicit.sources.files.root import Root
from tests.factories.exporting import built_again, corpora, meaning, picture
from tests.factories.shards import picture_sample
from tests.factories.sources import jpeg

# A build's worker leaves it to its end to close the files it has read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def rows_of(samples: list[Sample]) -> list[dict[str, Any]]:
    return [row_of_sample(sample, embedded_pictures(sample)) for sample in samples]


def put(rows: list[dict[str, Any]], folder: Path, kind: str = "parquet") -> Path:
    """``rows`` in two parts of a split."""
    folder.mkdir(parents=True)
    for part in range(2):
        table = pa.Table.from_pylist(rows[part::2], schema=table_schema())
        path = folder / f"train-0000{part}-of-00002.{kind}"
        if kind == "parquet":
            pq.write_table(table, path, row_group_size=2)
        else:
            with pa.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=2)
    return folder


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@given(samples=corpora())
@settings(max_examples=3, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_table_comes_back_exactly(kind: str, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("table")  # kept: what the build holds open of it must not change
    folder = put(rows_of(samples), place / "table", kind)
    found, manifest = built_again(folder, place / "again", context="related")
    by_id = {(sample.source, sample.id): meaning(sample) for sample in found}
    assert by_id == {(sample.source, sample.id): meaning(sample) for sample in samples}
    assert manifest["totals"]["rejects"] == 0
    assert {source["format"] for source in manifest["sources"]} == {"samples"}


def shown(number: int) -> Sample:
    return replace(picture_sample(number, [b""]), media=(picture(number),))


def test_a_row_that_is_no_sample_costs_itself(tmp_path: Path) -> None:
    rows = rows_of([shown(number) for number in range(6)])
    rows[1]["meta"] = "{"
    rows[2]["media_info"][0]["sha256"] = rows[2]["media_info"][0]["sha256"] * 2
    rows[3]["triplets"][0]["media"] = []
    rows[4]["source"] = None
    folder = put(rows, tmp_path / "table")
    found, manifest = built_again(folder, tmp_path / "again", context="related")
    assert sorted(sample.id for sample in found) == ["t0-0", "t5-0"]
    (source,) = manifest["sources"]
    assert source["rejected"] == {"schema": 4}


def test_the_card_and_the_sheet_above_the_tables_belong_to_them(tmp_path: Path) -> None:
    put(rows_of([shown(0), shown(1)]), tmp_path / "data")
    (tmp_path / "README.md").write_text("A card.")
    (tmp_path / "contact-sheet.jpg").write_bytes(jpeg())
    detection = detect(Root(tmp_path))
    assert (detection.unused, detection.loose_media) == ((), 0)


def test_other_tables_are_not_taken_for_samples(tmp_path: Path) -> None:
    folder = put(rows_of([shown(0), shown(1)]), tmp_path / "table")
    table = pq.read_table(folder / "train-00000-of-00002.parquet")
    other = tmp_path / "other"
    other.mkdir()
    pq.write_table(table.drop_columns(["media_info"]), other / "part.parquet")
    pq.write_table(table.set_column(3, "triplets", pa.array(["x"])), other / "texts.parquet")
    assert {spec.format for spec in detect(Root(folder)).sources} == {"samples"}
    assert "samples" not in {spec.format for spec in detect(Root(other)).sources}
