"""The shape of the project: who may import whom, the public names, and what must never be loaded."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mimicit

ROOT = Path(__file__).parents[1]

# Layers from the top down; a module imports from its own layer and from those below. Modules of one layer that do not
# share a package must not import each other, except those listed in BESIDE.
LAYERS = (
    {"mimicit.__main__"},
    {"mimicit.cli"},
    {"mimicit.commands"},
    {"mimicit.hub"},
    {"mimicit.pipeline", "mimicit.loading", "mimicit.inspecting", "mimicit.exporting"}
    | {"mimicit.annotating", "mimicit.viewing"},
    {"mimicit.shards", "mimicit.context", "mimicit.embedding", "mimicit.sources", "mimicit.media"},
    {"mimicit.placeholders", "mimicit.sample_table"},
    {"mimicit.prompt", "mimicit.schema"},
    {"mimicit.records"},
    {"mimicit.notebook", "mimicit.web"},
    {"mimicit.interrupts", "mimicit.options", "mimicit.plugins", "mimicit.progress", "mimicit.worker"},
    {"mimicit.errors"},
)
BESIDE = {
    ("mimicit.pipeline", "mimicit.loading"),
    ("mimicit.exporting", "mimicit.inspecting"),
    ("mimicit.inspecting", "mimicit.loading"),
    ("mimicit.viewing", "mimicit.inspecting"),
    ("mimicit.viewing", "mimicit.loading"),
    ("mimicit.shards", "mimicit.media"),
    ("mimicit.sources", "mimicit.media"),
}

# The same of the trainer: a package imports from those below alone.
TRAINER_LAYERS = (
    {"otter_train.__main__", "otter_train.chat", "otter_train.convert", "otter_train.evaluate"}
    | {"otter_train.generate", "otter_train.serve"},
    {"otter_train.evaluation", "otter_train.serving", "otter_train.training"},
    {"otter_train.inference", "otter_train.reporting"},
    {"otter_train.assembly"},
    {"otter_train.conversion"},
    {"otter_train.checkpoint", "otter_train.pretrained"},
    {"otter_train.data"},
    {"otter_train.distributed"},
    {"otter_train.model"},
    {"otter_train.config"},
)


def modules(package: str) -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache  # to parse all files takes a second, and half of the tests ask for their imports
def import_statements(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """The statements, also those inside functions."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return tuple(node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))


def imports(path: Path) -> set[str]:
    """Every module that ``path`` imports by absolute name, also inside functions."""
    found = set()
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def layer(module: str) -> tuple[int, str]:
    part = ".".join(module.split(".")[:2])
    for depth, names in enumerate(TRAINER_LAYERS if module.startswith("otter_train") else LAYERS):
        if part in names:
            return depth, part
    raise AssertionError(f"{module} belongs to no layer; add it to LAYERS")


@pytest.mark.parametrize("package", ["mimicit", "otter_train"])
def test_imports_point_down(package: str) -> None:
    wrong = []
    for module, path in modules(package).items():
        if module == package:
            continue
        depth, part = layer(module)
        for target in imports(path):
            if not target.startswith(f"{package}."):
                assert package == "otter_train" or target.split(".")[0] != "otter_train", f"{module} imports {target}"
                continue
            below, other = layer(target)
            if below < depth or (below == depth and other != part and (part, other) not in BESIDE):
                wrong.append(f"{module} -> {target}")
    assert wrong == []


def test_no_module_imports_one_that_imports_it() -> None:
    for package in ("mimicit", "otter_train"):
        known = modules(package)
        needs = {module: _modules_imported(path, known) - {module} for module, path in known.items()}
        TopologicalSorter(needs).prepare()  # raises CycleError, with the cycle


def _modules_imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Every one of the ``known`` modules that ``path`` imports: ``from a import b`` is of ``a.b`` where that is one."""
    found = set()
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known.keys() or {node.module}
    return found & known.keys()


def test_otter_train_uses_only_what_it_may() -> None:
    allowed = {
        "mimicit.embedding",
        "mimicit.placeholders",
        "mimicit.loading",
        "mimicit.shards",
        "mimicit.records",
        "mimicit.prompt",
        "mimicit.errors",
    }
    allowed |= {
        "mimicit.schema",
        "mimicit.media",
        "mimicit.options",
        "mimicit.progress",
        "mimicit.web",
        "mimicit.worker",
    }
    for module, path in modules("otter_train").items():
        used = {".".join(name.split(".")[:2]) for name in imports(path) if name.startswith("mimicit")}
        assert used <= allowed | {"mimicit"}, f"{module} imports {used - allowed}"


def test_torch_is_imported_by_the_adapter_and_the_models_of_embedders_alone() -> None:
    users = [
        module for module, path in modules("mimicit").items() if any(i.split(".")[0] == "torch" for i in imports(path))
    ]
    assert users == [
        "mimicit.embedding.models",
        "mimicit.loading.torch",
        "mimicit.loading.trainer",
    ]


SQL = re.compile(r"\b(SELECT .+ FROM|INSERT INTO|CREATE (TEMP )?(TABLE|VIEW)|DELETE FROM|UPDATE \w+ SET)\b")
OWNERS_OF_SQL = {
    "joins", "rejects", "previous",  # DuckDB, as those below
    "stages.encode", "stages.entries", "stages.filtering", "stages.links", "stages.plan", "stages.resolve",
    "stages.unused", "remote", "stages.passing", "stages.scan",  # SQLite files of their own
    "similarity.pool", "similarity.search", "similarity.tables",
}  # fmt: skip


def test_sql_stands_with_those_who_own_the_tables() -> None:
    users = {module for module, path in modules("mimicit/pipeline").items() if SQL.search(path.read_text())}
    assert users == {f"mimicit.pipeline.{name}" for name in OWNERS_OF_SQL}


def test_no_file_of_the_build_takes_private_names_of_another() -> None:
    private = [
        f"{module}: {alias.name} of {node.module}"
        for module, path in modules("mimicit/pipeline").items()
        for node in import_statements(path)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert private == []


@pytest.mark.parametrize(("part", "most"), [("One record, from file to tar", 20), ("A training step", 40)])
def test_the_ways_through_the_code_are_short_and_true(part: str, most: int) -> None:
    """The functions that docs/architecture.md lists exist, and are few."""
    page = (ROOT / "docs" / "architecture.md").read_text().partition(f"## {part}\n")[2].partition("\n## ")[0]
    names = re.findall(r"^\|[^|]*\| `((?:mimicit|otter_train)\.[\w.]+)` \|", page, re.MULTILINE)
    assert 10 < len(names) <= most
    known = modules("mimicit") | modules("otter_train")
    for name in names:
        steps = name.split(".")
        depth = next(n for n in range(len(steps), 0, -1) if ".".join(steps[:n]) in known)
        found = importlib.import_module(".".join(steps[:depth]))
        for step in steps[depth:]:
            found = getattr(found, step)
        assert callable(found), name


def test_every_file_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    paths = re.findall(r"`((?:docs|mimicit|otter_train|schemas|tests|tools)/[\w./-]+)`", page)
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_public_names_are_pinned_and_load() -> None:
    assert mimicit.__all__ == [
        "BuildConfig", "ChatCollator", "Media", "MimicitError", "Quarantine", "Sample", "Samples", "Triplet", "Where",
        "build_shards", "from_datasets", "from_webdataset", "load", "load_mixture", "messages", "pack", "render",
        "to_datasets", "to_pandas", "to_webdataset",
    ]  # fmt: skip
    for name in mimicit.__all__:
        assert getattr(mimicit, name).__name__ == name


def test_every_public_list_is_true() -> None:
    for package in ("mimicit", "otter_train"):
        for module, path in modules(package).items():
            tree = ast.parse(path.read_text())
            for node in tree.body:
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                    names = ast.literal_eval(node.value)
                    defined = _defined(tree) | set(names if module == "mimicit" else ())
                    assert set(names) <= defined, f"{module}: {set(names) - defined} in __all__"


def _defined(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign():
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom() | ast.Import():
                names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_conversations_need_no_torch() -> None:
    code = "import sys, mimicit.loading.chat; print('torch' in sys.modules, 'transformers' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == ["False", "False"]


def test_nothing_heavy_is_loaded_by_the_help() -> None:
    code = "import sys, mimicit, mimicit.cli; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("torch", "pyarrow", "numpy", "PIL", "decord", "av", "webdataset", "rich", "transformers", "datasets"):
        assert f"'{name}'" not in loaded


def test_tests_share_code_through_the_factories_alone() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        shared = {name for name in imports(path) if name.startswith("tests.")}
        assert {name for name in shared if name.split(".")[1] not in ("corpus", "factories")} == set(), path


def test_what_a_skipped_test_lacks_comes_with_the_extra_that_it_names() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"""importorskip\("(\w+)[\w.]*", reason="comes with the extra '(\w+)'"\)""", text))
    assert len(named) > 10 and re.findall(r"""importorskip\("[\w.]+"\)""", text) == []
    parts_of = {"timm": "open_clip_torch"}  # which needs it
    for module, extra in named:
        packages = [one.replace("-", "_") for one in _with_others(extras, extra)]
        assert any(one.startswith(parts_of.get(module, module)) for one in packages), (module, extra)


def _with_others(extras: dict[str, list[str]], name: str) -> list[str]:
    """The requirements of an extra and of the extras that it names."""
    others = [other for one in extras[name] if one.startswith("mimicit[") for other in one[8:-1].split(",")]
    return [*extras[name], *(one for other in others for one in _with_others(extras, other))]
