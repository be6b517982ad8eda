"""Arrow files without any column that a record can use."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from mimicit.errors import SourceError
from mimicit.pipeline import BuildConfig, build_shards
from tests.factories.engines import InProcess


def test_rows_of_bytes_alone_are_counted(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    table = pa.table({"x": [b"z", b"z"]})
    with pa.OSFile(str(tmp_path / "raw/d.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    with pytest.raises(SourceError, match="2 records were rejected"):
        build_shards(tmp_path / "raw", tmp_path / "out", BuildConfig(context="none"), engine=InProcess())


def test_fields_of_one_name_are_a_reject(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    image = pa.StructArray.from_arrays([pa.array([b"z"]), *[pa.array(["a"])] * 2], names=["bytes", "path", "path"])
    table = pa.table({"image": image, "question": ["Q?"], "answer": ["A"]})
    with pa.OSFile(str(tmp_path / "raw/d.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(SourceError, match=r"1 as bad_media.*duplicate field names"):
        build_shards(tmp_path / "raw", tmp_path / "out", BuildConfig(context="none"), engine=InProcess())
