"""The command line for those who mistype: the nearest command, option and path, and commands by task."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from mimicit.cli import main
from mimicit.commands.groups import nearest_path
from mimicit.errors import ShardError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which holds an empty ``shards/shard-000.tar``."""
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "shard-000.tar").touch()
    (tmp_path / "raw").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_help_shows_every_command_once_as_an_example_of_itself() -> None:
    lines = [line.strip() for line in run("--help").output.splitlines()]
    for name, command in main.commands.items():
        (example,) = [line for line in lines if line.startswith(f"mimicit {name} ")]
        words = example.split("  ")[0].split()
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
        command.make_context(name, words[2:], resilient_parsing=True)
    assert "Exit codes: 0 fine" in " ".join(lines)


def test_a_command_of_no_task_is_listed_too() -> None:
    @click.command(name="newest", help="Does something new.")
    def newest() -> None: ...

    main.add_command(newest)
    try:
        assert "Others:" in run("--help").output and "Does something new." in run("--help").output
    finally:
        del main.commands["newest"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["biuld"], 2, "no command 'biuld'; did you mean build?"),
        (["zzz"], 2, "no command 'zzz'"),
        (["build", "--src", "raw", "--out", "x", "--shot", "1"], 2, "--shots"),
        (["build", "--src", "rwa/", "--out", "x"], 1, "mimicit: rwa/: no such folder; did you mean raw?"),
        (["build", "--src", "zzz", "--out", "x"], 1, "no such folder; give --src the folder that holds the raw data"),
        (["inspect", "shrads"], 1, "mimicit: shrads: no such file or folder; did you mean shards?"),
        (["verify", "shrads/shard-000.tar"], 1, "no such file or folder; did you mean shards/shard-000.tar?"),
        (["verify", "shards/shard-00.tar"], 1, "did you mean shards/shard-000.tar?"),
        (["verify", "x" * 5000], 1, "no such file or folder"),
        (["compare", "shards", "shard"], 1, "shard: no such file or folder; did you mean shards?"),
    ],
)
def test_what_is_mistyped_is_suggested(place: Path, arguments: list[str], code: int, message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert message in result.stderr


def test_what_is_piped_has_no_colours(place: Path) -> None:
    for arguments in (["--help"], ["build", "--help"], ["inspect", "shrads"], ["build", "--src", "rwa", "--out", "x"]):
        result = CliRunner().invoke(main, arguments, env={"FORCE_COLOR": None})
        assert "\x1b" not in result.output


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30), max_size=4))
def test_no_path_is_too_strange_to_be_missing(parts: list[str]) -> None:
    hint = nearest_path(Path("/no-such-root", *parts))
    assert hint == "" or hint.startswith("; did you mean ")


@pytest.mark.parametrize(
    ("words", "last", "found"),
    [([], "ins", "inspect"), (["build"], "--ret", "--retry-rejects"), (["build", "--engine"], "r", "ray")],
)
def test_a_shell_completes_commands_options_and_choices(words: list[str], last: str, found: str) -> None:
    completion = BashComplete(main, {}, "mimicit", "_MIMICIT_COMPLETE")
    assert found in [item.value for item in completion.get_completions(words, last)]


def test_completion_of_a_shell_survives_a_missing_path(place: Path) -> None:
    context = main.commands["export"].make_context("export", ["nowhere"], resilient_parsing=True)
    assert context.params["path"] is None
    with pytest.raises(ShardError):
        main.commands["export"].make_context("export", ["nowhere", "--to", "files", "--out", "x"])
