"""``mimicit.toml`` and the mixture: strict to read, stable to draw from, and part of what a folder was built with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import mimicit.pipeline.run
from mimicit.cli import main
from mimicit.errors import ChangedInputError, SourceError, UsageError
from mimicit.media import MediaOptions
from mimicit.pipeline import BuildConfig, BuildResult
from mimicit.pipeline.config import SourceOptions
from mimicit.pipeline.mixture import build_config, read_mixture
from mimicit.pipeline.run import build_report
from mimicit.pipeline.stages.filters import FilterConfig
from mimicit.pipeline.stages.passing import sampling_key
from tests.factories import raw as make
from tests.factories.builds import add_rows, build, row

EXAMPLE = """
shots = 3
size = 64
image_format = "png"
shard_size = 2
near_duplicates = 3
duplicate_triplets = "merge"
[filters]
min_side = 8
max_aspect = 4

[[source]]
path = "own"
limit = 4
[source.filters]
min_side = 0

[[source]]
path = "*/llava_*.json"
name = "talks"
weight = 0.5
context = "conversation"
shots = 1
"""


def parsed(tmp_path: Path, text: str) -> BuildConfig:
    path = tmp_path / "mimicit.toml"
    path.write_text(text)
    return build_config(read_mixture(path))


def test_the_file_becomes_the_configuration(tmp_path: Path) -> None:
    assert parsed(tmp_path, EXAMPLE) == BuildConfig(
        shots=3,
        media=MediaOptions(size=64, image_format="png"),
        shard_bytes=2 * 1024**2,
        near_duplicates=3,
        duplicate_triplets="merge",
        filters=FilterConfig(min_side=8, max_aspect=4.0),
        sources=(
            SourceOptions(path="own", limit=4, filters=FilterConfig(min_side=0, max_aspect=4.0)),
            SourceOptions(path="*/llava_*.json", name="talks", weight=0.5, context="conversation", shots=1),
        ),
    )
    assert parsed(tmp_path, "") == BuildConfig()


def test_one_meaning_is_one_configuration(tmp_path: Path) -> None:
    one = parsed(tmp_path, 'shots = 3.0\n[filters]\nmax_aspect = 4\n[[source]]\npath = "a"\nweight = 1\n')
    other = parsed(tmp_path, 'filters.max_aspect = 4.0\nshots = 3\nsource = [{ weight = 1.0, path = "a" }]\n')
    assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shoots = 3", "no key 'shoots'; did you mean shots"),
        ("depth = 3", "no key 'depth'; there are: allow_root, allow_same_answer, allow_same_media, context,"),
        ("[filters]\nmin_width = 3", "filters: no key 'min_width'; did you mean min_side"),
        ('[[source]]\npath = "a"\nlimt = 3', r"source\[0\]: no key 'limt'; did you mean limit"),
        ('[[source]]\npath = "a"\nname = "A B"', "source/0/name"),
        ('[[source]]\npath = "a"\nfilters = { x = 1 }', r"source\[0\]\.filters: no key 'x'"),
        ("[[source]]\nlimit = 3", "source/0: .*path"),
        ("shots = '3'", "shots"),
        ("limit = 0", "limit"),
        ("seed = 99999999999999999999", "64-bit"),
        ("license = 2020-01-01", "license|unknown"),
        ("[filters]\nmax_aspect = nan", "max_aspect"),
        ('[[source]]\npath = "a"\nweight = 0', "weight"),
        ('[[source]]\npath = "a"\ncontext = "nearest"', "no strategy 'nearest'"),
        ("near_duplicates = 12", "near_duplicates"),
        ("shots = ", "not valid TOML"),
    ],
)
def test_a_slip_is_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    if "license" in text:
        assert parsed(tmp_path, text).license == "2020-01-01"  # a date is written as text
        return
    with pytest.raises(UsageError, match=message):
        parsed(tmp_path, text)


def test_the_defaults_of_a_build_are_pinned() -> None:
    """A change here makes other shards of the same command line, and is labelled SHARD FORMAT or CLI."""
    assert BuildConfig().fingerprint() == "d4e0c80de0798451a8caa5d0e28ec04a778510c7b100c46a2de7ade09a829736"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": -1}, "--shots -1: must be at least 0"),
        ({"shard_bytes": 0}, "--shard-size 0: must be at least 1"),
        ({"near_duplicates": 12}, "near_duplicates 12: must be between 0 and 11"),
        ({"duplicate_triplets": "merg"}, "duplicate_triplets merg: no such choice; did you mean merge"),
        ({"media": MediaOptions(quality=101)}, "--quality 101: must be between 1 and 100"),
        ({"filters": FilterConfig(max_bytes=-1)}, "max_bytes -1: must be at least 0"),
        ({"filters": FilterConfig(max_aspect=float("inf"))}, "--max-aspect inf: must be at least 0 and finite"),
    ],
)
def test_a_value_out_of_range_is_named_as_the_user_wrote_it(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BuildConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "A B"}, r"source 'a': name 'A B': must match \[a-z0-9_-\]"),
        ({"weight": 0.0}, "source 'a': weight 0.0: must be more than 0 and at most 1"),
        ({"limit": -1}, "source 'a': limit -1: must be at least 0"),
        ({"filters": FilterConfig(min_side=-1)}, "source 'a': min_side -1: must be at least 0"),
    ],
)
def test_a_value_of_an_entry_is_named_with_its_source(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SourceOptions(path="a", **options)


def configured(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> BuildConfig:
    """The configuration that the command line makes of ``arguments``."""
    seen: list[BuildConfig] = []

    def run_build(src: Path, out: Path, config: BuildConfig, *_: object) -> BuildResult:
        seen.append(config)
        return BuildResult(manifest={}, was_finished=False)

    monkeypatch.setattr(mimicit.pipeline.run, "run_build", run_build)
    result = CliRunner().invoke(main, ["build", "--out", "x", "--json", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return seen[0]


def test_the_command_line_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mimicit.toml").write_text(EXAMPLE)
    assert configured(monkeypatch, "--src", tmp_path / "elsewhere") == BuildConfig()  # its defaults are those
    found = configured(monkeypatch, "--src", tmp_path)
    assert found == build_config(read_mixture(tmp_path / "mimicit.toml"))
    path = (tmp_path / "mimicit.toml").rename(tmp_path / "other.toml")
    assert configured(monkeypatch, "--src", tmp_path) == BuildConfig()
    arguments = ("--shots", "2", "--min-side", "9", "--limit", "5", "--format", "llava", "--license", "MIT")
    won = configured(monkeypatch, "--src", tmp_path, "--config", path, *arguments)
    assert (won.shots, won.filters.min_side, won.filters.max_aspect) == (2, 9, 4.0)
    assert (won.limit, won.format, won.license, won.media.size) == (5, "llava", "MIT", 64)
    first, second = map(won.rules, won.sources)
    assert (first.limit, first.shots, first.filters.min_side) == (4, 2, 0)  # an entry wins over both
    assert (second.limit, second.shots, second.filters.min_side) == (5, 1, 9)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    make.add_manifest(folder)
    make.add_llava(folder)
    make.add_mimicit(folder)
    return folder


def test_only_what_is_listed_is_built_each_by_its_own_rules(raw: Path, tmp_path: Path) -> None:
    config = parsed(tmp_path, EXAMPLE.replace("weight = 0.5", "weight = 1.0").replace("near_duplicates = 3", ""))
    built = build(raw, tmp_path / "one", config)
    assert list(built.sources) == ["own", "talks"]  # in the order of the list
    own, talks = built.sources.values()
    assert (own["in"], own["out"], own["merged"]) == (18, 4, 14)
    assert (talks["in"], talks["out"], talks["merged"]) == (13, 13, 0)
    for sample in built.samples.values():
        relations = [triplet.relation for triplet in sample.context]
        if sample.source == "talks":
            assert relations in ([], ["conversation"])
        else:
            assert len(relations) == 3
    drawn = {sample.id for sample in built.samples.values() if sample.source == "own"}
    context = {t.id for sample in built.samples.values() if sample.source == "own" for t in sample.context}
    assert context - drawn  # what was not drawn still serves as context
    assert built.result.manifest["input"]["unused"] == 3  # the files of LA
    assert built.result.manifest["config"]["sources"][1]["name"] == "talks"
    build(raw, tmp_path / "two", config, workers=2)
    assert make.hashes(tmp_path / "one") == make.hashes(tmp_path / "two")


def test_an_entry_reads_its_files_as_its_format(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    add_rows(folder / "a", {}, [row("one"), row("two")])
    (folder / "a" / "manifest.jsonl").rename(folder / "a" / "rows.jsonl")
    built = build(folder, tmp_path / "out", BuildConfig(sources=(SourceOptions(path="./a/", format="manifest"),)))
    assert [source["format"] for source in built.sources.values()] == ["manifest"]


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ([{"path": "nowhere"}], SourceError, "nowhere: the mixture lists it, but no source is left there"),
        ([{"path": "."}, {"path": "own"}], SourceError, "own: .* no source is left there"),
        ([{"path": ".", "name": "all"}], UsageError, "given to 3 sources"),
        ([{"path": "own", "name": "x"}, {"path": "LA", "name": "x"}], UsageError, "two sources are called 'x'"),
        ([{"path": "own", "format": "nope"}], UsageError, "no format 'nope'"),
    ],
)
def test_a_mixture_that_names_nothing_or_too_much(
    raw: Path, tmp_path: Path, entries: list[dict[str, Any]], error: type[Exception], message: str
) -> None:
    config = BuildConfig(sources=tuple(SourceOptions(**entry) for entry in entries))
    with pytest.raises(error, match=message):
        build(raw, tmp_path / "out", config)


def drawn(raw: Path, out: Path, **options: Any) -> Mapping[str, set[str]]:
    """The ids of the queries of each source."""
    built = build(raw, out, BuildConfig(shots=0, **options))
    samples = built.samples.values()
    return {name: {sample.id for sample in samples if sample.source == name} for name in built.sources}


def test_draws_are_nested_and_do_not_depend_on_other_sources(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    make.add_manifest(raw)
    few = drawn(raw, tmp_path / "few", limit=3)["own"]
    more = drawn(raw, tmp_path / "more", limit=7)["own"]
    half = drawn(raw, tmp_path / "half", sources=(SourceOptions(path="own", weight=0.5),))["own"]
    make.add_llava(raw)
    make.add_manifest(raw, "another")
    beside = drawn(raw, tmp_path / "beside", limit=3)
    assert beside["own"] == few
    assert {name: len(ids) for name, ids in beside.items()} == {"another": 3, "llava_instruct": 3, "own": 3}
    assert few < more
    assert more <= half or half <= more
    assert 3 <= len(half) <= 15


@given(st.sets(st.text(max_size=10), min_size=200, max_size=200), st.integers(0, 5))
def test_lots_are_spread_evenly(ids: set[str], seed: int) -> None:
    below = sum(sampling_key(seed, id) < 1 << 62 for id in ids)
    assert 50 < below < 150  # 7 standard deviations


def test_the_file_in_the_source_folder_is_configuration_and_not_input(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    make.add_manifest(raw)
    text = '[[source]]\npath = "own"\n'
    config = parsed(raw, text)
    first = build(raw, out, config).result.manifest
    assert first["input"]["unused"] == 0
    assert build(raw, out, parsed(raw, f"# a remark\n{text}")).result.was_finished
    with pytest.raises(ChangedInputError, match="another value of sources"):
        build(raw, out, parsed(raw, f"{text}limit = 2\n"))


def test_retry_rejects_ends_as_a_fresh_build_of_the_mended_input(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    pictures = {"good.jpg": make.picture(0), "cut.jpg": make.picture(1, 640, 480)[:-400]}
    rows = [row("good", "good.jpg"), row("cut", "cut.jpg"), row("gone", "gone.jpg"), row("good", "good.jpg")]
    add_rows(raw, pictures, rows)
    with open(raw / "manifest.jsonl", "a") as file:
        file.write("no JSON\n")
    before = build(raw, out, BuildConfig(), retry_rejects=True)  # nothing to retry yet
    assert before.sources["manifest"]["rejected"] == {
        "duplicate_id": 1, "malformed": 1, "missing_file": 1, "truncated_image": 1,
    }  # fmt: skip
    assert before.result.retried is None
    assert build(raw, out, BuildConfig(), retry_rejects=True).result.was_finished

    (raw / "cut.jpg").write_bytes(make.picture(1, 640, 480))
    text = (raw / "manifest.jsonl").read_text()
    (raw / "manifest.jsonl").write_text(text.replace("no JSON", '{"id": "line", "instruction": "?", "answer": "!"}'))
    with pytest.raises(ChangedInputError, match="another value of shots"):
        build(raw, out, BuildConfig(shots=1), retry_rejects=True)
    after = build(raw, out, BuildConfig(), retry_rejects=True)
    assert after.result.retried is not None
    assert (after.result.retried.rejected, after.result.retried.fixed) == (4, 2)
    assert "2 of 4 former rejects are now in" in build_report(after.result, out)
    assert set(after.samples) == {"good", "cut", "line"}
    build(raw, tmp_path / "fresh", BuildConfig())
    assert make.hashes(out) == make.hashes(tmp_path / "fresh")
