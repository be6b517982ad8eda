"""docs/extending.md, followed word by word: the package it describes is installed, and its commands are run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mimicit import load
from mimicit.errors import UsageError
from mimicit.plugins import _found
from mimicit.shards.verify import verify_folder
from otter_train.model.sources import register_added_models
from tests.factories import pages
from tests.factories import raw as make
from tests.factories.killing import forked
from tests.factories.programs import carry_out, programs

ROOT = Path(__file__).parents[1]
BLOCKS = pages.blocks((ROOT / "docs" / "extending.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, its package installed in ``site/``, and the pictures that its records name."""
    folder = tmp_path_factory.mktemp("extending")
    for block in BLOCKS:
        if block.title:
            file = folder / ("site" if block.language == "python" else "") / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
    (folder / "site" / "quiz_format" / "__init__.py").touch()
    install(folder / "site", tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"])
    for number, name in enumerate(("one", "two")):
        (folder / "raw" / f"{name}.jpg").write_bytes(make.picture(number))
    return folder


def install(site: Path, project: dict[str, object]) -> None:
    """What an installer writes of ``project`` beside its modules."""
    info = site / f"{str(project['name']).replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points: dict[str, dict[str, str]] = project["entry-points"]  # type: ignore[assignment]
    lines = [f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in group_points.items())
             for group, group_points in points.items()]  # fmt: skip
    (info / "entry_points.txt").write_text("\n".join(lines))


MODELS = """
import torch
from transformers import AutoModel, AutoModelForCausalLM
from quiz_format.models import QuizConfig, TilesConfig, register
from tests.factories.pretrained import pretrained_folders

register()
torch.manual_seed(0)
AutoModel.from_config(TilesConfig()).save_pretrained("tiles")
shape = dict(model_type="quiz-llama", hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2)
pretrained_folders(__import__("pathlib").Path("made"), shape)
__import__("os").rename("made/language", "quiz-llama")
"""


def make_models(place: Path) -> int:
    """In a fork, which has imported torch already and may register what it likes."""
    sys.path.insert(0, str(place / "site"))
    os.chdir(place)
    exec(MODELS, {})
    return 0


def run(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(place / "site"), str(ROOT)))}
    return subprocess.run(
        [sys.executable, *words], cwd=place, env=environment, capture_output=True, text=True, check=False
    )


def train(place: Path, command: str) -> int:
    """Run a command of the page in a fork, which has imported torch already, and ask for the packages again."""
    sys.path.insert(0, str(place / "site"))
    os.chdir(place)
    for asked in (_found, register_added_models):
        asked.cache_clear()
    code, output = carry_out(command)
    print(output)  # noqa: T201
    return code


def mimicit(place: Path, command: str) -> subprocess.CompletedProcess[str]:
    return run(place, "-m", *command.removeprefix("python -m ").split())


def test_the_package_of_the_page_reads_builds_trains_and_exports(place: Path) -> None:
    programs()  # import torch and transformers here, once for both forks
    import otter_train.training.loop  # noqa: F401

    assert forked(lambda: make_models(place)) == 0
    for block in BLOCKS:
        for step in pages.steps(block.text) if block.language == "console" else ():
            if "otter_train" in step.command:
                assert forked(partial(train, place, step.command)) == 0
                continue
            done = mimicit(place, step.command)
            assert done.returncode == 0, done.stderr
    assert [*verify_folder(place / "shards")] == []
    assert [sample.query.answer for sample in load(place / "shards")] == ["One.", "Two."]
    samples = load(place / "with-context", where={"relation": "same_length"})
    assert [[triplet.relation for triplet in sample.context] for sample in samples] == [["same_length"]] * 2
    assert mimicit(place, "mimicit verify with-context/").stdout == "with-context: sound\n"
    with pytest.raises(UsageError, match="relation: 'of_nobody' is not known"):
        load(place / "with-context", where={"relation": "of_nobody"})
    assert [triplet.relation for sample in load(place / "alike") for triplet in sample.context] == ["image_similar"] * 2
    model = json.loads((place / "run" / "checkpoint-00000002" / "meta.json").read_text())["model"]
    kinds = [model[part]["architecture"]["model_type"] for part in ("vision", "language")]
    assert kinds == ["quiz-tiles", "quiz-llama"]
    (reject,) = pq.read_table(place / "shards" / "rejects.parquet").select(["scope", "reason", "source"]).to_pylist()
    assert reject == {"scope": "record", "reason": "missing_file", "source": "quiz"}
    assert (place / "sheet" / "sheet.txt").read_text().splitlines() == ["How many?\tOne.", "How many?\tTwo."]


@pytest.mark.parametrize(
    ("point", "fault"),
    [
        (
            {"mimicit.sources": {"llava": "quiz_format.source:QUIZ"}},
            "llava of broken 2.0: mimicit has one",
        ),
        ({"mimicit.sources": {"Bad Name": "quiz_format.source:QUIZ"}}, "the name must be"),
        ({"mimicit.sources": {"other": "quiz_format.source:fits"}}, "is a function, not a SourceFormat"),
        ({"mimicit.sources": {"other": "nowhere.at_all:QUIZ"}}, "No module named 'nowhere'"),
        ({"mimicit.sources": {"quiz": "quiz_format.source:OTHER"}}, "has registered this name too"),
    ],
)
def test_a_package_that_does_not_fit_is_named(
    place: Path, tmp_path: Path, point: dict[str, dict[str, str]], fault: str
) -> None:
    install(tmp_path, {"name": "broken", "version": "2.0", "entry-points": point})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(place / "site"), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, "-m", "mimicit", "build", "--src", "raw/", "--out", str(tmp_path / "out")],
        cwd=place, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert fault in done.stderr.replace("\n", " ")
