"""A corpus of small raw folders, each built whole: every sample's text and the colour of every picture.

The folders stand in the modules beside this one, by what they are about; a new one is an entry of ``CASES`` there.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mimicit.loading import load
from mimicit.pipeline import build_shards
from mimicit.records import Sample
from mimicit.shards.verify import verify_folder
from mimicit.sources import detect
from mimicit.sources.files.media_names import named_kind
from mimicit.sources.files.root import Root
from tests.corpus import benchmarks, detection, media, places, published, questions, tables, talks, tars
from tests.corpus.case import Case, Says, seen_colour
from tests.factories.engines import InProcess

CASES: list[Case] = [
    case
    for module in (tars, detection, places, talks, tables, questions, published, benchmarks, media)
    for case in module.CASES
]


def said(sample: Sample) -> Says:
    """What ``sample`` shows and says."""
    query = sample.triplets[-1]
    shows = tuple(seen_colour(medium.data[0]) for medium in sample.media)
    sizes = tuple((medium.width, medium.height) for medium in sample.media)
    return Says(answer=query.answer, shows=shows, instruction=query.instruction, sizes=sizes)


def as_asked(seen: Says, case: Case) -> Says:
    """``seen`` without the fields that the sample of ``case`` which it may be leaves open."""
    for says in case.says:
        if (says.answer, says.shows) == (seen.answer, seen.shows):
            return replace(
                seen,
                instruction=None if says.instruction is None else seen.instruction,
                sizes=None if says.sizes is None else seen.sizes,
            )
    return seen


def files_of(src: Path) -> set[str]:
    """The files under ``src`` that a build reads: no links, and nothing hidden."""
    files = {path.relative_to(src).as_posix() for path in src.rglob("*") if path.is_file() and not path.is_symlink()}
    return {path for path in files if not any(step.startswith(".") for step in path.split("/"))} - {"mimicit.toml"}


def shown_files(out: Path) -> set[str]:
    """The files that the media of a build lie in."""
    refs = [json.loads(row["ref"]) for row in pq.read_table(out / "media.parquet", columns=["ref"]).to_pylist()]
    return {part[1] for ref in refs for part in ref["parts"]}


def named_files(out: Path) -> dict[str, str]:
    """The files that the rejects name as a whole, or media of which say why they are not used, with the reason."""
    rows = pq.read_table(out / "rejects.parquet").to_pylist()
    return {row["locator"]: row["reason"] for row in rows if row["scope"] in ("source", "media")}


def files_of_sources(src: Path, format: str | None) -> set[str]:
    return {path for spec in detect(Root(src), format=format).sources for path in (*spec.files, *spec.beside)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_sample_shows_and_says_what_is_written(case: Case, tmp_path: Path) -> None:
    src, out = tmp_path / "raw", tmp_path / "out"
    src.mkdir()
    case.write(src)
    result = build_shards(src, out, case.build_config(), engine=InProcess())
    assert list(verify_folder(out)) == []
    seen = [as_asked(said(sample), case) for sample in load(out)]
    assert Counter(seen) == Counter(case.says)
    rejected: Counter[str] = Counter()
    noted: Counter[str] = Counter()
    for source in result.manifest["sources"]:
        assert source["in"] == source["out"] + source["merged"] + sum(source["rejected"].values())
        rejected.update(source["rejected"])
        noted.update({kind: note["count"] for kind, note in source.get("notes", {}).items()})
    assert rejected == Counter(case.rejects)
    assert noted == Counter(case.notes)
    named = named_files(out)
    unused = {path for path, reason in named.items() if reason == "unused_file"}
    unused_media = {
        path for path, reason in named.items() if reason == "unused_media"
    }  # also those of rejected records
    assert unused == {path for path in case.unused if named_kind(path) is None}
    assert unused_media >= set(case.unused) - unused
    shown = shown_files(out)
    assert shown.isdisjoint(unused_media)
    nobodys = files_of(src) - shown - files_of_sources(src, case.config.get("format")) - named.keys()
    assert nobodys == set(), "neither used nor named"
