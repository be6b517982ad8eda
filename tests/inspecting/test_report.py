"""The report: what is counted is what is there, and no text of the data acts on the page."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.inspecting.digest_counts import DigestCounts
from mimicit.inspecting.findings import Findings, Quoted, find_out, least_of_class, warnings_of
from mimicit.inspecting.report import report_html, write_report
from mimicit.inspecting.stored_samples import open_samples
from mimicit.loading import load
from tests.factories import builds
from tests.factories import raw as make
from tests.factories.commands import mimicit
from tests.factories.viewing import SCRIPT, built, hostile_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_folder(tmp_path_factory.mktemp("hostile"))


def findings_of(path: Path) -> Findings:
    stored = open_samples(path)
    try:
        return find_out(stored)
    finally:
        stored.close()


def test_the_counts_are_those_of_the_samples(folder: Path) -> None:
    samples = list(load(folder))
    findings = findings_of(folder)
    triplets = [triplet for sample in samples for triplet in sample.triplets]
    assert (findings.samples, findings.triplets) == (len(samples), len(triplets))
    assert findings.characters == sum(len(t.instruction) + len(t.answer) for t in triplets)
    assert findings.sources == Counter(sample.source for sample in samples)
    assert findings.relations == Counter(t.relation for t in triplets if t.relation)
    assert findings.answer_lengths == Counter(least_of_class(len(t.answer)) for t in triplets)
    assert findings.distinct_answers == len({sample.query.answer for sample in samples})
    shown = Counter(c for s in samples for c in {c for media in s.media for c in media.sha256})
    assert (findings.pictures.total, findings.pictures.distinct) == (shown.total(), len(shown))
    assert [one.count for one in findings.shared_pictures] == sorted(
        (c for c in shown.values() if c > 1), reverse=True
    )[:8]
    assert findings.rejects is not None and findings.rejects.total == 1


def test_a_shard_alone_gives_the_same_counts(folder: Path) -> None:
    whole, alone = findings_of(folder), findings_of(folder / "shard-000.tar")
    assert alone.rejects is None
    alone.rejects, alone.path = whole.rejects, whole.path
    assert alone == whole


def test_nothing_of_the_data_acts(folder: Path, tmp_path: Path) -> None:
    write_report(folder, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert SCRIPT[:30] in unescape(page)
    assert "<script" not in page and "<img src=x" not in page
    assert set(re.findall(r'(?:src|href)="([^"]{5})', page)) == {"data:"}
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_warnings_name_what_repeats_and_what_dominates(tmp_path: Path) -> None:
    pictures = {f"{number}.jpg": make.picture(number) for number in range(30)}
    rows = [builds.row(f"r{n}", f"{n}.jpg", instruction="What?", answer="yes" if n else "no") for n in range(30)]
    builds.add_rows(tmp_path / "raw" / "large", pictures, rows)
    builds.add_rows(tmp_path / "raw" / "small", {"p.jpg": make.picture(99)}, [builds.row("one", "p.jpg")])
    findings = findings_of(built(tmp_path / "raw", tmp_path / "shards", context="random"))
    said = [warning.what for warning in warnings_of(findings)]
    assert any("have the answer “yes”" in what for what in said)
    assert any("are of the source large" in what for what in said)
    assert any("says the query's answer to the same question" in what for what in said)
    assert not any("share one context" in what for what in said)


def test_context_that_never_changes_is_named() -> None:
    findings = Findings(path="x", samples=100, triplets=300, sources=Counter(a=100), distinct_triplets=100)
    assert warnings_of(findings) == []
    findings.repeated_contexts = [Quoted(count=40, key="k", row=0, words="a, b")]
    assert [warning.what for warning in warnings_of(findings)] == ["40 queries (40%) share one context: a, b"]
    findings.unhelpful["score of 0 or less"] = 150
    assert "75% of the context triplets: score of 0 or less" in [warning.what for warning in warnings_of(findings)]


def test_a_damaged_sample_is_counted_and_the_rest_reported(folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "shards"
    shutil.copytree(folder, damaged)
    data = bytearray((damaged / "shard-000.tar").read_bytes())
    place = data.index(b'{"format"')
    data[place : place + 9] = b"[damaged]"
    (damaged / "shard-000.tar").write_bytes(data)
    stored = open_samples(damaged)
    findings = find_out(stored)
    assert (findings.unreadable, findings.samples) == (1, len(stored) - 1)
    assert "1 samples cannot be read" in report_html(findings, stored)


@given(st.lists(st.sampled_from("abcdefg"), max_size=60))
def test_a_tally_counts_exactly(tmp_path_factory: pytest.TempPathFactory, things: list[str]) -> None:
    counts = DigestCounts(tmp_path_factory.mktemp("counts") / "it")
    for row, thing in enumerate(things):
        counts.add(thing, row)
    repeats = counts.repeats(3)
    counts = Counter(things)
    assert (repeats.total, repeats.distinct) == (len(things), len(counts))
    expected = sorted(((count, -things.index(thing)) for thing, count in counts.items() if count > 1), reverse=True)
    assert [(one.count, -one.row) for one in repeats.most] == expected[:3]
    assert all(one.digest == DigestCounts.digest(things[one.row]) for one in repeats.most)


@given(st.integers(0, 2**40))
def test_classes_double(value: int) -> None:
    least = least_of_class(value)
    assert least <= value < max(2 * least, 1)


def test_the_command_writes_the_report(folder: Path, tmp_path: Path) -> None:
    command = ("inspect", folder, "--html", tmp_path / "r.html", "--json")
    value = json.loads(mimicit(*command).stdout)
    assert value["samples"] == len(load(folder)) and (tmp_path / "r.html").stat().st_size > 10_000
    assert mimicit(*command, "--sample", "x").returncode == 2


def test_the_sheet_shows_no_query_with_the_picture_of_another(tmp_path: Path) -> None:
    """A question about no picture may stand behind one of a random context."""
    src = tmp_path / "raw"
    (src / "images").mkdir(parents=True)
    (src / "images" / "0.jpg").write_bytes(make.picture(0))
    rows = [{"id": "seen", "media": "images/0.jpg", "instruction": "Seen?", "answer": "yes"}]
    rows += [{"id": f"blind-{number}", "instruction": f"Blind {number}?", "answer": "no"} for number in range(3)]
    make.write_manifest(src, rows)
    folder = built(src, tmp_path / "out", context="random")
    write_report(folder, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert 'alt="Seen? yes"' in html and 'alt="Blind' not in html
