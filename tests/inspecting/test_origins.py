"""A picture of equal content in several places keeps every origin, and inspect and view show them all."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from mimicit.cli import main
from mimicit.inspecting.stored_samples import open_samples, origins_of
from mimicit.viewing.app import create_app
from mimicit.viewing.gallery import Gallery
from tests.corpus.case import GREEN, RED, picture
from tests.corpus.published import text_of
from tests.factories.raw import clip
from tests.factories.sources import put, put_lines
from tests.factories.viewing import built

EVERY = {"a/1.png", "b/copy of 1.png", "LA_IMG_1 (LA.json)", "c.png (t.parquet, row group 0, row 1)"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One red picture as two files, in base64 and in a table, and one clip as two files."""
    place = tmp_path_factory.mktemp("origins")
    raw = place / "raw"
    for path in ("a/1.png", "b/copy of 1.png"):
        put(raw, path, picture(RED))
    put(raw, "other.png", picture(GREEN))
    clip(raw / "x.mp4", frames=3)
    put(raw, "y/z.mp4", (raw / "x.mp4").read_bytes())
    media = ("a/1.png", "b/copy of 1.png", "other.png", "x.mp4", "y/z.mp4")
    put_lines(raw, "m.jsonl", [{"id": path, "media": path, "instruction": "q", "answer": "a"} for path in media])
    data = {"LA_INS_1": {"instruction": "q", "answer": "a", "image_ids": ["LA_IMG_1"], "rel_ins_ids": []}}
    put(raw, "LA_instructions.json", {"meta": {}, "data": data})
    put(raw, "LA.json", {"LA_IMG_1": text_of(RED)})
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": picture(colour), "path": path} for colour, path in ((GREEN, "d.png"), (RED, "c.png"))]
    table = pa.table({"image": pa.array(cells, struct), "question": ["q", "q"], "answer": ["a", "b"]})
    pq.write_table(table, raw / "t.parquet")
    built(raw, place / "shards", context="none")
    return place


def rows_of(shards: Path, id: str) -> list[int]:
    stored = open_samples(shards)
    return [row for row in range(len(stored)) if stored.peek(row).id == id]


def test_every_sample_knows_every_place(place: Path) -> None:
    stored = open_samples(place / "shards")
    for row in range(len(stored)):
        (medium,) = stored.peek(row).media
        (origins,) = origins_of(place / "shards", [medium])
        assert origins[0] == medium.origin
        known = [EVERY, {"x.mp4", "y/z.mp4"}, {"other.png", "d.png (t.parquet, row group 0, row 0)"}]
        assert any(origin.startswith(medium.origin) for one in known for origin in one)
        assert any(one <= {*origins} for one in known)


@pytest.mark.parametrize("is_shard", [False, True])
def test_inspect_shows_them(place: Path, tmp_path: Path, is_shard: bool) -> None:
    path = place / "shards" / "shard-000.tar" if is_shard else place / "shards"
    arguments = ["inspect", str(path), "--sample", "b/copy of 1.png", "--png", str(tmp_path / "x.png")]
    printed = CliRunner().invoke(main, arguments).output
    assert all(origin in printed for origin in EVERY)
    origins = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)["origins"]
    assert len(origins) == 1
    assert {*origins[0]} >= EVERY


def test_view_shows_them(place: Path) -> None:
    client = TestClient(create_app(Gallery(place / "shards"), hosts=None, token=None))
    (row,) = rows_of(place / "shards", "a/1.png")
    page = client.get(f"/sample/{row}").text
    assert all(f"<bdi>{origin}</bdi>" in page for origin in EVERY)
    (row,) = rows_of(place / "shards", "x.mp4")
    assert "<bdi>y/z.mp4</bdi>" in client.get(f"/sample/{row}").text


def test_a_folder_without_the_table_shows_what_the_sample_says(place: Path, tmp_path: Path) -> None:
    stored = open_samples(place / "shards")
    media = stored.peek(0).media
    assert origins_of(tmp_path, media) == [(media[0].origin,)]
    put(tmp_path, "media.parquet", b"no table")
    assert origins_of(tmp_path, media) == [(media[0].origin,)]
