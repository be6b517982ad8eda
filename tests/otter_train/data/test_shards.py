"""Several folders on the command line, conditions, limits and damaged samples, as the log of a run shows them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from click.testing import CliRunner, Result

from mimicit.errors import ShardError, UsageError
from mimicit.loading import Mixture, Where, load
from otter_train.__main__ import main
from otter_train.checkpoint.files import latest_checkpoint
from otter_train.config.command_line import SOURCES_NAME
from otter_train.data.shards import absolute_shards, open_shards, parse_shards, parse_where
from otter_train.model import PRESETS
from otter_train.reporting.metrics import SourceRow, read_table
from tests.factories.loading import small_shards
from tests.factories.ranks import on_ranks
from tests.factories.servers import range_server
from tests.factories.train import MINUTE_MODEL


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    small_shards(folder / "a", 24, name="a")
    small_shards(folder / "b", 8, name="b")
    return folder


def train(place: Path, *arguments: object, out: str = "run") -> Result:
    fast = ("--preset", "tiny", "--batch-size", 4, "--log-every", 1, "--device", "cpu", "--save-every", 7)
    words = [*map(str, arguments), "--out", str(place / out), *map(str, fast)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", MINUTE_MODEL)
        return CliRunner().invoke(main, words)


def shares(run: Path) -> Counter[str]:
    """How many samples of each source were trained on."""
    counts: Counter[str] = Counter()
    for row in read_table(SourceRow, run / SOURCES_NAME):
        counts[row.source] += row.samples
    return counts


def test_two_folders_get_exactly_their_shares_and_resume_exactly(place: Path) -> None:
    folders = ["--shards", f"{place}/a/shards=3", "--shards", f"{place}/b/shards"]
    whole = train(place, *folders, "--max-steps", 16, out="whole")
    assert whole.exit_code == 0, whole.output
    assert shares(place / "whole") == {"a": 48, "b": 16}
    stopped = train(place, *folders, "--max-steps", 16, out="resumed")
    assert stopped.exit_code == 0, stopped.output
    checkpoints = sorted((place / "resumed").glob("checkpoint-*"))
    for checkpoint in checkpoints[2:]:  # as if it had been killed after step 14
        shutil.rmtree(checkpoint)
    again = train(place, *folders, "--max-steps", 16, out="resumed")
    assert "(step 14 of 16)" in again.output
    tables = [read_table(SourceRow, place / name / SOURCES_NAME) for name in ("resumed", "whole")]
    assert tables[0] == tables[1]
    other = train(place, *folders[:-1], f"{place}/b/shards=2", "--max-steps", 16, out="resumed")
    assert other.exit_code == 2 and "was begun with other shards than these" in other.output


def _rank(rank: int, place: Path, arguments: list[str]) -> None:
    result = train(place, *arguments, out="two")
    assert result.exit_code == 0, result.output


def test_two_processes_and_a_folder_behind_http_see_the_same(place: Path) -> None:
    with range_server(place / "b") as server:
        arguments = ["--shards", f"{place}/a/shards=3", "--shards", f"{server.url}/shards=1", "--max-steps", "16"]
        one = train(place, *arguments, out="http")
        assert one.exit_code == 0, one.output
        on_ranks(2, _rank, place, arguments)
    assert shares(place / "http") == shares(place / "two") == {"a": 48, "b": 16}


def test_folders_without_weights_are_shown_whole_once(place: Path) -> None:
    samples = open_shards([f"{place}/a/shards", f"{place}/b/shards"])
    assert isinstance(samples, Mixture) and samples.weights == (24, 8)
    seen = Counter(samples.get(position).id for position in range(32))  # type: ignore[union-attr]
    assert len(seen) == 32


def test_conditions_and_limits(place: Path) -> None:
    folder = str(place / "a" / "shards")
    longest = sorted(sum(len(one.instruction) + len(one.answer) for one in sample.triplets) for sample in load(folder))[
        15
    ]
    where = [f"max_characters={longest}", "kind=image"]
    fitting = {sample.id for sample in load(folder, where={"max_characters": longest})}
    assert 5 < len(fitting) < 24

    def drawn(seed: int) -> set[str]:
        samples = open_shards([folder], where=where, limit=5, seed=seed)
        assert len(samples) == 5
        return {samples.get(position).id for position in range(5)}  # type: ignore[union-attr]

    assert drawn(3) == drawn(3) <= fitting and drawn(3) != drawn(4)


def test_a_damaged_sample_is_left_out_and_written_down(place: Path) -> None:
    folder = small_shards(place / "damaged", 8, name="damaged")
    shard = folder / "shard-000.tar"
    data = bytearray(shard.read_bytes())
    place_of_json = data.index(b'{"format"')
    data[place_of_json] = ord("x")
    shard.write_bytes(data)
    arguments = ["--shards", folder, "--max-steps", 2]
    refused = train(place, *arguments, out="refused")
    assert refused.exit_code == 1 and "shard-000.tar" in refused.output
    result = train(place, *arguments, "--on-error", "mask", out="masked")
    assert result.exit_code == 0, result.output
    assert shares(place / "masked") == {"damaged": 7}
    [line] = (place / "masked" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["shard"].endswith("shard-000.tar")


def test_the_file_of_a_run_gives_its_folders_and_conditions_again(place: Path) -> None:
    given = ["--shards", f"{place}/a/shards=3", "--shards", f"{place}/b/shards", "--where", "kind=image", "--limit", 6]
    assert train(place, *given, "--max-steps", 1, out="first").exit_code == 0
    again = train(place, "--config", place / "first" / "config.json", out="second")
    assert again.exit_code == 0, again.output
    first, second = (json.loads((place / name / "config.json").read_text()) for name in ("first", "second"))
    assert first["shards"] == second["shards"] == [f"{place}/a/shards=3", f"{place}/b/shards"]
    assert (second["where"], second["limit"]) == (["kind=image"], 6)
    checkpoints = [latest_checkpoint(place / name) for name in ("first", "second")]
    assert all(checkpoints) and len({json.dumps(one.meta["loader"]) for one in checkpoints if one}) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shards/", ("shards/", None)),
        ("shards/=2", ("shards/", 2.0)),
        ("http://host/s=0.5", ("http://host/s", 0.5)),
        ("http://host/s?x=1", ("http://host/s?x=1", None)),
        ("a=b", ("a=b", None)),
        ("a=b=3", ("a=b", 3.0)),
    ],
)
def test_what_is_a_weight(text: str, expected: tuple[str, float | None]) -> None:
    assert parse_shards([text]) == [expected]


def test_a_folder_with_an_equals_sign_in_its_name_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=3").mkdir()
    assert parse_shards(["lr=3"]) == [("lr=3", None)]
    assert parse_shards(["lr=3=0.5"]) == [("lr=3", 0.5)]
    assert absolute_shards(["lr=3"]) == [f"{tmp_path}/lr=3"]
    with pytest.raises(UsageError, match="--shards lr=3=half: the weight is a number above 0, not 'half'"):
        parse_shards(["lr=3=half"])
    assert absolute_shards(["lr=3=0.5", "http://host/s=2"]) == [f"{tmp_path}/lr=3=0.5", "http://host/s=2"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a=0"], "the weight is a number above 0"),
        (["a=-1"], "the weight is a number above 0"),
        (["a=inf"], "the weight is a number above 0"),
        (["a=nan"], "the weight is a number above 0"),
        (["a", "a/"], "a is given twice"),
        (["a=1", "a=2"], "a is given twice"),
    ],
)
def test_weights_that_are_none_and_folders_given_twice(given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_shards(given)


def test_conditions_by_name() -> None:
    assert parse_where([]) is None
    assert parse_where(["source=a", "source=b", "max_media=2"]) == Where(source=["a", "b"], max_media=2)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("sorce=a", "did you mean source"),
        ("source", "write NAME=VALUE"),
        ("max_media=two", "max_media is a whole number"),
        ("kind=sound", "kind"),
    ],
)
def test_conditions_that_are_none_are_refused(condition: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_where([condition])


def test_a_folder_that_is_none_is_named(place: Path) -> None:
    with pytest.raises(ShardError, match="nowhere"):
        open_shards([f"{place}/a/shards", "nowhere=2"])
