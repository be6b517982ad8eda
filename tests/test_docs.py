"""The documentation is true: every block of every page runs, every option, message, reason and link in it exists.

A block that cannot run here (it needs a GPU, a cluster, the network, or a person) stands after a comment
``<!-- not run: WHY -->``; its options are checked all the same. What is shown below a command must be in its output.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mimicit.annotating.recipe import read_recipe
from mimicit.cli import main as mimicit
from mimicit.pipeline.mixture import build_config, read_mixture
from tests.factories import pages
from tests.factories import raw as make
from tests.factories.programs import PROGRAMS, carry_out, programs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
MEASURED = {"performance.md", "proof.md", "scaling.md"}  # their commands take hours; only links and options are checked
FOLLOWED = {"extending.md"}  # by a test of its own, with the package that it describes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``raw/`` as the pages describe it, ``shards/`` built from it, and ``run/`` trained on them for two steps."""
    pytest.importorskip("torch", reason="comes with the extra 'train'")
    folder = tmp_path_factory.mktemp("docs")
    own = folder / "raw"
    (own / "images").mkdir(parents=True)
    (own / "clips").mkdir()
    for number, name in enumerate(("cat", "a", "b")):
        (own / "images" / f"{name}.jpg").write_bytes(make.picture(number))
    make.clip(own / "clips" / "walk.mp4")
    (manifest,) = [block for block in pages.blocks((DOCS / "own-data.md").read_text()) if block.language == "json"]
    assert manifest.title == "raw/manifest.jsonl"
    (own / "manifest.jsonl").write_text(manifest.text)
    make.add_llava(folder / "published", "llava")
    make.add_mimicit(folder / "published")
    make.add_sidecars(folder / "published")
    with contextlib.chdir(folder):
        carry_out("mimicit build --src raw/ --out shards/")
        carry_out("python -m otter_train --shards shards/")
    return folder


def write_vision_language_model(folder: Path) -> None:
    """A model of transformers and its processor, as the Hub has them."""
    from tests.factories.vision_language import family

    for part in family("idefics3"):
        part.save_pretrained(folder)


def write_block(block: pages.Block) -> None:
    path = Path(block.title)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text)


def check_toml(block: pages.Block, tmp_path: Path) -> None:
    path = tmp_path / "block.toml"
    path.write_text(block.text)
    if block.title.endswith("mimicit.toml"):
        build_config(read_mixture(path))
        return
    if block.title.endswith("recipe.toml"):
        read_recipe(str(path))
        return
    options = {name.replace("_", "-") for name in tomllib.loads(block.text)}
    known = {option.removeprefix("--") for option in pages.known_options(programs()["otter_train"])}
    assert options <= known, options - known


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its shards open
@pytest.mark.filterwarnings("ignore:.*pin_memory.*")  # trainers ask for it also without a GPU
@pytest.mark.filterwarnings("ignore:.*activation_checkpointing:FutureWarning")  # between TRL and transformers
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in MEASURED | FOLLOWED], ids=lambda page: page.stem
)
def test_every_block_runs_in_order(page: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text()
    work = tmp_path / "work"
    for name in ("raw", "published", "shards", "run", "vlm"):
        used = re.search(rf"(--out )?\b{name}/", text)
        if used and name == "vlm":
            write_vision_language_model(place / name)
        if used and not used[1]:  # what the page makes itself is not there before
            shutil.copytree(place / name, work / name)
    work.mkdir(exist_ok=True)
    if page.name == "study.md":
        from tests.factories.study import write_study

        write_study(work)
    monkeypatch.chdir(work)
    scope: dict[str, Any] = {"__name__": "page"}
    for block in pages.blocks(text):
        if block.why_not_run:
            continue
        if block.title and block.language in ("csv", "toml", "json", "python"):
            write_block(block)
        match block.language:
            case "console":
                for step in pages.steps(block.text):
                    code, output = carry_out(step.command)
                    assert code == step.exit_code, f"{page.name}: $ {step.command}\n{output}"
                    flat = " ".join(output.split())
                    for line in step.shown:
                        assert line in flat, f"{page.name}: $ {step.command}\n{line!r} is not in\n{output}"
            case "python":
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(block.text, f"{page.name}: python block", "exec"), scope)
                for said in re.findall(r"# -> (.+)$", block.text, re.MULTILINE):
                    assert said in printed.getvalue(), f"{page.name}: {said!r} is not in\n{printed.getvalue()}"
            case "toml":
                check_toml(block, tmp_path)
            case "json":
                lines = block.text.splitlines() if block.title.endswith(".jsonl") else [block.text]
                for line in lines:
                    json.loads(line)
            case "csv":
                assert block.title, "a table is for a build that follows"
            case "bash":
                subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
            case language:
                assert language in ("", "text"), f"{page.name}: nobody runs a block of {language!r}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_every_option_exists(page: Path) -> None:
    text = page.read_text()
    known = programs()
    wrong = [each for block in pages.blocks(text) for each in pages.unknown_options(block.text, known)]
    inline = re.findall(r"`([^`\n]+)`", pages.prose(text))
    wrong += [each for words in inline for each in pages.unknown_options(words, known)]
    commands = [*mimicit.commands.values(), *known.values()]
    everywhere = set().union(*(pages.known_options(command) for command in commands))
    if page.name in MEASURED:  # they name options of the programs that measured
        tools = "".join(path.read_text() for path in (ROOT / "tools").glob("*.py"))
        everywhere |= set(re.findall(r'"(--[a-z][a-z0-9-]*)"', tools))
    alone = [match[0] for words in inline if (match := re.match(r"--[a-z][a-z0-9-]*", words))]
    wrong += [option for option in alone if option not in everywhere]
    assert wrong == []
    for block in pages.blocks(text):
        if block.language == "bash":
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        if block.language == "python":
            ast.parse(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_anchors_exist(page: Path) -> None:
    for target in pages.links(page.read_text()):
        if re.match(r"(https?|mailto):", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in pages.anchors(file.read_text()), f"{page.name}: {target}"


def test_every_message_is_one_that_the_code_says() -> None:
    """Headings of the troubleshooting page are messages, with … for what differs each time."""
    said = messages()
    wanted = re.findall(r"^### `(.+)`", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(wanted) > 30
    assert [message for message in wanted if not any(message in text for text in said)] == []


def messages() -> set[str]:
    """Every text in the code, with … for what is filled in."""
    found = set()
    for package in ("mimicit", "otter_train"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = (str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                    found.add("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return found


def test_every_reason_of_a_reject_is_explained() -> None:
    reasons = json.loads((ROOT / "schemas" / "reject.json").read_text())["properties"]["reason"]["enum"]
    explained = re.findall(r"^\| `(\w+)` \|", (DOCS / "rejects.md").read_text(), re.MULTILINE)
    assert explained == sorted(reasons)
    code = "".join(path.read_text() for path in (ROOT / "mimicit").rglob("*.py"))
    assert [reason for reason in reasons if f'"{reason}"' not in code] == []


def test_every_format_is_described() -> None:
    from mimicit.sources.registry import SOURCES

    listed = re.findall(r"^\| `(\w[\w-]*)` \|", (DOCS / "formats.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(SOURCES)


def test_every_command_is_described() -> None:
    text = (DOCS / "command-line.md").read_text()
    for name in mimicit.commands:
        assert f"mimicit {name}" in text
    for name in PROGRAMS:
        assert f"otter_train.{name}" in text


def test_every_extra_that_a_message_names_exists() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = {name for text in messages() for name in re.findall(r"mimicit\[(\w+)\]", text)}
    named |= {name for page in PAGES for name in re.findall(r"(?:mimicit|\.)\[([\w,]+)\]'", page.read_text())}
    assert {one for name in named for one in name.split(",")} <= extras


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_for_nothing_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="comes with the extra 'docs'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    built = sorted((tmp_path / "site").rglob("*.html"))
    assert {page.stem for page in PAGES} <= {path.stem for path in built}
    for path in built:
        text = path.read_text()
        loaded = re.findall(r'<(?:script|img|iframe|source|video)[^>]* src="?(https?:[^" >]+)', text)
        loaded += re.findall(r'<link[^>]* href="?(https?:[^" >]+)', text)
        assert loaded == [], path.name
