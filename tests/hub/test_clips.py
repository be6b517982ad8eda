"""Clips as files: the stored frames, byte by byte, at their times; and in tables that name, hold or stream them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

import mimicit
from mimicit.errors import UsageError
from mimicit.hub.clips import clip_file
from mimicit.inspecting.summary import iterate_samples
from mimicit.pipeline.mixture import build_config
from mimicit.records import Media, Sample, Triplet
from tests.factories.engines import InProcess
from tests.factories.exporting import clip, meaning, picture
from tests.factories.shards import write_shards

datasets = pytest.importorskip("datasets", reason="comes with the extra 'hub'")

# Its tables are closed by the garbage collector, those of a build's worker at its end.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMICIT_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def sample_of(number: int, *media: Media) -> Sample:
    names = (f"{place:03d}.jpg" for place in range(100))
    named = tuple(replace(medium, files=tuple(next(names) for _ in medium.files)) for medium in media)
    query = Triplet(id=f"t{number}", role="query", media=tuple(range(len(media))), instruction="What?", answer="That.")
    return Sample(id=query.id, source="made", media=named, triplets=(query,))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    samples = [
        sample_of(0, picture(1), clip([2, 3, 4], 0.5, 2.5)),
        sample_of(1, picture(5)),
        sample_of(2, clip([6], 1.0, 1.5), clip([7, 8], 0.25, 1.0)),
    ]
    return write_shards(tmp_path / "shards", samples, per_shard=2)


def packets(data: bytes) -> list[tuple[bytes, float]]:
    """The packets of a file and their times in seconds."""
    with av.open(io.BytesIO(data)) as container:
        (stream,) = container.streams
        found = [packet for packet in container.demux(stream) if packet.size]
        return [(bytes(packet), float(packet.pts * packet.time_base)) for packet in found]


def frames_of(shards: Path) -> list[list[list[tuple[bytes, float]]]]:
    """Of each sample, of each clip, the frames and their times."""
    return [
        [list(zip(m.data, m.timestamps_s or (), strict=True)) for m in sample.media if m.kind == "video"]
        for sample in mimicit.load(shards)
    ]


def undecoded(rows: Any) -> Any:
    return rows.cast_column("videos", datasets.List(datasets.Video(decode=False)))


@pytest.mark.parametrize("embed", [False, True])
def test_a_column_of_videos_is_the_stored_frames(shards: Path, embed: bool) -> None:
    rows = mimicit.to_datasets(shards, embed=embed, videos=True)
    assert rows.features["videos"] == datasets.List(datasets.Video())
    whole = rows.with_format("arrow").map(datasets.table.embed_table_storage, batched=True).with_format(None)
    found = [[packets(video["bytes"]) for video in row["videos"]] for row in undecoded(whole)]
    assert found == frames_of(shards)
    assert mimicit.to_datasets(shards, embed=embed).column_names == rows.column_names[:-1]


def test_a_stream_has_them_too(shards: Path) -> None:
    stream = undecoded(mimicit.to_datasets(shards, streaming=True, videos=True))
    assert [[packets(video["bytes"]) for video in row["videos"]] for row in stream] == frames_of(shards)


def test_they_are_passed_over_when_the_table_is_built_again(shards: Path, tmp_path: Path) -> None:
    rows = mimicit.to_datasets(shards, videos=True)
    config = build_config({"context": "related", "size": 0, "frames": 16})
    mimicit.from_datasets(rows, tmp_path / "again", config, engine=InProcess())
    found = [meaning(sample) for _, sample in iterate_samples(tmp_path / "again")]
    assert found == [meaning(sample) for sample in mimicit.load(shards)]


def test_frames_of_png_and_times_that_do_not_rise() -> None:
    frames = []
    for shade in (1, 2, 3):
        file = io.BytesIO()
        Image.new("RGB", (16, 8), (shade, 0, 0)).save(file, "PNG")
        frames.append(file.getvalue())
    data = clip_file(frames, [0.0, 0.5, 0.5], 0.5)
    assert [frame for frame, _ in packets(data)] == frames
    with av.open(io.BytesIO(data)) as container:
        shown = [frame.to_ndarray(format="rgb24")[0, 0, 0] for frame in container.decode(video=0)]
    assert shown == [1, 2, 3]
    with pytest.raises(UsageError, match="WebP"):
        clip_file([b"RIFF"], [0.0], 1.0)
