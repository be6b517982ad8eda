"""`mimicit verify` and `mimicit.load` say the same of a folder of shards: each fault is reported by one and refused by
the other, whatever its checksums say, and nothing in such a folder makes them wait."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from mimicit.cli import main
from mimicit.errors import CorruptShardError, MimicitError, ShardError, UsageError
from mimicit.loading import load
from mimicit.loading.decode import decode_pictures
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.shards import index as index_module
from mimicit.shards.files import open_regular, read_regular, sha256_of
from mimicit.shards.index import repeated_key
from mimicit.shards.verify import verify_folder
from tests.factories import raw as make
from tests.factories.engines import InProcess
from tests.factories.media import encoded, scene
from tools.edit_shards import Shards, read_shards, seal_files

Change = Callable[[Path], None]
Edit = Callable[[Shards], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sound")
    make.add_manifest(place / "raw", pictures=4, questions=2)
    make.write_manifest(place / "raw" / "none", [{"id": "x", "media": "no.jpg", "instruction": "Q", "answer": "A"}])
    make.clip(place / "raw" / "own" / "images" / "clip.mp4")
    with (place / "raw" / "own" / "manifest.jsonl").open("a") as file:
        file.write(json.dumps({"id": "clip", "media": "images/clip.mp4", "instruction": "Q", "answer": "A"}) + "\n")
    config = BuildConfig(shard_bytes=20_000)
    result = build_shards(place / "raw", place / "shards", config, engine=InProcess(), keep_going=True)
    assert len(result.manifest["shards"]) > 2 and result.manifest["totals"]["rejects"] > 0
    return place / "shards"


@pytest.fixture(scope="module")
def parts(sound: Path) -> Shards:
    return read_shards(sound)


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound folder; its files are links to those, so put others in their places."""
    (tmp_path / "shards").mkdir()
    for path in sound.iterdir():
        os.link(path, tmp_path / "shards" / path.name)
    return tmp_path / "shards"


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def in_manifest(change: Callable[[dict[str, Any]], Any]) -> Change:
    def edit(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        replace(folder / "manifest.json", json.dumps(manifest).encode())

    return edit


def in_table(name: str, change: Callable[[pa.Table], pa.Table]) -> Change:
    """Change a parquet file, and put its checksum into the manifest."""

    def edit(folder: Path) -> None:
        table = change(pq.read_table(folder / name))
        (folder / name).unlink()
        pq.write_table(table, folder / name)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = sha256_of(folder / name)
        replace(folder / "manifest.json", json.dumps(manifest).encode())

    return edit


def read_all(folder: Path, check: Any) -> None:
    """What training does with a folder: every sample, every picture."""
    for sample in load(folder, check=check):
        decode_pictures(sample, 16)


def unlike(column: str, row: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table.column(column).to_pylist()
        values[row] = value(values[row]) if callable(value) else value
        return table.set_column(
            table.schema.get_field_index(column), column, pa.array(values, table.schema.field(column).type)
        )

    return change


def both(*changes: Callable[[pa.Table], pa.Table]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        for one in changes:
            table = one(table)
        return table

    return change


def test_a_sound_folder_has_no_findings_and_loads(sound: Path, parts: Shards, tmp_path: Path) -> None:
    assert list(verify_folder(sound)) == []
    for check in ("size", "sha256", "verify"):
        read_all(sound, check)
    again = parts.write(tmp_path / "again")  # what the tests below change is all that is wrong with their folders
    assert list(verify_folder(again)) == []
    assert list(load(again)) == list(load(sound))


# Manifest and index: refused when the folder is opened

MANIFEST: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a dropped shard": lambda m: m["shards"].pop(),
    "the first shard dropped": lambda m: m["shards"].pop(0),
    "a dropped shard, totals in order": lambda m: (
        m["totals"].update(samples=m["totals"]["samples"] - m["shards"][-1]["samples"]),
        m["totals"].update(bytes=m["totals"]["bytes"] - m["shards"].pop()["bytes"]),
    ),
    "a shard listed twice": lambda m: m["shards"].append(m["shards"][0]),
    "shards in another order": lambda m: m["shards"].reverse(),
    "samples of a shard": lambda m: m["shards"][0].update(samples=m["shards"][0]["samples"] + 1),
    "samples moved between shards": lambda m: (
        m["shards"][0].update(samples=m["shards"][0]["samples"] + 1),
        m["shards"][1].update(samples=m["shards"][1]["samples"] - 1),
    ),
    "bytes of a shard": lambda m: m["shards"][1].update(bytes=m["shards"][1]["bytes"] + 512),
    "bytes of a shard, total in order": lambda m: (
        m["shards"][1].update(bytes=m["shards"][1]["bytes"] + 512),
        m["totals"].update(bytes=m["totals"]["bytes"] + 512),
    ),
    **{
        f"totals: {name}": lambda m, name=name: m["totals"].update({name: m["totals"][name] + 1})
        for name in ("samples", "triplets", "media", "frames", "characters", "bytes")
    },
    "bytes of a shard: 2^63": lambda m: m["shards"][0].update(bytes=2**63),
    "samples of a shard: no integer": lambda m: m["shards"][0].update(samples=float(m["shards"][0]["samples"])),
    "totals: relations": lambda m: m["totals"]["relations"].update(random=999),
    "totals: a relation left out": lambda m: m["totals"].update(relations={}),
    "sources: none": lambda m: m["sources"].clear(),
    "sources: one left out": lambda m: m["sources"].pop(),
    "sources: one twice": lambda m: m["sources"].append(m["sources"][0]),
    "sources: out": lambda m: m["sources"][0].update(out=m["sources"][0]["out"] + 1),
    "sources: in": lambda m: m["sources"][0].update({"in": m["sources"][0]["in"] + 1}),
    "sources: merged": lambda m: m["sources"][0].update(merged=7),
    "sources: another name": lambda m: m["sources"][-1].update(name="another"),
    "files: no index": lambda m: m["files"].pop("index.parquet"),
    "files: a name above the folder": lambda m: m["files"].update({"../raw/own/manifest.jsonl": "0" * 64}),
    "files: a device": lambda m: m["files"].update({"/dev/zero": "0" * 64}),
    "files: a folder in it": lambda m: m["files"].update({"a/b": "0" * 64}),
    "files: a hidden name": lambda m: m["files"].update({".hidden": "0" * 64}),
    "files: a shard": lambda m: m["files"].update({m["shards"][0]["name"]: m["shards"][0]["sha256"]}),
    "files: itself": lambda m: m["files"].update({"manifest.json": "0" * 64}),
    "shards: a name above the folder": lambda m: m["shards"][0].update(name="../shard-000.tar"),
    "an unknown field": lambda m: m.update(more=1),
}  # fmt: skip

INDEX: dict[str, Callable[[pa.Table], pa.Table]] = {
    "a row left out": lambda t: t.slice(1),
    "the last row left out": lambda t: t.slice(0, t.num_rows - 1),
    "a row twice": lambda t: pa.concat_tables([t, t.slice(t.num_rows - 1)]),
    "rows in another order": lambda t: t.take([1, 0, *range(2, t.num_rows)]),
    "an offset": unlike("offset", 1, lambda value: value + 512),
    "a size": unlike("size", 0, lambda value: value + 512),
    "places of members": unlike("member_offsets", 2, lambda value: [place + 512 for place in value]),
    "sizes of members": unlike("member_sizes", 2, lambda value: [value[0], *(size - 600 for size in value[1:])]),
    "members left out": both(
        unlike("member_sizes", 1, lambda value: value[:1]), unlike("member_offsets", 1, lambda value: value[:1])
    ),
    "one key twice": both(unlike("key", 0, "one"), unlike("key", 1, "one")),
    "one key in two shards": both(unlike("key", 0, "one"), unlike("key", -1, "one")),
    "a source": unlike("source", 0, "another"),
    "characters": unlike("characters", 0, lambda value: value + 1),
    "frames": unlike("frames", 0, lambda value: value + 1),
    "media": unlike("media", 0, lambda value: value + 1),
    "triplets": unlike("triplets", 0, 0),
    "an empty cell": unlike("id", 0, None),
    "an empty entry of a list": unlike("member_sizes", 0, lambda value: [None, *value[1:]]),
    "a number of 2^62": unlike("offset", 0, 2**62),
    "a column of text": lambda t: t.set_column(4, "offset", t.column("offset").cast(pa.string())),
    "a column of lists": lambda t: t.set_column(0, "shard", pa.array([["a"]] * t.num_rows)),
    "a column left out": lambda t: t.drop_columns(["characters"]),
    "the JSON of others": lambda t: t.append_column("json", pa.array([b"{}"] * t.num_rows)),
}  # fmt: skip


@pytest.mark.parametrize("kind", MANIFEST)
def test_a_manifest_that_does_not_agree_is_reported_and_refused(folder: Path, kind: str) -> None:
    in_manifest(MANIFEST[kind])(folder)
    assert list(verify_folder(folder)), kind
    with pytest.raises(CorruptShardError):
        load(folder)


@pytest.mark.parametrize("kind", INDEX)
def test_an_index_that_does_not_agree_is_reported_and_refused(folder: Path, kind: str) -> None:
    in_table("index.parquet", INDEX[kind])(folder)
    assert "index.parquet" in {finding.file for finding in verify_folder(folder)}, kind
    with pytest.raises(CorruptShardError, match=r"index\.parquet"):
        load(folder)


# Samples: refused when they are read, though every checksum and every count is in order


def changed(place: int, **fields: Any) -> Edit:
    def edit(parts: Shards) -> None:
        parts.shards[0][0].value["media"][place].update(fields)

    return edit


def picture(data: bytes) -> Edit:
    return lambda parts: parts.shards[0][0].put_picture(0, data)


def two_names(parts: Shards) -> None:
    parts.shards.append(parts.shards[0])


def one_key(parts: Shards) -> None:
    parts.shards[1][0] = parts.shards[0][0]


def renamed(parts: Shards) -> None:
    parts.shards[0][0].key = "another-key"


def gap_in_names(parts: Shards) -> None:
    parts.names = [f"shard-{number + (number > 0):03d}.tar" for number in range(len(parts.shards))]


def placeholder(parts: Shards) -> None:
    parts.shards[0][0].value["triplets"][-1]["instruction"] = "a <image> here"


def roles(parts: Shards) -> None:
    parts.shards[0][0].value["triplets"][-1]["role"] = "context"


def order_of_media(parts: Shards) -> None:
    parts.shards[0][0].value["triplets"][-1]["media"] = [7]


def files_of_json(parts: Shards) -> None:
    parts.shards[0][0].files.append(("099.jpg", b"more"))


def no_files(parts: Shards) -> None:
    parts.shards[0][0].files.clear()


def bad_json(parts: Shards) -> None:
    del parts.shards[0][0].value["triplets"][-1]["answer"]


def moments(parts: Shards) -> None:
    entry = next(
        entry for shard in parts.shards for entry in shard for m in entry.value["media"] if m["kind"] == "video"
    )
    video = next(media for media in entry.value["media"] if media["kind"] == "video")
    video["timestamps_s"].pop()


def floats(parts: Shards) -> None:
    for triplet in parts.shards[0][0].value["triplets"]:
        triplet["media"] = [float(number) for number in triplet["media"]]


JPEG = encoded(scene(48, 32), "JPEG")
SAMPLES: dict[str, Edit] = {
    "a shard under two names": two_names,
    "one key in two shards": one_key,
    "a key that is not that of the sample": renamed,
    "a shard that is missing among the names": gap_in_names,
    "a false width": changed(0, width=9),
    "a false height": changed(0, height=9),
    "width and height exchanged": changed(0, width=32, height=48),
    "a width that is no integer": changed(0, width=48.0),
    "media by numbers that are no integers": floats,
    "a file of another name than its number": changed(0, files=["0000.jpg"]),
    "a PNG called JPEG": picture(encoded(scene(48, 32), "PNG")),
    "a JPEG called WebP": lambda parts: parts.shards[0][0].put_picture(0, JPEG, "000.webp"),
    "text for a picture": picture(b"no picture"),
    "nothing for a picture": picture(b""),
    "a GIF for a picture": picture(encoded(scene(48, 32), "GIF")),
    "a cut picture": picture(JPEG[: len(JPEG) // 2]),
    "a picture of zeros after its head": picture(JPEG[:300] + bytes(300)),
    "a placeholder in a question": placeholder,
    "two contexts and no query": roles,
    "media out of order": order_of_media,
    "more files than the JSON names": files_of_json,
    "fewer files than the JSON names": no_files,
    "JSON that breaks its schema": bad_json,
    "fewer timestamps than frames": moments,
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_sample_that_is_not_sound_is_reported_and_refused(sound: Path, tmp_path: Path, kind: str) -> None:
    parts = read_shards(sound)
    SAMPLES[kind](parts)
    folder = parts.write(tmp_path / "shards")
    assert list(verify_folder(folder)), kind
    for check in ("size", "verify"):
        with pytest.raises(CorruptShardError):
            read_all(folder, check)


# What only a look at every byte shows: `verify`, and `load` where it is told to look as closely


def appended(data: bytes) -> Change:
    return lambda folder: replace(folder / "shard-000.tar", (folder / "shard-000.tar").read_bytes() + data)


def sealed(change: Change) -> Change:
    def edit(folder: Path) -> None:
        change(folder)
        data = (folder / "manifest.json").read_bytes()
        replace(folder / "manifest.json", data)
        seal_files(folder)

    return edit


def damaged_header(folder: Path) -> None:
    data = bytearray((folder / "shard-000.tar").read_bytes())
    data[0] ^= 1
    replace(folder / "shard-000.tar", bytes(data))


def extra(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes(b"x") and None


CLOSELY: dict[str, Change] = {
    "content": in_manifest(lambda m: m["shards"][0].update(content="0" * 64)),
    "content of two shards exchanged": in_manifest(
        lambda m: m["shards"][0].update(content=m["shards"][1]["content"])
    ),
    "sha256 of a shard": in_manifest(lambda m: m["shards"][0].update(sha256="0" * 64)),
    "sha256 of a file": in_manifest(lambda m: m["files"].update({"README.md": "0" * 64})),
    "a file that is not there": in_manifest(lambda m: m["files"].update({"more.txt": "0" * 64})),
    "a file left out": in_manifest(lambda m: m["files"].pop("rejects.parquet")),
    "totals: rejects": in_manifest(lambda m: m["totals"].update(rejects=m["totals"]["rejects"] + 1)),
    "input: unused files": in_manifest(lambda m: m["input"].update(unused=99)),
    "sources: rejected": in_manifest(
        lambda m: [source.update({"in": source["in"] + 1, "rejected": {"too_long": 1}}) for source in m["sources"][:1]]
    ),
    "a reject left out": in_table("rejects.parquet", lambda table: table.slice(1)),
    "bytes after the end mark": appended(b"x" * 512),
    "zeros after the end mark": appended(bytes(9216)),
    "bytes after the end mark, sealed": sealed(appended(b"more")),
    "zeros after the end mark, sealed": sealed(appended(bytes(512))),
    "a header of another name, sealed": sealed(damaged_header),
    "a shard that the manifest does not list": extra("shard-999.tar"),
    "a table that the manifest does not list": extra("more.parquet"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CLOSELY)
def test_what_every_byte_shows_is_reported_and_refused_on_demand(folder: Path, kind: str) -> None:
    CLOSELY[kind](folder)
    assert list(verify_folder(folder)), kind
    with pytest.raises(CorruptShardError, match="run mimicit verify"):
        load(folder, check="verify")


def test_whole_shards_are_not_fetched_to_be_verified() -> None:
    with pytest.raises(UsageError, match="copy the folder, or choose 'sha256'"):
        load("https://nowhere.invalid/shards", check="verify")


def test_a_dropped_or_doubled_file_of_a_shard(folder: Path) -> None:
    (folder / "shard-001.tar").unlink()
    assert [(one.file, one.fault[:14]) for one in verify_folder(folder)] == [("shard-001.tar", "cannot be read")]
    with pytest.raises(CorruptShardError, match=r"shard-001\.tar"):
        read_all(folder, "size")
    os.link(folder / "shard-000.tar", folder / "shard-001.tar")
    assert "shard-001.tar" in {one.file for one in verify_folder(folder)}
    with pytest.raises(CorruptShardError, match=r"shard-001\.tar"):
        read_all(folder, "sha256")


def test_a_picture_that_is_listed_a_byte_short(folder: Path) -> None:
    """Its sample takes as many blocks as before, so only its checksum tells."""
    in_table("index.parquet", unlike("member_sizes", 2, lambda value: [value[0], *(size - 1 for size in value[1:])]))(
        folder
    )
    assert "index.parquet" in {finding.file for finding in verify_folder(folder)}
    with pytest.raises(CorruptShardError, match="do not match their sha256"):
        read_all(folder, "sha256")


def test_keys_of_large_folders_are_compared_on_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_MAX_KEYS_HELD", 1)
    path = folder / "index.parquet"
    rows = pq.read_table(path).num_rows
    assert repeated_key(path, rows=rows, within_shards=False) is None
    in_table("index.parquet", INDEX["one key in two shards"])(folder)
    assert repeated_key(path, rows=rows, within_shards=False) == "one"
    assert repeated_key(path, rows=rows, within_shards=True) is None


# FIFOs, devices, sockets, folders and links to them


def put_fifo(path: Path) -> None:
    os.mkfifo(path)


def put_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def put_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(f"/proc/self/fd/{os.open(path.parent, os.O_RDONLY)}/{path.name}")


def put_endless(path: Path) -> None:
    path.symlink_to("/proc/self/pagemap")  # a regular file, of size 0, that never ends


NOT_FILES: dict[str, Callable[[Path], None]] = {
    "a FIFO": put_fifo,
    "a device": put_device,
    "a socket": put_socket,
    "a folder": lambda path: path.mkdir(),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "an endless file of /proc": put_endless,
}


@pytest.mark.parametrize("kind", NOT_FILES)
@pytest.mark.parametrize("name", ["manifest.json", "index.parquet", "shard-001.tar", "rejects.parquet", "README.md"])
def test_what_is_no_file_is_named_and_waits_for_nobody(folder: Path, name: str, kind: str) -> None:
    (folder / name).unlink()
    NOT_FILES[kind](folder / name)
    try:
        assert name in {one.file for one in verify_folder(folder)}
    except ShardError:
        if name != "manifest.json":
            raise
    for check in ("size", "verify"):
        if check == "verify" or name not in ("rejects.parquet", "README.md"):  # which loading does not read
            with pytest.raises(MimicitError, match=name):
                read_all(folder, check)


def test_commands_end_at_a_fifo(folder: Path) -> None:
    for name in ("manifest.json", "shard-000.tar", "rejects.parquet"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    shard = str(folder / "shard-000.tar")
    commands = [["verify", str(folder)], ["verify", shard], ["inspect", str(folder)], ["inspect", shard]]
    for arguments in [*commands, ["rejects", str(folder)], ["compare", str(folder), str(folder)]]:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1, arguments
        assert "FIFO" in result.output or "no such file" in result.output, result.output


def test_regular_files_alone_are_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("a")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"abc"
    with pytest.raises(OSError, match="has 3 bytes, more than 2"):
        read_regular(tmp_path / "a", most=2)
    put_fifo(tmp_path / "fifo")
    for path, words in ((tmp_path / "fifo", "is a FIFO"), (Path("/dev/null"), "is a device"), (tmp_path, "directory")):
        with pytest.raises(OSError, match=words):
            open_regular(path)
