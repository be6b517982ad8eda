"""Names chosen to do harm, from the raw folder through shards and exports and back, by the command line.

Whatever a file, an id or a path is called: nothing is run, nothing appears outside the output folders, keys and
exported names are plain, and every name is in the shards or in a reject that names it.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mimicit.cli import main
from mimicit.loading import load
from mimicit.sources.files.root import Root
from tests.factories import raw as make
from tests.factories.commands import mimicit
from tests.factories.sources import put

SHELL: Final = ["; touch canary", "$(touch canary)", "`touch canary`", "| touch canary", "&& touch canary", "-rf", "*"]
ODD: Final = [
    *("new\nline", "tab\tand \\ back", "'quoted' \"twice\"", "%s%n%0", "\x1b[2J", "\x7f", " ", "a:b", "a|b", "<a>?"),
    *("CON", "nul.txt", "AUX.", "COM1", "dots...", "a. ", "~", "#", "100%", "é", "e\u0301", "😀"),
    *("\u202egpj.elif", "zero\u200bwidth", "\u2066isolate\u2069", "\ufeffbom", "a\u0000b".replace("\0", "\u2400")),
    *("http:x", "file:x", "concat:a|b", "pipe:0", "subfile,,start,0,end,0,,:x", "%03d", "x" * 251),
]
ON_DISK: Final = [*SHELL, *ODD]
KEY: Final = re.compile(r"[a-z0-9_-]{1,80}")
SAFE_STEP: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,120}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with ``raw`` and an empty ``cwd``, where commands run; nothing may appear beside what they were told."""
    for name in ("raw", "cwd"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    yield tmp_path
    assert list((tmp_path / "cwd").iterdir()) == []
    told = {"raw", "cwd", "shards", "again", "files", "llava", "mimicit", "mmc4", "datasets"}
    assert {path.name for path in tmp_path.iterdir()} <= told


def run(*arguments: str | Path) -> str:
    result = mimicit(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def built(src: Path, out: Path, *options: str) -> tuple[set[str], list[dict[str, Any]]]:
    """The ids in the shards, whose names are plain, and the rejects."""
    run("build", "--src", src, "--out", out, "--workers", "1", "--json", *options)
    run("verify", out)
    assert all(SAFE_STEP.fullmatch(path.name) for path in out.iterdir())
    for shard in out.glob("*.tar"):
        with tarfile.open(shard) as archive:
            for member in archive:
                key, _, suffix = member.name.partition(".")
                assert KEY.fullmatch(key)
                assert re.fullmatch(r"json|[0-9]{3,6}\.(jpg|png|webp)", suffix)
    samples = list(load(out))
    assert all(KEY.fullmatch(sample.key) for sample in samples)
    assert len({sample.key for sample in samples}) == len(samples)
    rejects = pq.read_table(out / "rejects.parquet").to_pylist()
    return {sample.id for sample in samples}, rejects


def put_raw(root: Path, name: bytes, content: bytes) -> None:
    descriptor = os.open(os.fsencode(root) + b"/" + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


@pytest.mark.parametrize("extension", [".jpg", ".mp4"])
def test_names_of_files(place: Path, extension: str) -> None:
    raw = place / "raw"
    make.clip(place / "raw" / "plain.mp4", frames=2)
    content = make.picture(0) if extension == ".jpg" else (raw / "plain.mp4").read_bytes()
    (raw / "plain.mp4").unlink()
    for name in ON_DISK:
        put(raw, f"d/{name}{extension}", content)
        put(raw, f"d/{name}.txt", "Something.")
    for bad in (b"\xff\xfe", b"caf\xe9"):
        put_raw(raw / "d", bad + extension.encode(), content)
        put_raw(raw / "d", bad + b".txt", b"Something.")
    put(raw, f"d/.hidden{extension}", content)
    put(raw, f"..hidden/x{extension}", content)
    (raw / "d" / f"link{extension}").symlink_to("/etc/passwd")
    ids, rejects = built(raw, place / "shards")
    assert ids == {f"d/{name}{extension}" for name in ON_DISK}
    found = {(reject["reason"], reject["locator"]) for reject in rejects}
    skipped = [rf"d/\xff\xfe{extension}", r"d/\xff\xfe.txt", rf"d/caf\xe9{extension}", r"d/caf\xe9.txt", "..hidden"]
    assert found == {("unusable_file", name) for name in [*skipped, f"d/.hidden{extension}", f"d/link{extension}"]}
    if extension == ".mp4":  # read as a file of this name and as nothing else
        assert len({sample.media[0].sha256 for sample in load(place / "shards")}) == 1


def test_names_of_folders_and_sources(place: Path) -> None:
    names = [name for name in ON_DISK if len(name) < 100]
    for number, name in enumerate(names):
        put(place / "raw", f"{name}/{number}.jpg", make.picture(0))
        put(place / "raw", f"{name}/{number}.txt", "Something.")
    ids, rejects = built(place / "raw", place / "shards")
    assert ids == {f"{name}/{number}.jpg" for number, name in enumerate(names)}
    assert rejects == []
    sources = {sample.source for sample in load(place / "shards")}
    assert len(sources) == len(names)
    assert all(KEY.fullmatch(source) for source in sources)


def deep(root: Path, depth: int) -> str:
    """The path of a picture so far down that no system call takes its whole path, which is returned."""
    step = "s" * 200
    descriptor = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(step, dir_fd=descriptor)
        inner = os.open(step, os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    for name, content in (("p.jpg", make.picture(1)), ("p.txt", b"Deep.")):
        with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=descriptor), "wb") as file:
            file.write(content)
    os.close(descriptor)
    return f"{step}/" * depth + "p.jpg"


def test_paths_longer_than_the_system_takes(place: Path) -> None:
    short, long = deep(place / "raw", 20), ""
    (place / "raw" / "more").mkdir()
    long = f"more/{deep(place / 'raw' / 'more', 21)}"
    assert len(short) < 4096 < len(long)
    ids, rejects = built(place / "raw", place / "shards")
    assert ids == {short}
    assert [reject["reason"] for reject in rejects] == ["malformed"]
    assert rejects[0]["locator"].startswith("more/sss")


GOOD_IDS: Final = [*ON_DISK, "../../x", "/etc/passwd", "..", ".", "x" * 4096, "\u0001"]
BAD_IDS: Final = {"nul\0": "malformed", "x" * 4097: "malformed", "\ud800": "malformed", "": "malformed"}
BAD_PATHS: Final = {
    "../secret.jpg": "outside_root",
    "d/../../secret.jpg": "outside_root",
    "..\\secret.jpg": "outside_root",
    "/etc/passwd": "outside_root",
    "C:\\secret.jpg": "outside_root",
    "\\\\host\\share.jpg": "outside_root",
    "good.jpg\0.jpg": "malformed",
    "x" * 5000 + ".jpg": "malformed",
    "x" * 252 + ".jpg": "missing_file",
    "y/" * 2000 + "z.jpg": "missing_file",
    "\udcff.jpg": "malformed",
    "": "",  # no medium: a triplet of text alone
    "file:///etc/passwd": "missing_file",
    "http://127.0.0.1/x.jpg": "missing_file",
    "$(touch canary).jpg": "missing_file",
    "; touch canary": "missing_file",
    "up/secret.jpg": "outside_root",
    ".": "missing_file",
}  # fmt: skip


def test_ids_and_paths_in_records(place: Path) -> None:
    put(place / "raw", "good.jpg", make.picture(0))
    secret = put(place / "raw" / "..", "cwd/secret.jpg", make.picture(1))
    (place / "raw" / "up").symlink_to(place / "cwd")
    named = [(id, "good.jpg") for id in [*GOOD_IDS, *BAD_IDS]]
    named += [(f"path {number}", path) for number, path in enumerate(BAD_PATHS)]
    rows = [{"id": id, "media": path, "instruction": "What?", "answer": "This."} for id, path in named]
    # As JSON escapes them: halves of surrogates and NUL are valid there.
    put(place / "raw", "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    ids, rejects = built(place / "raw", place / "shards", "--context", "none")
    secret.unlink()
    assert ids == {*GOOD_IDS} | {f"path {list(BAD_PATHS).index('')}"}
    found = {reject["locator"]: reject["reason"] for reject in rejects if reject["scope"] == "record"}
    first = len(GOOD_IDS) + 1
    # Half a surrogate is no JSON to a strict reader: still the reject of that line.
    expected = [*BAD_IDS.values(), *BAD_PATHS.values()]
    assert found == {f"manifest.jsonl:{first + place}": reason for place, reason in enumerate(expected) if reason}
    assert {(r["reason"], r["locator"]) for r in rejects if r["scope"] != "record"} == {("unusable_file", "up")}


def test_members_of_archives(place: Path) -> None:
    data = io.BytesIO()
    names = [name for name in ON_DISK if "." not in name] + ["x" * 300, "deep/" * 60 + "x"]
    outside = ["/etc/cron.d/x", "../x", "a/../../x"]
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in [*names, *outside]:
            for suffix, content in ((".jpg", make.picture(0)), (".txt", b"Something.")):
                info = tarfile.TarInfo(name + suffix)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"special{kind.decode()}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    put(place / "raw", "t/x.tar", data.getvalue())
    ids, rejects = built(place / "raw", place / "shards")
    assert ids == {f"x.tar/{name}" for name in names}
    reasons = [reject["reason"] for reject in rejects]
    assert (reasons.count("outside_root"), reasons.count("unsupported_media")) == (2 * len(outside), 4)
    assert all(any(name in reject["detail"] for reject in rejects) for name in outside)


def test_exports_are_plain_names_and_come_back(place: Path) -> None:
    for number, name in enumerate(ON_DISK[:20]):
        put(place / "raw", f"{name}/{number}.jpg", make.picture(number))
        put(place / "raw", f"{name}/{number}.json", {"id": name, "instruction": "What?", "answer": "This."})
    ids, rejects = built(place / "raw", place / "shards")
    assert (len(ids), rejects) == (20, [])
    for to in ("files", "llava", "mimicit", "mmc4", "datasets"):
        run("export", place / "shards", "--to", to, "--out", place / to)
        for path in (place / to).rglob("*"):
            assert all(SAFE_STEP.fullmatch(step) for step in path.relative_to(place / to).parts), path
            assert path.is_dir() or (path.is_file() and not path.is_symlink())
    again, rejects = built(place / "files", place / "again", "--context", "related")
    assert (again, rejects) == (ids, [])


def test_shards_whose_source_is_a_path_are_not_exported(place: Path) -> None:
    """A shard is as little to be trusted as anything else."""
    put(place / "raw", "a/p.jpg", make.picture(0))
    put(place / "raw", "a/p.txt", "Something.")
    built(place / "raw", place / "shards")
    shard = place / "shards" / "shard-000.tar"
    shard.write_bytes(shard.read_bytes().replace(b'"source":"a"', b'"source":"."'))
    for to in ("files", "mimicit", "mmc4"):
        result = CliRunner().invoke(main, ["export", str(shard), "--to", to, "--out", str(place / to)])
        assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
        assert not (place / to).exists()


def test_what_is_said_of_odd_names_is_printable(place: Path) -> None:
    put(
        place / "raw",
        "manifest.jsonl",
        '{"id": "\\u001b[2J\\u202e", "media": "\\u001b]0;x\\u0007.jpg", "answer": "x"}\n',
    )
    put(place / "raw", "d/p.jpg", make.picture(0))
    put(place / "raw", "d/p.txt", "Something.")
    built(place / "raw", place / "shards")
    text = run("rejects", place / "shards") + run("inspect", place / "shards")
    assert all(c.isprintable() or c == "\n" for c in text), [c for c in text if not c.isprintable() and c != "\n"]


def test_a_walk_never_leaves_the_folder(place: Path) -> None:
    (place / "raw" / "loop").symlink_to(".")
    (place / "raw" / "out").symlink_to("..")
    assert list(Root(place / "raw").walk()) == []
