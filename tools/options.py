"""Write what is made of the declared options: ``schemas/mixture.json`` and the tables of ``docs/command-line.md``.

::

    python -m tools.options

A table stands between two comments in the page, of which the first names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Final

from mimicit.options import Option, json_schema, options_of
from mimicit.pipeline.config import BuildConfig, SourceOptions
from mimicit.sources.registry import SOURCES, declared_options
from otter_train.config.run_config import PRESETS, RunConfig, RunOptions

ROOT: Final = Path(__file__).parents[1]
SCHEMA: Final = ROOT / "schemas" / "mixture.json"
PAGE: Final = ROOT / "docs" / "command-line.md"
_WIDTH: Final = 120
_TABLE: Final = re.compile(r"(<!-- options: (\w+); made by python -m tools.options -->\n).*?(<!-- end -->)", re.DOTALL)
_KINDS: Final = {int: "a whole number", float: "a number", Path: "a folder", tuple[str, ...]: "texts"}


def mixture_schema() -> str:
    """The text of ``schemas/mixture.json``."""
    title = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mimicit.toml: the options of a build, and the sources that it mixes",
        "description": "Top-level keys are the options of mimicit build, which win over this file. Where there is a"
        " [[source]], only the listed sources are built, in the order of the list.",
    }
    return _written({**title, **json_schema(BuildConfig)}) + "\n"


def _written(value: Any, indent: int = 0) -> str:
    """``value`` as JSON, an object on one line where it fits."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict) or (indent and indent + len(line) < _WIDTH):
        return line
    inner = ",\n".join(
        f"{' ' * (indent + 2)}{json.dumps(key)}: {_written(part, indent + 2)}" for key, part in value.items()
    )
    return f"{{\n{inner}\n{' ' * indent}}}"


def page_with_tables(page: str) -> str:
    """The text of ``docs/command-line.md`` with its tables made anew."""
    tables = {"build": _build_table, "formats": _formats_table, "training": _training_table}
    return _TABLE.sub(lambda found: found[1] + tables[found[2]]() + found[3], page)


def _build_table() -> str:
    build = {table + one.key: one for table, one in options_of(BuildConfig) if one.key != "source"}
    source = {table + one.key: one for table, one in options_of(SourceOptions)}
    rows = []
    for key, one in {**source, **build}.items():
        flag = _code(one.flag) if key in build else ""
        place = ("also" if key in build else "only") if key in source else ""
        rows.append((flag, _code(key), place, _values(one), _default(one), one.help))
    return _table(("command line", "`mimicit.toml`", "`[[source]]`", "values", "default", ""), rows)


def _formats_table() -> str:
    takers: dict[Option, list[str]] = {}
    for format in sorted(SOURCES):
        for one in declared_options(format).values():
            takers.setdefault(one, []).append(format)
    rows = (
        (", ".join(map(_code, formats)), _code(one.key), _values(one), _default(one), one.help)
        for one, formats in takers.items()
    )
    return _table(("format", "option", "values", "default", ""), rows)


def _training_table() -> str:
    rows = []
    for _, one in [*options_of(RunConfig), *options_of(RunOptions)]:
        tiny = PRESETS["tiny"].get(one.key)
        default = _default(one) + ("" if tiny is None else f"; tiny: {tiny}")
        rows.append((_code(one.flag), _values(one), default, one.help))
    return _table(("option", "values", "default", ""), rows)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [heads, ["---"] * len(tuple(heads)), *rows]
    return "".join(f"{' '.join(f'| {cell}'.rstrip() for cell in line)} |\n" for line in lines)


def _code(name: str | bool) -> str:
    return f"`{name}`" if isinstance(name, str) else ""


def _values(one: Option) -> str:
    if one.kind is bool or one.range:
        return one.range
    return _code(one.metavar) if one.metavar else _KINDS.get(one.kind, "text")


def _default(one: Option) -> str:
    if one.unset:
        return one.unset
    if isinstance(one.default, bool):
        return "yes" if one.default else "no"
    if one.default is MISSING:
        return "required"
    if isinstance(one.default, int):
        return f"{one.default // one.unit:,}"
    return str(one.default) if isinstance(one.default, float | str) else ""


def main() -> None:
    """Write the files."""
    SCHEMA.write_text(mixture_schema())
    PAGE.write_text(page_with_tables(PAGE.read_text()))


if __name__ == "__main__":
    main()
