from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from mimicit.errors import SourceError
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.records import Sample, sample_to_json
from mimicit.sources import SOURCES, detect
from mimicit.sources.files.reading import Reader
from mimicit.sources.files.root import Root
from mimicit.sources.formats import shards as module
from mimicit.sources.items import Item, RawTriplet, Reject
from tests.factories import raw as make
from tests.factories.assembling import Part
from tests.factories.engines import InProcess
from tests.factories.exporting import (
    built_again,
    corpora,
    make_sample,
    meaning,
    write_shard,
)
from tests.factories.sources import items_of, jpeg, one_source, put, reasons_of, triplets_of
from tests.factories.strategies import few
from tests.factories.tars import put_tar

# A build's worker leaves it to its end to close the files it has read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

A = Part(id="a", media=(0,), instruction="What is a?", answer="It is a.")
B = Part(id="b", media=(0,), instruction="What is b?", answer="It is b.")
C = Part(id="c", media=(4,), instruction="What is c?", answer="It is c.")


def related(*parts: Part) -> list[Part]:
    return [replace(part, relation="related") for part in parts]


def members(sample: Sample, **fields: Any) -> list[tuple[str, Any]]:
    """The members of ``sample``, with some fields of its JSON replaced."""
    value = sample_to_json(sample) | fields
    files = [(f"{sample.key}.{name}", data) for m in sample.media for name, data in zip(m.files, m.data, strict=True)]
    return [(f"{sample.key}.json", value), *files]


def test_the_triplets_of_a_shard(tmp_path: Path) -> None:
    first = make_sample("x", [*related(C, A), B], {"split": "train"})
    second = make_sample("x", [*related(A), C], {})
    put_tar(tmp_path, "in/shard-000.tar", [*members(first), *members(second)])
    spec = one_source(tmp_path)
    assert (spec.name, spec.format, spec.files) == ("in", "shards", ("in/shard-000.tar",))
    found = triplets_of(items_of(tmp_path))
    assert [(t.id, t.is_query, t.related, t.meta) for t in found] == [
        ("a", False, (), {}),
        ("b", True, ("a", "c"), {"split": "train"}),
        ("c", True, ("a",), {}),
    ]
    assert [t.place for t in found] == [f"in/shard-000.tar#{s.key}" for s in (first, first, second)]
    assert [len(t.media) for t in found] == [1, 1, 1]  # b goes on about the picture of a
    clip = found[2].media[0]
    assert (clip.kind, clip.timestamps_s, clip.origin) == ("video", (0.0, 1.0), "c.mp4")
    with Reader(Root(tmp_path)) as reader:
        assert [reader.read(part) for part in clip.parts] == [jpeg(10), jpeg(11)]
        assert [reader.read(t.media[0].parts[0]) for t in found[:2]] == [jpeg(0)] * 2


def test_a_document_is_one_record_with_parts(tmp_path: Path) -> None:
    parts = [
        Part(id="d#0", media=(0, 4), instruction="", answer="Two media.", relation="document"),
        Part(id="d", media=(), instruction="", answer="The end.", relation="document"),
    ]
    put_tar(tmp_path, "a.tar", members(make_sample("x", parts, {"url": "y"})))
    spec = one_source(tmp_path)
    (document,) = SOURCES["shards"].read(spec, Root(tmp_path))
    assert isinstance(document, RawTriplet)
    assert (document.id, document.instruction, document.answer, document.meta) == ("d", "", "", {"url": "y"})
    assert document.parts == ((2, "Two media."), (0, "The end."))
    assert [medium.kind for medium in document.media] == ["image", "video"]


def test_a_triplet_is_one_record_whichever_samples_show_it(tmp_path: Path) -> None:
    """Its own sample says what it says, a sample that shows its picture says what it shows."""
    samples = [make_sample("x", [*related(A), B], {}), make_sample("x", [B], {}), make_sample("x", [A], {})]
    put_tar(tmp_path, "a.tar", members(samples[0]) + members(replace(samples[2], id="a")))
    assert [(t.id, len(t.media)) for t in triplets_of(items_of(tmp_path))] == [("b", 1), ("a", 1)]
    put_tar(tmp_path, "b.tar", members(samples[1]))
    items = items_of(tmp_path)
    (reject,) = [item for item in items if isinstance(item, Reject)]
    assert (reject.scope, reject.reason, reject.id) == ("record", "duplicate_id", samples[1].key)
    assert len(triplets_of(items)) == 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"format": "mimicit/2"}, "schema"),
        ({"triplets": []}, "schema"),
        ({"media": []}, "schema"),
        ({"extra": 1}, "schema"),
    ],
)
def test_a_sample_that_breaks_the_format_is_one_reject(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    good, bad = make_sample("x", [B], {}), make_sample("x", [A], {})
    put_tar(tmp_path, "a.tar", [*members(good), *members(bad, **fields)])
    reject, triplet = items_of(tmp_path)
    assert isinstance(reject, Reject) and isinstance(triplet, RawTriplet)
    assert (reject.reason, reject.id, reject.locator) == (reason, bad.key, f"a.tar#{bad.key}")
    assert triplet.id == "b"


def test_members_that_are_missing_or_odd(tmp_path: Path) -> None:
    good, bad = make_sample("x", [B], {}), make_sample("x", [A], {})
    for gone, reason in ((1, "missing_file"), (0, "missing_sidecar")):
        files = members(bad)
        del files[gone]
        put_tar(tmp_path, "a.tar", [*members(good), *files])
        assert reasons_of(items_of(tmp_path)) == [reason]
    put_tar(tmp_path, "a.tar", [*members(good), (f"{bad.key}.json", b"{")])
    assert reasons_of(items_of(tmp_path)) == ["malformed"]
    put_tar(tmp_path, "a.tar", members(good) + members(make_sample("x", [replace(A, instruction="<image>")], {})))
    assert reasons_of(items_of(tmp_path)) == ["placeholder_mismatch"]


def test_a_finished_folder_is_complete_or_a_fault(tmp_path: Path) -> None:
    put_tar(tmp_path, "in/shard-000.tar", members(make_sample("x", [A], {})))
    put(tmp_path, "in/manifest.json", {"format": "mimicit/1", "config": {}})
    with pytest.raises(SourceError, match=r"^in/manifest\.json: no manifest of shards"):
        items_of(tmp_path)


@given(samples=corpora(sources=1))
@few
def test_shards_come_back_exactly(samples: list[Sample]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        folder.mkdir()
        half = len(samples) // 2
        write_shard(folder / "shard-000.tar", samples[: half + 1])
        if samples[half + 1 :]:
            write_shard(folder / "shard-001.tar", samples[half + 1 :])
        found, manifest = built_again(folder, Path(name) / "again", context="related")
    wanted = [meaning(sample) | {"source": ""} for sample in samples]
    assert [meaning(sample) | {"source": ""} for sample in found] == wanted
    assert manifest["totals"]["rejects"] == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of several shards of several sources."""
    place = tmp_path_factory.mktemp("finished")
    raw = make.make_raw(place / "raw")
    build_shards(raw, place / "in", BuildConfig(shots=2, shard_bytes=64 * 1024), engine=InProcess())
    assert len(list((place / "in").glob("*.tar"))) > 2
    return place / "in"


def copied(folder: Path, to: Path, *leave_out: str) -> Path:
    shutil.copytree(folder, to / "in", ignore=shutil.ignore_patterns(*leave_out))
    return to


def items_by_source(root: Path) -> dict[str, list[Item]]:
    return {spec.part: list(SOURCES["shards"].read(spec, Root(root))) for spec in detect(Root(root)).sources}


def test_the_index_gives_what_the_tars_give_and_no_tar_is_walked(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = items_by_source(copied(finished, tmp_path / "without", "index.parquet"))
    root = copied(finished, tmp_path / "with")
    assert detect(Root(root)).unused == ()
    assert detect(Root(root)).loose_media == 0  # nor the contact sheet

    def never(root: Root, path: str) -> NoReturn:
        raise AssertionError(f"{path} is read from end to end")

    specs = detect(Root(root)).sources
    monkeypatch.setattr(module, "tar_samples", never)
    found = {spec.part: list(SOURCES["shards"].read(spec, Root(root))) for spec in specs}
    assert found == without
    assert all(isinstance(item, RawTriplet) for items in found.values() for item in items)


def changed_index(root: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    path = root / "in" / "index.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop(), r"index\.parquet: lists \d+ samples of shard-\d+\.tar, which has \d+; fetch it"),
        (lambda rows: rows[0].update(shard="../x.tar"), "row 0 is of '../x.tar', which the manifest does not list"),
        (lambda rows: rows[0].update(member_offsets=[]), "row 0 does not say where its sample lies"),
        (lambda rows: rows[0].update(member_sizes=[-1] * len(rows[0]["member_offsets"])), "row 0 does not say where"),
    ],
)
def test_an_index_that_is_not_of_this_folder_is_a_fault_that_says_what_to_do(
    finished: Path, tmp_path: Path, change: Callable[[list[dict[str, Any]]], object], message: str
) -> None:
    root = copied(finished, tmp_path)
    changed_index(root, change)
    with pytest.raises(SourceError, match=message):
        items_by_source(root)


def test_an_index_that_lies_about_a_sample_costs_that_sample(finished: Path, tmp_path: Path) -> None:
    root = copied(finished, tmp_path)
    sound = items_by_source(root)

    def swap(rows: list[dict[str, Any]]) -> None:
        """Two samples of one source each at the other's place, one in the middle of a picture, one beyond the end."""
        one, other, third, fourth = [row for row in rows if row["source"] == "own"][:4]
        for name in ("shard", "member_offsets", "member_sizes"):
            one[name], other[name] = other[name], one[name]
        third["member_offsets"] = [third["member_offsets"][1], *third["member_offsets"][1:]]
        fourth["member_offsets"] = [2**63 - 9] * len(fourth["member_offsets"])

    changed_index(root, swap)
    found = items_by_source(root)
    assert {name: items for name, items in found.items() if name != "own"} == {
        name: items for name, items in sound.items() if name != "own"
    }
    rejects = [item for item in found["own"] if isinstance(item, Reject)]
    assert sorted(reject.reason for reject in rejects) == ["malformed", "malformed", "schema", "schema"]
    assert len({reject.locator for reject in rejects}) == 4
