"""Options of a single format: refused by name where unknown, of one type, and in force for the sources they are for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mimicit.cli import main
from mimicit.errors import UsageError
from mimicit.pipeline import BuildConfig
from mimicit.pipeline.config import SourceOptions
from mimicit.pipeline.mixture import build_config, merged_options, read_mixture, select_sources
from mimicit.sources import SOURCES, detect
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import RawTriplet
from mimicit.sources.registry import checked_options, parsed_option
from tests.factories.formats import mmc4_document, mmc4_image, noise
from tests.factories.sources import items_of, jpeg, put, put_lines, reasons_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A document whose pictures the usual policy drops for each of its reasons, and one that it keeps."""
    for folder in ("a", "b"):
        for number in range(6):
            put(tmp_path, f"{folder}/{number}.jpg", noise(number))
        put(tmp_path, f"{folder}/small.jpg", jpeg())
        images = [mmc4_image(f"{number}.jpg", 0, 0.1 + number / 10) for number in range(6)]
        put_lines(tmp_path, f"{folder}/docs.jsonl", [mmc4_document([mmc4_image("small.jpg", 0), *images])])
    return tmp_path


def pictures(root: Path, config: BuildConfig) -> dict[str, int]:
    """How many pictures each source shows under ``config``."""
    selection = select_sources(config, lambda format: detect(Root(root), format=format))
    shown = {}
    for spec in selection.specs:
        items = SOURCES[spec.format].read(spec, Root(root))
        shown[spec.files[0]] = sum(len(item.media) for item in items if isinstance(item, RawTriplet))
    return shown


def test_every_threshold_of_mmc4_can_be_moved(root: Path) -> None:
    assert reasons_of(items_of(root / "a")) == ["file_size", "low_similarity", "low_similarity"]
    spec = SourceSpec(name="a", format="mmc4", files=("docs.jsonl",), why="", options={"max_pictures": 2})
    items = list(SOURCES["mmc4"].read(spec, Root(root / "a")))
    assert reasons_of(items) == ["file_size", "low_similarity", "low_similarity", *["too_many_pictures"] * 2]
    everything = BuildConfig(options={"mmc4": {"min_similarity": -1, "min_bytes": 0, "max_pictures": 0}})
    assert pictures(root, everything) == {"a/docs.jsonl": 7, "b/docs.jsonl": 7}


def test_the_options_of_an_entry_win_over_those_of_the_build(root: Path) -> None:
    config = BuildConfig(
        options={"mmc4": {"min_similarity": 0.55, "max_pictures": 1}},
        sources=(SourceOptions(path="a"), SourceOptions(path="b", options={"max_pictures": 0})),
    )
    assert pictures(root, config) == {"a/docs.jsonl": 1, "b/docs.jsonl": 1}
    lower = {"max_pictures": 0, "min_similarity": 0.35}
    config = BuildConfig(
        options=config.options, sources=(SourceOptions(path="a"), SourceOptions(path="b", options=lower))
    )
    assert pictures(root, config) == {"a/docs.jsonl": 1, "b/docs.jsonl": 3}


@pytest.mark.parametrize(
    ("format", "values", "message"),
    [
        ("mmc4", {"min_simularity": 0.2}, "mmc4 has no option 'min_simularity'; did you mean min_similarity"),
        ("alpaca", {"x": 1}, "alpaca has no option 'x'; it has none"),
        ("mmc5", {}, "no format 'mmc5'; did you mean mmc4"),
        ("mmc4", {"min_similarity": "0.2"}, r"mmc4\.min_similarity must be a number, not '0.2'"),
        ("mmc4", {"min_similarity": True}, "must be a number"),
        ("mmc4", {"min_similarity": float("nan")}, "must be a number"),
        ("mmc4", {"min_similarity": 1.5}, "options: mmc4: min_similarity 1.5: must be between -1 and 1"),
        ("mmc4", {"min_bytes": 0.5}, "must be a whole number"),
        ("mmc4", {"max_pictures": -1}, "options: mmc4: max_pictures -1: must be at least 0"),
        ("llava", {"require_placeholders": 2}, "require_placeholders 2: must be between 0 and 1"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line_that_names_it(format: str, values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked_options(format, values)


def test_an_entry_with_an_option_of_another_format_names_the_source(root: Path) -> None:
    put_lines(root, "c/rows.jsonl", [{"instruction": "Add 1 and 1.", "output": "2"}])
    config = BuildConfig(sources=(SourceOptions(path=".", options={"min_bytes": 1}),))
    with pytest.raises(UsageError, match=r"source 'c/rows.jsonl': .*alpaca has no option 'min_bytes'"):
        pictures(root, config)


def test_the_file_and_the_command_line_are_one_configuration(tmp_path: Path) -> None:
    path = tmp_path / "mimicit.toml"
    path.write_text(
        "[options.mmc4]\nmin_similarity = 0.3\nmin_bytes = 5.0\n"
        '[[source]]\npath = "a"\noptions = { min_similarity = 0.1 }\n'
    )
    chosen = read_mixture(path)
    config = build_config(chosen)
    assert config.options == {"mmc4": {"min_bytes": 5, "min_similarity": 0.3}}
    assert config.sources[0].options == {"min_similarity": 0.1}
    merged = merged_options(chosen["options"], ["mmc4.min_bytes=7", "mmc4.max_pictures=2"])
    assert merged == {"mmc4": {"min_similarity": 0.3, "min_bytes": 7, "max_pictures": 2}}
    one = build_config({"options": {"mmc4": {"min_bytes": 5, "max_pictures": 0}}})
    other = build_config({"options": merged_options({}, ["mmc4.max_pictures=0.0", "mmc4.min_bytes=5"])})
    assert one.fingerprint() == other.fingerprint() != BuildConfig().fingerprint()


def test_the_command_line_refuses_what_is_no_option(tmp_path: Path) -> None:
    put(tmp_path, "raw/a.jpg", jpeg())
    put(tmp_path, "raw/a.txt", "A picture.")
    arguments = ["build", "--src", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--option"]
    for text, message in (
        ("mmc4.min_bytes", "is not FORMAT.NAME=NUMBER"),
        ("mmc4.min_bites=1", "no option 'min_bites'; did you mean min_bytes?"),
    ):
        result = CliRunner().invoke(main, [*arguments, text])
        assert (result.exit_code, result.output.count("\n")) == (2, 1)
        assert message in result.output
    assert not (tmp_path / "out").exists()


@given(st.text(max_size=20))
def test_any_text_is_an_option_or_an_error_of_usage(text: str) -> None:
    try:
        format, name, value = parsed_option(text)
    except UsageError:
        return
    assert format and name and value == value


def test_options_are_numbers_with_defaults_that_pass_their_own_checks() -> None:
    for format, source_format in SOURCES.items():
        if source_format.options is not None:
            defaults = {field.name: field.default for field in fields(source_format.options)}
            assert checked_options(format, defaults) == defaults
