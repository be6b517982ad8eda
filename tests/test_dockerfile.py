"""The Dockerfile, read where no Docker runs: what it copies is sent, what it runs exists, and it asks nobody else."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions() -> list[tuple[str, str]]:
    """(name, rest) of each instruction, lines that go on joined."""
    text = "\n".join(
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")
    )
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def sent() -> list[str]:
    """What .dockerignore lets through of the folder."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*", "nothing is sent but what is named"
    return [rule[1:] for rule in rules if rule.startswith("!")]


def test_it_takes_python_images_and_the_package_index_and_nothing_else() -> None:
    bases = [rest for name, rest in instructions() if name == "FROM"]
    assert len(bases) == 2 and all(base.startswith("python:${PYTHON}-slim") for base in bases)
    asked = " ".join(rest for name, rest in instructions() if name in ("RUN", "COPY", "ADD"))
    for word in ("://", "apt", "curl", "wget", "git ", "--index-url", "--extra-index-url"):
        assert word not in asked
    assert not [name for name, _ in instructions() if name == "ADD"]
    (python,) = [rest for name, rest in instructions() if rest.startswith("PYTHON=")]
    assert f"Programming Language :: Python :: {python.partition('=')[2]}" in PROJECT["project"]["classifiers"]


def test_everything_that_the_wheel_is_made_of_is_sent() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = PROJECT["project"]
    needed = {*wheel["packages"], *wheel["force-include"], *project["license-files"], project["readme"]}
    needed |= {"pyproject.toml", "constraints.txt"}
    assert needed == set(sent())
    assert all((ROOT / name).exists() for name in needed)
    mounted = re.findall(r"type=bind,source=([\w.]+)", " ".join(rest for _, rest in instructions()))
    assert mounted and set(mounted) <= needed


def test_what_it_runs_is_a_program_of_ours_and_its_extras_exist() -> None:
    (entry,) = [json.loads(rest) for name, rest in instructions() if name == "ENTRYPOINT"]
    assert set(entry) <= PROJECT["project"]["scripts"].keys()
    (extras,) = [rest.partition("=")[2] for name, rest in instructions() if rest.startswith("EXTRAS=")]
    assert set(extras.split(",")) <= PROJECT["project"]["optional-dependencies"].keys()
    assert [rest for name, rest in instructions() if name == "USER"] == ["mimicit"], "it does not run as root"


EXAMPLES: Final = re.findall(r"^#   (docker .*?)(?:  .*)?$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", EXAMPLES)
def test_its_examples_name_what_there_is(line: str) -> None:
    for extras in re.findall(r"EXTRAS=([\w,]+)", line):
        assert set(extras.split(",")) <= PROJECT["project"]["optional-dependencies"].keys()
    for module in re.findall(r"-m (\w+)", line):
        assert (ROOT / module / "__main__.py").is_file()
