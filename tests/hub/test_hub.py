"""Shards to the Hub and back, against a local server that speaks its protocol, by processes as people start them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from mimicit.cli import main
from mimicit.inspecting.summary import iterate_samples
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.remote_files import HubPlace, hub_place
from mimicit.shards.verify import verify_folder
from tests.factories import pages
from tests.factories import raw as make
from tests.factories.engines import InProcess
from tests.factories.exporting import meaning
from tests.factories.hub import Hub, hub_server

pytest.importorskip("datasets", reason="comes with the extra 'hub'")

ROOT = Path(__file__).parents[2]
REPO = "me/mine"
PLACE = f"hf://datasets/{REPO}"
TABLE = "data/train-00000-of-00001.parquet"


ANSWERING = """
import contextlib, io, json, os, sys, traceback
from click.testing import CliRunner
from mimicit.cli import main
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    asked = json.loads(line)
    before = {name: os.environ.get(name) for name in asked["environment"]}
    os.environ.update(asked["environment"])
    if "code" in asked:
        try:
            exec(asked["code"], {})
            answer = [0, ""]
        except Exception:
            answer = [1, traceback.format_exc()]
    else:
        done = CliRunner().invoke(main, asked["command"])
        trace = "".join(traceback.format_exception(done.exception)) if done.exception else ""
        answer = [done.exit_code, done.output + trace * ("SystemExit" not in trace)]
    os.environ.update({name: value for name, value in before.items() if value is not None})
    print(json.dumps(answer), file=answers, flush=True)
"""


class Person:
    """A process for which the server is the Hub, and which carries out commands and code one after the other.

    One for all tests: importing the libraries takes longer than most of what they do.
    """

    def __init__(self, hub: Hub, home: Path) -> None:
        self.hub, self.home = hub, home
        self._process = self.start("-c", ANSWERING, stdin=subprocess.PIPE)

    def start(self, *arguments: str, stdin: int | None = None) -> subprocess.Popen[str]:
        """Another process of the same person."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self.hub.environment(self.home)}
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def mimicit(self, *command: str | Path, code: int = 0, **environment: str) -> str:
        """The output of a command, which exits with ``code``."""
        found, said = self._answer({"command": list(map(str, command)), "environment": environment})
        assert found == code, said
        return said

    def python(self, code: str) -> None:
        """Run ``code``, which raises where something is not as it should be."""
        found, said = self._answer({"code": code, "environment": {}})
        assert found == 0, said

    def _answer(self, asked: dict[str, Any]) -> tuple[int, str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        code, said = json.loads(self._process.stdout.readline())
        return code, said

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    with hub_server() as server:
        person = Person(server, tmp_path_factory.mktemp("home"))
        yield person
        person.close()


@pytest.fixture
def hub(person: Person) -> Hub:
    """The server, with nothing on it."""
    hub = person.hub
    hub.dies = lambda method, path: False
    for all_of_it in (hub.repositories, hub.objects, hub.requests):
        all_of_it.clear()
    return hub


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 samples of four sources, with pictures and clips, in eleven shards."""
    folder = tmp_path_factory.mktemp("shards")
    build_shards(make.make_raw(folder / "raw"), folder / "shards", BuildConfig(shard_samples=4), engine=InProcess())
    return folder / "shards"


def samples_in(folder: Path) -> list[dict[str, Any]]:
    return sorted((meaning(sample) for _, sample in iterate_samples(folder)), key=lambda value: str(value["id"]))


def card_of(hub: Hub) -> tuple[dict[str, Any], str]:
    _, fields, text = hub.files(REPO)["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(fields), text


def test_tables_go_there_and_come_back(person: Person, hub: Hub, shards: Path, tmp_path: Path) -> None:
    said = person.mimicit("export", shards, "--to", "hub", "--out", PLACE)
    assert "41 samples as 1 files (parquet), 1 of them sent now" in said
    assert sorted(hub.files(REPO)) == [".gitattributes", "README.md", "contact-sheet.jpg", TABLE]
    fields, text = card_of(hub)
    assert fields["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
    ]
    assert fields["size_categories"] == ["n<1K"]
    assert {"image-text-to-text", "video-text-to-text"} <= set(fields["task_categories"])
    assert fields["dataset_info"]["splits"][0]["num_examples"] == 41
    assert {"name": "media", "list": "image"} in fields["dataset_info"]["features"]
    assert 'load_dataset("me/mine", split="train")' in text

    code = f"""
import datasets, mimicit
rows = datasets.load_dataset({REPO!r}, split="train")
own = mimicit.to_datasets({str(shards)!r})
assert rows.features == own.features, rows.features
assert [row["id"] for row in rows] == [row["id"] for row in own]
assert rows[0]["media"][0].tobytes() == own[0]["media"][0].tobytes()
streamed = datasets.load_dataset({REPO!r}, split="train", streaming=True)
assert next(iter(streamed))["media"][0].size == rows[0]["media"][0].size
"""
    person.python(code)

    sent, commits = hub.uploads(), list(hub.repositories[REPO].titles)
    assert "0 of them sent now" in person.mimicit("export", shards, "--to", "hub", "--out", PLACE)
    assert (hub.uploads(), hub.repositories[REPO].titles) == (sent, commits)

    built = ["--context", "related", "--size", "0", "--workers", "1"]
    said = person.mimicit("build", "--src", PLACE, "--out", tmp_path / "again", "--strict", *built)
    commit = hub.repositories[REPO].branches["main"]
    assert f"{PLACE}: at commit {commit}" in said
    manifest = json.loads((tmp_path / "again" / "manifest.json").read_bytes())
    assert manifest["input"]["origin"] == {"url": PLACE, "commit": commit}
    assert samples_in(tmp_path / "again") == samples_in(shards)


def test_what_datasets_pushes_stands_alone(person: Person, hub: Hub, shards: Path) -> None:
    person.python(f"""
import datasets, mimicit
own = mimicit.to_datasets({str(shards)!r})
own.push_to_hub({REPO!r})
mimicit.to_datasets({str(shards)!r}, streaming=True).push_to_hub("me/streamed", num_shards=2)
for repo in ({REPO!r}, "me/streamed"):
    rows = datasets.load_dataset(repo, split="train")
    assert rows.features == own.features
    assert [row["id"] for row in rows] == [row["id"] for row in own]
    raw = rows.cast_column("media", datasets.List(datasets.Image(decode=False)))
    assert all(picture["bytes"] for row in raw for picture in row["media"])
""")


def test_shards_go_there_as_they_are(person: Person, hub: Hub, shards: Path, tmp_path: Path) -> None:
    person.mimicit("export", shards, "--to", "hub", "--out", PLACE, "--as", "shards", "--private")
    assert hub.repositories[REPO].private
    there = hub.files(REPO)
    for path in shards.iterdir():
        assert path.name in ("README.md", "manifest.json") or there[path.name] == path.read_bytes()
    assert card_of(hub)[0]["configs"][0]["data_files"] == [{"split": "train", "path": "shard-*.tar"}]
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, data in there.items():
        if not name.startswith("."):
            (copy / name).write_bytes(data)
    assert list(verify_folder(copy)) == []

    code = f"""
import mimicit
samples = mimicit.load({PLACE!r}, shuffle="full", seed=1)
own = mimicit.load({str(shards)!r}, shuffle="full", seed=1)
assert list(samples) == list(own)
stream = mimicit.to_datasets(samples, streaming=True)
assert [row["id"] for row in stream] == [sample.id for sample in own]
assert len(mimicit.to_datasets(samples)[0]["media"]) == len(own[0].media)
"""
    person.python(code)

    built = ["--context", "related", "--size", "0", "--workers", "1"]
    person.mimicit("build", "--src", PLACE, "--out", tmp_path / "again", "--strict", *built)
    assert samples_in(tmp_path / "again") == samples_in(shards)


@pytest.mark.parametrize("layout", ["parquet", "shards"])
def test_a_push_that_was_killed_sends_nothing_twice(
    person: Person, hub: Hub, shards: Path, tmp_path: Path, layout: str
) -> None:
    process: subprocess.Popen[str]
    push = f"import pathlib; from mimicit.hub.push import push_to_hub; push_to_hub(pathlib.Path({str(shards)!r}),"
    push += f" {PLACE!r}, layout={layout!r}, part_bytes=65_536)"

    def dies(method: str, path: str) -> bool:
        if method == "PUT" and len(hub.objects) >= 3:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        return False

    hub.dies = dies
    process = person.start("-c", push)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    arrived = set(hub.objects)
    assert len(arrived) >= 3
    assert set(hub.files(REPO)) == {".gitattributes"}  # nothing shows before all is there
    before = len(hub.uploads())
    hub.dies = lambda method, path: False
    person.python(push)
    again = {path.removeprefix("/lfs/") for path in hub.uploads()[before:]}
    assert again and not again & arrived
    assert hub.repositories[REPO].titles[1:] == [f"mimicit export: 41 samples as {layout}"]
    names = [name for name in hub.files(REPO) if name.endswith((".tar", ".parquet"))]
    assert len(names) == (14 if layout == "shards" else 5)


def test_another_export_replaces_the_former_and_nothing_else(
    person: Person, hub: Hub, shards: Path, tmp_path: Path
) -> None:
    own = b"---\nlicense: cc-by-4.0\nlanguage: [de]\ntags: [mimicit]\n---\n\n# Mine\n\nMy own words.\n"
    hub.put(REPO, {"README.md": own, "notes/more.txt": b"kept", "data/train-00000-of-00009.parquet": b"former"})
    person.mimicit("export", shards, "--to", "hub", "--out", f"{PLACE}@next")
    assert hub.files(REPO)["README.md"] == own
    there = hub.files(REPO, "next")
    assert sorted(there) == ["README.md", "contact-sheet.jpg", TABLE, "notes/more.txt"]
    _, fields, text = there["README.md"].decode().split("---\n", 2)
    assert "My own words." in text and "in-context samples" not in text
    said = yaml.safe_load(fields)
    assert (said["license"], said["language"]) == ("cc-by-4.0", ["de"])
    assert said["dataset_info"]["splits"][0]["num_examples"] == 41


def test_files_of_others_are_never_replaced(person: Person, hub: Hub, shards: Path) -> None:
    there = {"README.md": b"---\nlicense: mit\n---\n", "data/train-00000-of-00001.parquet": b"of another tool"}
    hub.put(REPO, there)
    said = person.mimicit("export", shards, "--to", "hub", "--out", PLACE, code=1)
    assert "holds data/train-00000-of-00001.parquet, which no mimicit export put there" in said
    assert hub.files(REPO) == there and not hub.uploads()


def test_a_build_reads_one_commit_however_the_branch_moves(person: Person, hub: Hub, tmp_path: Path) -> None:
    def files(word: str) -> dict[str, bytes]:
        rows = [{"file_name": f"{n}.jpg", "text": f"{word} {n}"} for n in range(3)]
        pictures = {f"train/{n}.jpg": make.picture(n) for n in range(3)}
        return {**pictures, "train/metadata.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}

    first = hub.put(REPO, files("first"))

    def moves(method: str, path: str) -> bool:
        if "/resolve/" in path and len(hub.repositories[REPO].commits) == 1:
            hub.put(REPO, files("second"))
        return False

    hub.dies = moves
    person.mimicit("build", "--src", f"{PLACE}/train", "--out", tmp_path / "out", "--workers", "1")
    answers = {value["triplets"][-1]["answer"] for value in samples_in(tmp_path / "out")}
    assert answers == {"first 0", "first 1", "first 2"}
    asked = len(hub.requests)
    at = f"{PLACE}@{first}/train"
    person.mimicit("build", "--src", at, "--out", tmp_path / "pinned", "--workers", "1")
    assert samples_in(tmp_path / "pinned") == samples_in(tmp_path / "out")
    person.mimicit("build", "--src", f"{PLACE}/train", "--out", tmp_path / "out", "--workers", "1", "--overwrite")
    assert {value["triplets"][-1]["answer"] for value in samples_in(tmp_path / "out")} >= {"second 0"}
    fetched = [path for method, path in hub.requests[asked:] if method == "GET" and path.endswith(".jpg")]
    assert len(fetched) == 3  # of the pinned build; those of the other had come already, and are the same


def test_what_the_hub_refuses_is_one_line(person: Person, hub: Hub, shards: Path, tmp_path: Path) -> None:
    said = person.mimicit("export", shards, "--to", "hub", "--out", PLACE, code=1, HF_TOKEN="wrong")
    assert "401" in said and "hf auth login" in said and "Traceback" not in said
    said = person.mimicit("build", "--src", PLACE, "--out", tmp_path / "x", code=2)
    assert f"{PLACE}: no such data set, or a private one" in said
    hub.put(REPO, {"a.txt": b"x"})
    said = person.mimicit("build", "--src", f"{PLACE}@v9", "--out", tmp_path / "x", code=2)
    assert "me/mine has no revision 'v9'" in said


def test_the_commands_of_the_page_run(person: Person, hub: Hub, shards: Path, tmp_path: Path) -> None:
    """Those that talk to the Hub, from the last block to the first, for what they read must be there."""
    page = (ROOT / "docs" / "datasets.md").read_text()
    blocks = [block for block in pages.blocks(page) if block.why_not_run]
    assert len(blocks) == 2
    places = {"shards/": shards, "shards-hub/": tmp_path / "a", "shards-part/": tmp_path / "b"}
    for block in reversed(blocks):
        for step in pages.steps(block.text):
            program, *words = step.command.replace("ORG/NAME", REPO).split()
            assert program == "mimicit"
            person.mimicit(*(places.get(word, word) for word in words))
    assert samples_in(tmp_path / "b") and len(samples_in(tmp_path / "a")) == 41


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "hub", "--out", "folder"], "--to hub goes with hf://datasets/ORG/NAME"),
        (["--to", "files", "--out", PLACE], "--to hub goes with hf://datasets/ORG/NAME"),
        (["--to", "hub", "--out", "hf://models/me/mine"], "is no data set of the Hub"),
        (["--to", "hub", "--out", f"{PLACE}/sub"], "give the data set alone"),
        (["--to", "files", "--out", "x", "--private"], "--as and --private go with --to hub"),
    ],
)
def test_options_that_do_not_go_together(shards: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["export", str(shards), *arguments])
    assert done.exit_code == 2 and message in done.output


def test_a_build_does_not_write_to_the_hub_file_by_file(shards: Path) -> None:
    done = CliRunner().invoke(main, ["build", "--src", str(shards), "--out", PLACE])
    assert done.exit_code == 2 and "mimicit export --to hub" in done.output


def test_places_on_the_hub() -> None:
    assert hub_place("hf://datasets/a/b") == HubPlace("a/b", None, "")
    assert hub_place("hf://datasets/a/b@refs/pr/3/data/x") == HubPlace("a/b", "refs/pr/3", "data/x")
    assert hub_place("hf://datasets/a/b@refs%2Fconvert%2Fparquet/") == HubPlace("a/b", "refs/convert/parquet", "")
    assert hub_place("hf://datasets/a/b@v1/data").at("c0ffee") == "hf://datasets/a/b@c0ffee/data"
