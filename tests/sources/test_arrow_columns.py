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
