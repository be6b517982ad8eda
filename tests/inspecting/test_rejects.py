"""Rejects in groups: every row is counted once, the first of each group are shown, hostile text stays text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mimicit.cli import main
from mimicit.errors import CorruptShardError, ShardError
from mimicit.inspecting import rejects as module
from mimicit.inspecting.rejects import REJECTS_NAME, group_rejects, page_of_rejects, rejects_text
from mimicit.pipeline.stages import publish

MANIFEST = {
    "format": "mimicit/1",
    "layout": "inline",
    "mimicit_version": "0",
    "config": {},
    "input": {"fingerprint": "0" * 64, "files": 0, "bytes": 0},
    "libraries": {},
    "shards": [],
    "files": {},
    "sources": [],
    "totals": {
        **dict.fromkeys(("samples", "triplets", "media", "frames", "characters", "bytes", "rejects"), 0),
        "relations": {},
    },
}
ROWS = [
    ("record", "import", "missing_file", "own", "own/manifest.jsonl:3", "cat-1", "'a.jpg' is not there"),
    ("record", "import", "missing_file", "own", "own/manifest.jsonl:9", "cat-9", "'b.jpg' is not there"),
    ("reference", "import", "dangling_reference", "la", "LA/LA_instructions.json#LA_1", "LA_1", "LA_7 is nowhere"),
    ("record", "import", "dangling_reference", "la", "LA/LA_instructions.json#LA_2", "LA_2", "no picture"),
    ("source", "scan", "unusable_file", "", "link.jpg", "", "symbolic links are not followed"),
]


def put_rejects(folder: Path, rows: list[tuple[str, ...]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(orjson.dumps(MANIFEST))
    columns = [[row[place] for row in rows] for place in range(len(publish.REJECTS_SCHEMA))]
    pq.write_table(pa.table(columns, schema=publish.REJECTS_SCHEMA), folder / REJECTS_NAME)
    return folder


def test_the_name_is_the_one_that_the_build_writes() -> None:
    assert publish.REJECTS_NAME == REJECTS_NAME


def test_groups_tell_reason_source_and_kind_apart(tmp_path: Path) -> None:
    found = group_rejects(put_rejects(tmp_path, ROWS), limit=1)
    assert [(g.reason, g.source, g.scope, g.count) for g in found.groups] == [
        ("missing_file", "own", "record", 2),
        ("dangling_reference", "la", "reference", 1),
        ("dangling_reference", "la", "record", 1),
        ("unusable_file", "", "source", 1),
    ]
    assert found.groups[0].first == [
        {"locator": "own/manifest.jsonl:3", "id": "cat-1", "detail": "'a.jpg' is not there"}
    ]
    text = rejects_text(found)
    assert (
        "2 record(s): missing_file, own\n  own/manifest.jsonl:3 cat-1: 'a.jpg' is not there\n  ... and 1 more" in text
    )


@pytest.mark.parametrize(
    ("locator", "file"),
    [
        ("own/manifest.jsonl:3", "own/manifest.jsonl"),
        ("a.json[12]", "a.json"),
        ("LA/LA.json#x.y:1[2]", "LA/LA.json"),
        ("photos/p.jpg", "photos/p.jpg"),
        ("no extension:3", "no extension:3"),
    ],
)
def test_file_of_a_place(tmp_path: Path, locator: str, file: str) -> None:
    folder = put_rejects(tmp_path, [("record", "import", "malformed", "s", locator, "", "?")])
    (group,) = group_rejects(folder, by="file").groups
    assert group.by == file


def test_pages_together_are_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_ROWS", 2)
    folder = put_rejects(tmp_path, ROWS * 3)
    for choice in ({}, {"source": "la"}, {"reason": "missing_file"}, {"source": "own", "reason": "missing_file"}):
        wanted = [row[4] for row in ROWS * 3 if _meets(row, **choice)]
        for most in (1, 3, 100):
            pages = [page_of_rejects(folder, start=start, most=most, **choice) for start in range(0, 16, most)]
            assert [row["locator"] for page in pages for row in page.rows] == wanted
            assert {page.total for page in pages} == {len(wanted)}
            assert all(len(page.rows) <= most for page in pages)


def _meets(row: tuple[str, ...], source: str = "", reason: str = "") -> bool:
    return source in ("", row[3]) and reason in ("", row[2])


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["record", "media"]),
            st.just("import"),
            st.sampled_from(["malformed", "schema"]),
            st.sampled_from(["a", "b"]),
            st.sampled_from(["x.json:1", "x.json:2", "y.json#1"]),
            st.text("ab\x1b", max_size=2),
            st.text("cd\x07", max_size=2),
        ),
        max_size=30,
    ),
    by=st.sampled_from(["reason", "source", "file"]),
    source=st.none() | st.sampled_from(["a", "b", "c"]),
    limit=st.integers(0, 4),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_counted_once(
    tmp_path: Path, rows: list[tuple[str, ...]], by: Any, source: str | None, limit: int
) -> None:
    found = group_rejects(put_rejects(tmp_path, rows), by=by, source=source, limit=limit)
    wanted = [row for row in rows if source in (None, row[3])]
    assert found.total == len(wanted) == sum(group.count for group in found.groups)
    counts = Counter({(g.reason, g.source, g.scope): 0 for g in found.groups})
    for group in found.groups:
        counts[group.reason, group.source, group.scope] += group.count
        assert len(group.first) == min(limit, group.count)
    assert counts == Counter((row[2], row[3], row[0]) for row in wanted)
    assert not set("\x1b\x07") & set(rejects_text(found))


def test_too_many_groups_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUPS", 2)
    rows = [("record", "import", "malformed", "s", f"{number}.json", "", "?") for number in (1, 2, 3, 1, 4)]
    found = group_rejects(put_rejects(tmp_path, rows), by="file")
    assert [(group.by, group.count) for group in found.groups] == [("1.json", 2), ("2.json", 1)]
    assert (found.total, found.others) == (5, 2)
    assert "2 more in further groups" in rejects_text(found)


def test_the_command(tmp_path: Path) -> None:
    folder = put_rejects(tmp_path / "shards", ROWS)
    result = CliRunner().invoke(main, ["rejects", str(folder), "--reason", "missing_file", "--json"])
    assert result.exit_code == 0
    value = orjson.loads(result.stdout)
    assert value["total"] == 2
    assert [group["source"] for group in value["groups"]] == ["own"]
    assert "own/manifest.jsonl:9" in CliRunner().invoke(main, ["rejects", str(folder), "--by", "file"]).stdout


def test_what_is_no_folder_of_shards(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no manifest\.json"):
        group_rejects(tmp_path)
    folder = put_rejects(tmp_path / "shards", ROWS)
    (folder / REJECTS_NAME).write_bytes(b"PAR1 cut")
    with pytest.raises(CorruptShardError, match=r"rejects\.parquet: unreadable"):
        group_rejects(folder)
    (folder / REJECTS_NAME).unlink()
    with pytest.raises(ShardError, match=r"rejects\.parquet: no such file"):
        group_rejects(folder)
