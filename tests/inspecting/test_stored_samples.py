"""Whatever way a folder lies on disk, row by row it gives what loading gives, and no more is read than asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="comes with the extra 'view'")
pytest.importorskip("httpx2", reason="Starlette's test client needs it")

from starlette.testclient import TestClient

from mimicit.errors import ShardError
from mimicit.inspecting.findings import find_out
from mimicit.inspecting.stored_samples import open_samples
from mimicit.loading import load
from mimicit.pipeline.foreign import index_folder
from mimicit.viewing.app import create_app
from mimicit.viewing.gallery import Gallery
from tests.factories import raw as make
from tests.factories.tars import put_tar
from tests.factories.viewing import built


@pytest.fixture(params=["inline", "dedupe", "foreign"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param != "foreign":
        return built(make.make_raw(tmp_path / "raw"), tmp_path / "shards", dedupe=request.param == "dedupe")
    members = [(f"a/{n}.{end}", data) for n in range(4) for end, data in (("jpg", make.picture(n)), ("txt", f"no {n}"))]
    put_tar(tmp_path, "part.tar", members)
    index_folder(tmp_path)
    return tmp_path


def test_every_way_to_a_sample_gives_the_same(folder: Path) -> None:
    samples = load(folder)
    stored = open_samples(folder)
    client = TestClient(create_app(Gallery(folder), hosts=None, token=None))
    assert len(stored) == len(samples)
    for row, sample in enumerate(samples):
        assert stored.key(row) == samples.store.key(row)
        assert stored.read(row) == sample
        assert stored.peek(row).triplets == sample.triplets
        assert not any(media.data for media in stored.peek(row).media)
        files = [(name, data) for media in sample.media for name, data in zip(media.files, media.data, strict=True)]
        assert [stored.file(row, number) for number in range(len(files))] == files
        assert [client.get(f"/media/{row}/{number}").content for number in range(len(files))] == [d for _, d in files]
        assert stored.key(row) in client.get(f"/sample/{row}").text
        with pytest.raises(IndexError):
            stored.file(row, len(files))
    for row in (-1, len(stored)):
        with pytest.raises(IndexError):
            stored.read(row)
    findings = find_out(stored)
    assert (findings.samples, findings.unreadable) == (len(samples), 0)
    assert findings.sources.total() == len(samples)


def test_a_shard_of_hard_links_is_read_alone(tmp_path: Path) -> None:
    folder = built(make.make_raw(tmp_path / "raw"), tmp_path / "shards", dedupe=True)
    stored, shard = open_samples(folder), open_samples(folder / "shard-000.tar")
    assert [shard.read(row) for row in range(len(shard))] == [stored.read(row) for row in range(len(stored))]


def test_neither_folder_nor_file(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no such file"):
        open_samples(tmp_path / "nothing")
    with pytest.raises(ShardError, match=r"no manifest\.json"):
        open_samples(tmp_path)
