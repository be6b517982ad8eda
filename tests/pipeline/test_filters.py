"""Filters: each reason at its limit, what holds for all inputs, and one of each in a build."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.media import MediaOptions
from mimicit.pipeline import BuildConfig
from mimicit.pipeline.stages import passing
from mimicit.pipeline.stages.filters import FilterConfig, MediaFacts, media_fault, repetition, text_fault
from mimicit.sources import SOURCES
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceFormat, SourceSpec
from mimicit.sources.items import InFile, Item, MediaRef, RawTriplet
from tests.factories import raw as make
from tests.factories.builds import Built, add_rows, build, row
from tests.factories.engines import InProcess

sides = st.integers(1, 100_000)
facts = st.builds(MediaFacts, sides, sides, st.integers(0, 10**9))


@pytest.mark.parametrize(
    ("filters", "passes", "fails", "reason"),
    [
        (FilterConfig(min_side=32), (32, 90, 1), (31, 90, 1), "small_picture"),
        (FilterConfig(max_side=90), (32, 90, 1), (32, 91, 1), "large_picture"),
        (FilterConfig(max_aspect=3), (30, 90, 1), (30, 91, 1), "aspect_ratio"),
        (FilterConfig(min_bytes=10), (1, 1, 10), (1, 1, 9), "file_size"),
        (FilterConfig(max_bytes=10), (1, 1, 10), (1, 1, 11), "file_size"),
    ],
)
def test_media_at_the_limit_pass_and_beyond_it_fail(
    filters: FilterConfig, passes: tuple[int, int, int], fails: tuple[int, int, int], reason: str
) -> None:
    for width, height, size in (passes, fails):  # lying or standing is the same to every filter
        upright = media_fault(MediaFacts(width, height, size), filters)
        lying = media_fault(MediaFacts(height, width, size), filters)
        assert (upright and upright.reason) == (lying and lying.reason)
    assert media_fault(MediaFacts(*passes), filters) is None
    fault = media_fault(MediaFacts(*fails), filters)
    assert fault is not None
    assert fault.reason == reason


@pytest.mark.parametrize(
    ("filters", "passes", "fails", "reason"),
    [
        (FilterConfig(min_characters=5), ("ab", "cde"), ("ab", "cd"), "text_length"),
        (FilterConfig(max_characters=5), ("ab", "cde"), ("ab", "cdef"), "text_length"),
        (FilterConfig(max_repetition=0.5), ("", "so it goes, " * 2), ("", "so it goes, " * 3), "repeated_text"),
        (FilterConfig(), ("a\tb", "c\r\nd\x7f\x85é"), ("ab", "c\x0bd"), "control_characters"),
    ],
)
def test_texts_at_the_limit_pass_and_beyond_it_fail(
    filters: FilterConfig, passes: tuple[str, str], fails: tuple[str, str], reason: str
) -> None:
    assert text_fault(passes, filters) is None
    fault = text_fault(fails, filters)
    assert fault is not None
    assert fault.reason == reason


@pytest.mark.parametrize("code", range(32))
def test_every_control_character_but_white_space_is_found(code: int) -> None:
    fault = text_fault(("fine", f"a{chr(code)}"), FilterConfig())
    assert (fault is None) == (chr(code) in "\t\n\r")
    assert text_fault((chr(code),), FilterConfig(control_characters=True)) is None


@given(facts)
def test_by_default_every_medium_passes(medium: MediaFacts) -> None:
    assert media_fault(medium, FilterConfig()) is None


@given(facts, st.integers(0, 500), st.integers(0, 500))
def test_a_stricter_limit_never_lets_more_pass(medium: MediaFacts, one: int, other: int) -> None:
    loose, strict = sorted((one, other))
    if media_fault(medium, FilterConfig(min_side=strict)) is None:
        assert media_fault(medium, FilterConfig(min_side=loose)) is None
    if loose and media_fault(medium, FilterConfig(max_bytes=loose)) is None:
        assert media_fault(medium, FilterConfig(max_bytes=strict)) is None


@given(st.text(max_size=200))
def test_repetition_is_a_share_and_short_texts_have_none(text: str) -> None:
    assert 0 <= repetition(text) <= 1
    assert repetition(text[:16]) == 0


@given(st.text(min_size=1, max_size=60), st.integers(2, 6))
def test_a_loop_of_any_length_counts_but_for_its_first_round(text: str, rounds: int) -> None:
    loop = text * rounds
    if len(loop) - len(text) >= 16:
        assert repetition(loop) >= 1 - 1 / rounds - 1e-9


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "small": ("small_picture", {"media": "small.jpg"}),
    "large": ("large_picture", {"media": "large.jpg"}),
    "long": ("aspect_ratio", {"media": "long.jpg"}),
    "heavy": ("file_size", {"media": "heavy.bmp"}),
    "clip": ("small_picture", {"media": "clip.mp4"}),
    "short": ("text_length", {"instruction": "?", "answer": "!"}),
    "loop": ("repeated_text", {"answer": "Over and over and over. " * 20}),
    "control": ("control_characters", {"answer": "a form\x0cfeed, alas"}),
}
FILTERS = FilterConfig(min_side=50, max_side=900, max_aspect=3, max_bytes=400_000, min_characters=8, max_repetition=0.5)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filters") / "raw"
    pictures = {
        "good.jpg": make.picture(0, 300, 200),
        "small.jpg": make.picture(1, 300, 49),
        "large.jpg": make.picture(2, 901, 600),
        "long.jpg": make.picture(3, 301, 100),
        "heavy.bmp": make.picture(4, 600, 400, "BMP"),
    }
    rows = [row("good", "good.jpg"), *({**row(id), **fields} for id, (_, fields) in BAD.items())]
    rows.append(row("friend", "good.jpg", related=["control", "good"]))
    add_rows(folder, pictures, rows)
    make.clip(folder / "clip.mp4", height=48)
    return folder


@pytest.fixture(scope="module")
def built(raw: Path) -> Built:
    return build(raw, raw.parent / "out", BuildConfig(filters=FILTERS))


def test_each_fault_is_one_reject_with_its_reason(built: Built) -> None:
    assert set(built.samples) == {"good", "friend"}
    records = {reject["id"]: reject for reject in built.rejects if reject["scope"] == "record"}
    assert {id: reject["reason"] for id, reject in records.items()} == {id: reason for id, (reason, _) in BAD.items()}
    assert {reject["stage"] for reject in records.values()} == {"filter"}
    assert records["small"]["detail"].startswith("small.jpg: 300 x 49 pixels")


def test_what_was_filtered_is_nobodys_context(built: Built) -> None:
    context = {triplet.id for sample in built.samples.values() for triplet in sample.context}
    assert context == {"good", "friend"}
    assert not any(reject["reason"] == "dangling_reference" for reject in built.rejects)  # it is there, but unwanted


def test_filters_see_the_original_and_not_what_is_stored(raw: Path, built: Built, tmp_path: Path) -> None:
    assert built.samples["good"].media[0].width == 300
    small = BuildConfig(filters=FILTERS, media=MediaOptions(size=40))
    assert set(build(raw, tmp_path / "out", small).samples) == {"good", "friend"}


def test_the_bytes_do_not_depend_on_workers(raw: Path, built: Built, tmp_path: Path) -> None:
    build(raw, tmp_path / "again", BuildConfig(filters=FILTERS), workers=2)
    assert make.hashes(tmp_path / "again") == make.hashes(raw.parent / "out")


def test_a_document_goes_on_without_its_filtered_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw"
    pictures = {"a.jpg": make.picture(0, 30, 200), "b.jpg": make.picture(1, 300, 200), "c.jpg": make.picture(2, 20, 20)}
    add_rows(raw, pictures, [])

    def read(spec: SourceSpec, root: Root) -> Iterator[Item]:
        media = tuple(MediaRef(kind="image", parts=(InFile(name),), origin=name) for name in sorted(pictures))
        parts = ((1, "First."), (2, "Then."))
        yield RawTriplet(id="doc", place="d:1", media=media, instruction="", answer="", parts=parts)
        yield RawTriplet(id="none", place="d:2", media=media[:1], instruction="", answer="", parts=((1, "Alone."),))

    def claim(root: Root, heads: object, *, force: bool = False) -> list[SourceSpec]:
        return [SourceSpec(name="documents", format="manifest", files=("manifest.jsonl",), why="a test")]

    monkeypatch.setitem(SOURCES, "manifest", SourceFormat(claim=claim, read=read))
    config = BuildConfig(filters=FilterConfig(min_side=50))
    built = build(raw, tmp_path / "out", config, engine=InProcess())  # workers know nothing of the patch
    (document,) = built.samples.values()
    assert [(triplet.answer, len(triplet.media)) for triplet in document.triplets] == [("First.", 0), ("Then.", 1)]
    assert [media.origin for media in document.media] == ["b.jpg"]
    assert [(r["scope"], r["reason"], r["id"]) for r in built.rejects] == [
        ("media", "small_picture", "doc"),
        ("media", "small_picture", "doc"),
        ("record", "small_picture", "none"),
    ]


def test_a_record_whose_media_are_too_much_for_a_sample_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of them may become one sample (two shots), which loads in one piece."""
    monkeypatch.setattr(passing, "_MAX_MEDIA_BYTES", 9000)
    pictures = {f"{number}.jpg": make.picture(number) for number in range(9)}
    rows = [row("few", "0.jpg"), row("many") | {"media": list(pictures)}]
    add_rows(tmp_path / "raw" / "own", pictures, rows)
    built = build(tmp_path / "raw", tmp_path / "out", BuildConfig())
    assert built.samples.keys() == {"few"}
    assert [(reject["id"], reject["reason"]) for reject in built.rejects] == [("many", "too_long")]
    assert "the limit is 3,000" in built.rejects[0]["detail"]
