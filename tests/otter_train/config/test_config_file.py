"""Options from a file: the command line wins, slips of the pen are named, and a run's own file starts it again."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import click
import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from click.testing import CliRunner

from mimicit.errors import UsageError
from otter_train.__main__ import main
from otter_train.config.command_line import config_option, read_options, write_options
from otter_train.config.run_config import RunConfig, RunOptions, resolve

KNOWN = {parameter.name for parameter in main.params if parameter.name} - {"config"}
DATA = ("shards", "where", "limit", "on_error")


@click.command()
@config_option()
@click.option("--lr", type=float)
@click.option("--batch-size", type=int, default=4)
@click.option("--resume/--no-resume", default=True)
@click.option("--shards", required=True)
def program(**given: object) -> None:
    click.echo(json.dumps(given))


def ask(path: Path, *arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(program, ["--config", str(path), *arguments])
    assert result.exit_code == 0, result.output
    value: dict[str, object] = json.loads(result.output)
    return value


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('shards = "a/"\nlr = 2e-5\nbatch_size = 16\nresume = false\n')
    assert ask(path) == {"shards": "a/", "lr": 2e-5, "batch_size": 16, "resume": False}
    assert ask(path, "--lr", "1", "--resume") == {"shards": "a/", "lr": 1.0, "batch_size": 16, "resume": True}
    path.write_text('shards = "b/"\n')
    assert ask(path) == {"shards": "b/", "lr": None, "batch_size": 4, "resume": True}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate = 1", "no option 'learning_rate'; there are"),
        ("batchsize = 1", "did you mean batch_size?"),
        ("lr = [1, 2]", "lr: one value is expected"),
        ("[lr]\na = 1", "lr: one value is expected"),
        ("lr = = 1", "neither TOML"),
        ("lr = 1979-05-27", "one value is expected"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    result = CliRunner().invoke(program, ["--config", str(path), "--shards", "x"])
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert "run.toml" in result.output and message in result.output


@pytest.mark.parametrize("name", ["nowhere.toml", "list.json", "broken.json", "latin.toml", "deep.json"])
def test_files_that_hold_no_options(tmp_path: Path, name: str) -> None:
    contents = {"list.json": b"[1]", "broken.json": b'{"a', "latin.toml": b"a = '\xe9'", "deep.json": b"[" * 100_000}
    if name in contents:
        (tmp_path / name).write_bytes(contents[name])
    with pytest.raises(UsageError, match=name):
        read_options(tmp_path / name, ["a"])


@pytest.mark.parametrize("value", ["1.5", "true", '"many"'])
def test_a_value_of_the_wrong_kind_is_refused_as_on_the_command_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f'batch_size = {value}\nshards = "x"\n')
    result = CliRunner().invoke(program, ["--config", str(path)])
    assert result.exit_code == 2 and "--batch-size" in result.output


def test_all_options_of_a_run_come_back_from_its_file(tmp_path: Path) -> None:
    config = resolve("tiny", lr=3e-4, context_order="shuffled", embeddings="new_rows")
    options = RunOptions(workers=3, eval_shards="held-out", resume=False)
    path = tmp_path / "config.json"
    write_options(path, {**asdict(config), **asdict(options), "out": Path("run é"), "shards": None})
    again = read_options(path, KNOWN)
    assert again["out"] == "run é" and "shards" not in again
    context = main.make_context("main", ["--config", str(path), "--shards", "s"])
    given = {name: value for name, value in context.params.items() if name not in ("continue_as", "out", *DATA)}
    assert RunOptions(**{field.name: given.pop(field.name) for field in fields(RunOptions)}) == options
    assert resolve(given.pop("preset"), **given) == config


def test_every_field_of_a_run_is_an_option() -> None:
    names = {field.name for kind in (RunConfig, RunOptions) for field in fields(kind)}
    assert KNOWN - names == {"continue_as", "out", "recipe", "replay", *DATA} and not names - KNOWN


def test_lists_are_for_options_that_may_be_given_several_times(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('shards = ["a=3", "b"]\nwhere = "kind=image"\nlr = [1e-5, 2e-5]\n')
    with pytest.raises(UsageError, match=r"lr: one value is expected, not \[1e-05, 2e-05\]"):
        read_options(path, KNOWN, DATA)
    path.write_text('shards = ["a=3", "b"]\nwhere = "kind=image"\n')
    context = main.make_context("main", ["--config", str(path)])
    assert (context.params["shards"], context.params["where"]) == (("a=3", "b"), ("kind=image",))
    path.write_text('shards = [["a"]]\n')
    with pytest.raises(UsageError, match="shards: texts are expected"):
        read_options(path, KNOWN, DATA)
