"""Names of files that are not ASCII, where the locale makes Python take the file system's encoding for ASCII."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mimicit.pipeline import BuildConfig, build_shards
from mimicit.sources.files.paths import native_path, text_of_path
from mimicit.sources.files.root import Root
from tests.corpus.case import GREEN, RED, picture
from tests.factories.engines import InProcess
from tests.factories.sources import put, put_lines
from tests.factories.tars import put_tar

ASCII = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}


def mimicit(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "mimicit", *arguments]
    done = subprocess.run(command, cwd=folder, env=ASCII, capture_output=True, text=True, errors="replace", check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_name_is_lost_where_the_encoding_of_names_is_ascii(tmp_path: Path) -> None:
    for name in ("café", "naïve", "日本", "plain"):
        put(tmp_path, f"raw/bilder/{name}.png", picture(RED))
        put(tmp_path, f"raw/bilder/{name}.txt", f"a {name}")
        put(tmp_path, f"raw/größe/{name}.png", picture(GREEN))
    rows = [{"image": f"größe/{name}.png", "instruction": "?", "answer": name} for name in ("café", "naïve", "日本")]
    put_lines(tmp_path, "raw/zeilen ü.jsonl", rows)
    put_tar(tmp_path, "raw/tär/ö.tar", [("é.png", picture(RED)), ("é.txt", "in a tar")])
    put(tmp_path, "raw/übrig.csv", "Bild,Text\n1,2\n")
    mimicit(tmp_path, "build", "--src", "raw", "--out", "from-ascii", "--context", "none", "--workers", "2")
    build_shards(tmp_path / "raw", tmp_path / "out", BuildConfig(context="none"), engine=InProcess())
    for name in ("shard-000.tar", "index.parquet", "rejects.parquet", "media.parquet"):
        assert (tmp_path / "from-ascii" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    reasons = pq.read_table(tmp_path / "out" / "rejects.parquet").column("reason").to_pylist()
    assert sorted(reasons) == ["unused_file", "unused_media"]  # the table, and größe/plain.png
    assert "brig.csv" in mimicit(tmp_path, "rejects", "from-ascii")


def test_an_output_that_the_locale_cannot_name_is_refused_on_one_line(tmp_path: Path) -> None:
    put(tmp_path, "raw/é.png", picture(RED))
    put(tmp_path, "raw/é.txt", "a café")
    command = [sys.executable, "-m", "mimicit", "build", "--src", "raw", "--out", "größe", "--context", "none"]
    done = subprocess.run(command, cwd=tmp_path, env=ASCII, capture_output=True, check=False)
    assert done.returncode in (1, 2) and done.stderr.decode(errors="replace").count("\n") == 1
    assert b"PYTHONUTF8=1" in done.stderr and not (tmp_path / "größe").exists()


@pytest.mark.parametrize("name", ["plain", "café", "日本", "a\udcffb"])
def test_a_name_comes_back_from_what_the_system_takes(tmp_path: Path, name: str) -> None:
    assert text_of_path(native_path(name)) == name
    assert native_path(native_path(name)) == native_path(name)


def test_a_name_that_is_no_utf8_is_named_and_passed_over(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"odd\xff.txt")).write_text("x")
    skipped: list[tuple[str, str]] = []
    assert list(Root(tmp_path).walk(lambda path, why: skipped.append((path, why)))) == []
    assert skipped == [("odd\\xff.txt", "the name is not UTF-8")]
