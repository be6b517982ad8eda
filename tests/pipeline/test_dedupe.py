"""``--dedupe``: a shard holds each file once, and everybody still reads the same samples."""

from __future__ import annotations

import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimicit.loading import load
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.engines.local import LocalEngine
from mimicit.records import Sample
from mimicit.shards.manifest import read_manifest
from mimicit.shards.reader import iterate_shard
from mimicit.shards.verify import verify_folder
from tests.factories import raw as make
from tests.factories.engines import InProcess

INLINE = BuildConfig(shots=8, context="same-media,random", shard_bytes=600_000)
DEDUPE = replace(INLINE, dedupe=True)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten questions about each picture, a clip with two equal frames, and talks."""
    folder = tmp_path_factory.mktemp("dedupe") / "raw"
    make.add_manifest(folder, "own", pictures=40, questions=10)
    make.add_llava(folder, "llava_tiny")
    (folder / "films").mkdir()
    make.clip(folder / "films" / "a.mp4", frames=2)
    (folder / "films" / "a.txt").write_text("It grows brighter.")
    return folder


def build(raw: Path, config: BuildConfig) -> Path:
    out = raw.parent / ("dedupe" if config.dedupe else "inline")
    if not (out / "manifest.json").exists():
        build_shards(raw, out, config, engine=InProcess())
    return out


@pytest.fixture(scope="module")
def inline(raw: Path) -> Path:
    return build(raw, INLINE)


@pytest.fixture(scope="module")
def dedupe(raw: Path) -> Path:
    return build(raw, DEDUPE)


def by_id(folder: Path) -> dict[tuple[str, str], Sample]:
    return {(sample.source, sample.id): sample for sample in load(folder)}


def test_the_loader_gives_the_same_samples(inline: Path, dedupe: Path) -> None:
    assert by_id(dedupe) == by_id(inline)
    assert read_manifest(dedupe)["layout"] == "dedupe"
    assert read_manifest(inline)["layout"] == "inline"


def test_it_is_sound_and_smaller(inline: Path, dedupe: Path) -> None:
    assert list(verify_folder(dedupe)) == []
    small, large = (read_manifest(folder)["totals"]["bytes"] for folder in (dedupe, inline))
    assert small < 0.6 * large  # the pictures have a kilobyte: headers of links and texts are most of what is left


def test_every_file_lies_once_in_a_shard(dedupe: Path) -> None:
    links = 0
    for path in dedupe.glob("shard-*.tar"):
        with tarfile.open(path) as archive:
            contents = [archive.extractfile(m).read() for m in archive if m.isreg() and m.name.endswith(".jpg")]  # type: ignore[union-attr]
            assert len(set(contents)) == len(contents)
            links += sum(member.islnk() for member in archive)
    assert links > 300


def test_tarfile_and_tar_extract_the_same_files(dedupe: Path, tmp_path: Path) -> None:
    shard = min(dedupe.glob("shard-*.tar"))
    for name in ("python", "gnu"):
        (tmp_path / name).mkdir()
    with tarfile.open(shard) as archive:
        archive.extractall(tmp_path / "python", filter="data")
    subprocess.run(["tar", "-xf", shard, "-C", tmp_path / "gnu"], check=True)
    extracted = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("python", "gnu")]
    assert extracted[0] == extracted[1]
    truth: dict[str, bytes] = {}
    for stored in iterate_shard(shard):
        for media in stored.sample.media:
            truth |= {f"{stored.key}.{file}": data for file, data in zip(media.files, media.data, strict=True)}
    assert {name: data for name, data in extracted[0].items() if not name.endswith(".json")} == truth


def test_bytes_do_not_depend_on_workers(raw: Path, dedupe: Path, tmp_path: Path) -> None:
    build_shards(raw, tmp_path / "again", DEDUPE, engine=LocalEngine(2))
    assert make.hashes(tmp_path / "again") == make.hashes(dedupe)


def test_one_layout_is_made_of_the_other(raw: Path, inline: Path, dedupe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for config, truth in ((INLINE, inline), (DEDUPE, dedupe), (INLINE, inline)):
        build_shards(raw, out, config, engine=InProcess(), overwrite=True)
        assert make.hashes(out) == make.hashes(truth)


def test_samples_that_share_pictures_stand_together(tmp_path: Path) -> None:
    """Two turns of input order, a far way apart, about the same pictures: placement brings them together."""
    folder = tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    for number in range(60):
        (folder / "images" / f"{number}.jpg").write_bytes(make.picture(number, 300, 200))
    make.write_manifest(
        folder,
        (
            {"id": f"{turn}-{number}", "media": f"images/{number}.jpg", "instruction": f"{turn}?", "answer": "yes"}
            for turn in range(10)
            for number in range(60)
        ),
    )
    alone = BuildConfig(shots=0, shard_samples=60, dedupe=True)
    build_shards(folder, tmp_path / "out", alone, engine=InProcess())
    members = 0
    for path in (tmp_path / "out").glob("shard-*.tar"):
        with tarfile.open(path) as archive:
            members += sum(member.isreg() and member.name.endswith(".jpg") for member in archive)
    assert members <= 60 + 10  # each picture once, but for those that a shard's end cuts apart


def test_eight_contexts_of_pictures_of_usual_size_take_a_quarter_at_most(tmp_path: Path) -> None:
    """Like MIMIC-IT's LA sets: ten triplets about each picture, eight triplets of context, pictures of 336 pixels."""
    folder = tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(40):
        noise = rng.integers(0, 256, (84, 112, 3), dtype=np.uint8)
        picture = Image.fromarray(noise, "RGB").resize((336, 252), Image.Resampling.BICUBIC)
        picture.save(folder / "images" / f"{number}.jpg", quality=90)
    make.write_manifest(
        folder,
        (
            {"id": f"{n}-{q}", "media": f"images/{n}.jpg", "instruction": f"What is {q}?", "answer": f"It is {n}."}
            for n in range(40)
            for q in range(10)
        ),
    )
    config = BuildConfig(shots=8, context="random")
    size = {}
    for dedupe in (False, True):
        out = tmp_path / f"dedupe-{dedupe}"
        build_shards(folder, out, replace(config, dedupe=dedupe), engine=InProcess())
        size[dedupe] = read_manifest(out)["totals"]["bytes"]
    print(f"inline {size[False]:,} bytes, dedupe {size[True]:,}: {size[False] / size[True]:.1f} times smaller")  # noqa: T201
    assert size[True] <= size[False] / 4
