"""Files made to hurt: each ends as a reject with its reason, or as what it honestly is, and within bounds.

All of them are built in one run, by one worker whose memory and time are watched, so the bounds hold for each.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mimicit.errors import SourceError
from mimicit.loading import load
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.schema import validate
from mimicit.shards.verify import verify_folder
from tests.factories import hostile
from tests.factories import raw as make
from tests.factories.engines import InProcess
from tests.factories.media import encoded, scene, swapped_profile, vast_png, write_clip, x264
from tools.attack_serve import jpeg_of_scans
from tools.measured import run_measured

MIB = 1024**2
CLIP = "mp4"
# One worker, and 256 MiB for a medium.
BUILD = """
import sys
from pathlib import Path
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.engines.local import LocalEngine
from mimicit.media import MediaOptions

config = BuildConfig(media=MediaOptions(max_memory_bytes=256 << 20))
build_shards(Path(sys.argv[1]), Path(sys.argv[2]), config, engine=LocalEngine(1), keep_going=True)
"""
# Milliseconds of CPU time and extra KiB of one probe; the first two warm up.
PROBE = """
import resource, sys, time, tracemalloc
from mimicit.errors import RejectedError
from mimicit.media import MediaOptions
from mimicit.media.image_file import probe_image

data = open(sys.argv[1], "rb").read()
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    started = time.process_time()
    try:
        probe_image(data, MediaOptions())
    except RejectedError as error:
        reason = error.reason
    seconds, traced = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
print(reason, seconds * 1e3, traced / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A hostile medium: its extension, its bytes, and the reason of its reject, or None where it is fine."""

    extension: str
    data: bytes
    reason: str | None


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    clip = write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", options=x264(keyint=12, bframes=0)).read_bytes()
    pictures = [scene().rotate(turn) for turn in (0, 90, 180)]
    animation: dict[str, Any] = {"save_all": True, "append_images": pictures[1:]}
    cmyk = scene().convert("CMYK")
    clear = encoded(Image.new("P", (9_000, 9_000)), "PNG", transparency=0, compress_level=1)
    return {
        "PNG of 30,000 x 30,000": Case("png", vast_png(), "too_many_pixels"),
        "JPEG of 65,500 x 65,500": Case("jpg", hostile.vast_jpeg(), "too_many_pixels"),
        "animated WebP of 16,383 x 16,383": Case("webp", hostile.vast_webp(), "too_many_pixels"),
        "GIF of 100,000 frames": Case("gif", hostile.gif_of_many_frames(100_000), "too_many_frames"),
        "JPEG of 3,000 scans": Case("jpg", jpeg_of_scans(2000, 3000), "too_many_scans"),
        "JPEG of 50 scans": Case("jpg", jpeg_of_scans(64, 50), None),
        "APNG of 100,000 frames": Case("png", hostile.apng_of_many_frames(100_000), "too_many_frames"),
        "animated WebP": Case("webp", encoded(scene(), "WEBP", **animation), None),
        "animated PNG": Case("png", encoded(scene(), "PNG", **animation), None),
        "MPO": Case("jpg", encoded(scene(), "MPO", **animation), None),
        "text bomb in PNG": Case("png", hostile.text_bomb(), "bad_media"),
        "profile bomb in PNG": Case("png", hostile.profile_bomb(), "bad_media"),
        "EXIF bomb in PNG": Case("png", hostile.exif_bomb(), None),
        "clear palette of 9,000 x 9,000": Case("png", clear, "too_much_memory"),
        "CMYK": Case("jpg", encoded(cmyk, "JPEG"), None),
        "progressive CMYK with a profile": Case(
            "jpg", encoded(cmyk, "JPEG", progressive=True, icc_profile=swapped_profile()), None
        ),
        "16 bit PNG": Case("png", encoded(Image.new("I;16", (64, 64), 40_000), "PNG"), None),
        "TIFF named .jpg": Case("jpg", encoded(scene(), "TIFF"), None),
        "SVG named .jpg": Case("jpg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_media"),
        "HTML named .jpg": Case("jpg", b"<!DOCTYPE html><html>404</html>", "unsupported_media"),
        "MP4 that claims 10 hours": Case(CLIP, hostile.mp4_that_claims(clip, 36_000), "too_long"),
        "MP4 of absurd tables": Case(CLIP, hostile.mp4_of_absurd_boxes(clip), "too_much_memory"),
        "MP4 of 170,000,000 frames": Case(CLIP, hostile.mp4_of_many_frames(clip, 170_000_000), "too_many_frames"),
        "MP4 of 20,000,000 frames": Case(CLIP, hostile.mp4_of_many_frames(clip, 20_000_000), "too_many_frames"),
        "playlist named .mp4": Case(CLIP, b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n", "unsupported_media"),
    }


def lay_out(folder: Path, media: dict[str, Case]) -> None:
    """A manifest with one record for each medium, beside one sound record."""
    folder.mkdir(parents=True)
    (folder / "good.jpg").write_bytes(make.picture(0))
    rows = [{"id": "good", "media": "good.jpg", "instruction": "What?", "answer": "This."}]
    for number, (name, case) in enumerate(media.items()):
        path = f"{number}.{case.extension}"
        (folder / path).write_bytes(case.data)
        rows.append({"id": name, "media": path, "instruction": "What?", "answer": "This."})
    make.write_manifest(folder, rows)


def show(capsys: pytest.CaptureFixture[str], figures: str) -> None:
    with capsys.disabled():
        print(f"\n{figures}")  # noqa: T201 - the figures that the limits are about


def rejects_of(out: Path) -> dict[str, dict[str, Any]]:
    """The rejected records by id, after the checks that hold for every build."""
    rejects: list[dict[str, Any]] = pq.read_table(out / "rejects.parquet").to_pylist()
    for reject in rejects:
        validate("reject", reject)
        assert reject["locator"] and reject["detail"] and len(reject["detail"]) < 500
    assert list(verify_folder(out)) == []
    return {reject["id"]: reject for reject in rejects if reject["scope"] == "record"}


def test_hostile_media_are_rejects_with_a_reason_within_bounds(
    tmp_path: Path, cases: dict[str, Case], capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path / "raw", cases)
    out = tmp_path / "out"
    measured = run_measured([sys.executable, "-c", BUILD, str(tmp_path / "raw"), str(out)])
    assert measured.returncode == 0, measured.stderr
    rejects = rejects_of(out)
    found = {name: rejects[name]["reason"] if name in rejects else None for name in cases}
    assert found == {name: case.reason for name, case in cases.items()}
    assert {sample.id for sample in load(out)} == {"good", *(name for name in cases if cases[name].reason is None)}
    show(
        capsys,
        f"{len(cases)} hostile media: {measured.seconds:.1f} s, largest process {measured.peak_rss / MIB:.0f} MiB",
    )
    assert measured.peak_rss < 500 * MIB  # what the imports take, and 256 MiB
    assert measured.cpu_seconds < 60


def test_a_png_of_30_000_squared_is_refused_in_no_time_and_no_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vast.png"
    path.write_bytes(vast_png(idat_bytes=100_000_000))
    done = subprocess.run([sys.executable, "-c", PROBE, str(path)], capture_output=True, text=True, check=True)
    reason, milliseconds, traced_kib, grown_kib = done.stdout.split()
    show(
        capsys,
        f"30,000 x 30,000 PNG of {path.stat().st_size / 1e3:.0f} kB: {float(milliseconds):.1f} ms,"
        f" {float(traced_kib):.0f} KiB allocated, RSS + {grown_kib} KiB",
    )
    assert reason == "too_many_pixels"
    assert float(milliseconds) < 50
    assert float(traced_kib) < 50 * 1024 and float(grown_kib) < 50 * 1024


HOSTILE_LINES = {
    "nested 100,000 deep": '{"id": "a", "answer": "b", "instruction": "c", "meta": ' + hostile.nested(100_000) + "}",
    "nested 900 deep": '{"id": "a", "answer": "b", "instruction": "c", "meta": ' + hostile.nested(900) + "}",
    "a number beyond all numbers": '{"id": 1e999, "answer": "b", "instruction": "c"}',
    "a number of 100,000 digits": '{"id": "a", "answer": ' + "9" * 100_000 + ', "instruction": "c"}',
    "an id of 30 digits": '{"id": ' + "9" * 30 + ', "answer": "b", "instruction": "c"}',
    "not a number": '{"id": "a", "answer": NaN, "instruction": "c"}',
    "a key that stands twice": '{"id": "a", "answer": "b", "instruction": "c", "answer": "d"}',
    "half a surrogate pair": r'{"id": "a", "answer": "\ud800", "instruction": "c"}',
}


def test_hostile_lines_are_malformed_and_cost_only_themselves(tmp_path: Path) -> None:
    lay_out(tmp_path / "raw", {})
    with (tmp_path / "raw" / "manifest.jsonl").open("a") as manifest:
        manifest.writelines(line + "\n" for line in HOSTILE_LINES.values())
    build_shards(tmp_path / "raw", tmp_path / "out", BuildConfig(), engine=InProcess())
    rejects_of(tmp_path / "out")
    rejects = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    found = {reject["locator"]: reject["reason"] for reject in rejects}
    reasons = {name: "empty_answer" if name == "not a number" else "malformed" for name in HOSTILE_LINES}
    assert found == {f"manifest.jsonl:{number}": reason for number, reason in enumerate(reasons.values(), 2)}
    assert {sample.id for sample in load(tmp_path / "out")} == {"good"}


def deep_talks(folder: Path) -> Path:
    talk = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "This."}]
    path = folder / "talks.json"
    sound = json.dumps({"id": 1, "conversations": talk})
    path.write_text(f'[{sound}, {{"id": 2, "conversations": {hostile.nested(100_000)}}}]')
    return path


def zip_of_blanks(folder: Path) -> Path:
    return hostile.zip_bomb(folder / "docs_shard_0_v2.jsonl.zip", megabytes=100)


@pytest.mark.parametrize(
    ("make_bomb", "words"), [(deep_talks, "nested deeper"), (zip_of_blanks, "more than 200 times")]
)
def test_a_bomb_that_is_a_whole_file_is_named(tmp_path: Path, make_bomb: Any, words: str) -> None:
    lay_out(tmp_path / "raw", {})
    (tmp_path / "raw" / "bomb").mkdir()
    bomb = make_bomb(tmp_path / "raw" / "bomb")
    with pytest.raises(SourceError, match=rf"{bomb.name}.*{words}"):
        build_shards(tmp_path / "raw", tmp_path / "refused", BuildConfig(), engine=InProcess())
    assert not list((tmp_path / "refused").glob("shard-*"))

    measured = run_measured([sys.executable, "-c", BUILD, str(tmp_path / "raw"), str(tmp_path / "out")])
    assert measured.returncode == 0, measured.stderr
    assert measured.peak_rss < 300 * MIB
    rejects_of(tmp_path / "out")
    (reject,) = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert (reject["scope"], reject["reason"]) == ("source", "unreadable_source")
    assert words in reject["detail"]


@pytest.mark.slow
def test_a_tar_of_more_than_a_million_members_is_refused_in_bounded_time_and_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path / "raw", {})
    (tmp_path / "raw" / "bomb").mkdir()
    path = hostile.tar_of_many_members(tmp_path / "raw" / "bomb" / "many.tar", 1_000_001)
    measured = run_measured([sys.executable, "-c", BUILD, str(tmp_path / "raw"), str(tmp_path / "out")])
    show(
        capsys, f"tar of 1,000,001 members: {measured.seconds:.0f} s, largest process {measured.peak_rss / MIB:.0f} MiB"
    )
    assert measured.returncode == 0, measured.stderr
    assert measured.peak_rss < 300 * MIB
    path.unlink()
    (reject,) = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert (reject["scope"], reject["reason"]) == ("source", "unreadable_source")
    assert "more than 1000000 members" in reject["detail"]


def test_a_table_whose_text_is_no_unicode_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path / "raw", {})
    (tmp_path / "raw" / "table").mkdir()
    path = tmp_path / "raw" / "table" / "manifest.parquet"
    fields = {"id": ["a"], "instruction": ["What?"], "answer": ["ZZZZZZ"]}
    pq.write_table(pa.table(fields), path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"ZZZZZZ", b"\xeb" * 6))
    build_shards(tmp_path / "raw", tmp_path / "out", BuildConfig(), engine=InProcess(), keep_going=True)
    (reject,) = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    assert (reject["scope"], reject["reason"]) == ("source", "unreadable_source")
    assert "table/manifest.parquet" in reject["detail"] and "UTF8" in reject["detail"]
