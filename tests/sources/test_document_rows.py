"""What an export adds to a manifest: clips given by their frames, triplets that are context alone, documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mimicit.sources import SOURCES
from mimicit.sources.files.root import Root
from mimicit.sources.items import InFile, MediaRef
from tests.factories.sources import items_of, jpeg, json_values, one_source, put, put_lines, reasons_of, triplets_of

CLIP = {"frames": ["media/0.jpg", "media/1.jpg"], "timestamps_s": [0, 0.5], "duration_s": 1.0}
FRAMES = MediaRef(
    kind="video",
    parts=(InFile("own/media/0.jpg"), InFile("own/media/1.jpg")),
    origin="own/media/0.jpg",
    timestamps_s=(0.0, 0.5),
    duration_s=1.0,
)
PICTURE = MediaRef(kind="image", parts=(InFile("own/media/1.jpg"),), origin="own/media/1.jpg")


def put_rows(root: Path, *rows: dict[str, Any]) -> None:
    for number in range(2):
        put(root, f"own/media/{number}.jpg", jpeg(number))
    put_lines(root, "own/manifest.jsonl", rows)


def test_a_clip_may_be_given_by_its_frames(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "media": [CLIP, "media/1.jpg"], "instruction": "What?", "answer": "This."},
        {"id": "b", "media": CLIP, "instruction": "What?", "answer": "This."},
    ]
    put_rows(tmp_path, *rows)
    assert [triplet.media for triplet in triplets_of(items_of(tmp_path))] == [(FRAMES, PICTURE), (FRAMES,)]


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        ({"frames": []}, "malformed"),
        ({"duration_s": "1"}, "malformed"),
        ({"duration_s": True}, "malformed"),
        ({"duration_s": 0.4}, "malformed"),  # before the last frame
        ({"duration_s": 10**400}, "malformed"),
        ({"frames": "media/0.jpg", "timestamps_s": [0]}, "malformed"),
        ({"frames": ["media/0.jpg", 7], "timestamps_s": [0, 1]}, "malformed"),
        ({"frames": ["media/0.jpg"]}, "malformed"),
        ({"frames": ["media/0.jpg"], "timestamps_s": [0, 1]}, "malformed"),
        ({"frames": ["media/0.jpg"], "timestamps_s": ["0"]}, "malformed"),
        ({"frames": ["media/0.jpg"], "timestamps_s": [True]}, "malformed"),
        ({"frames": ["media/9.jpg"], "timestamps_s": [0]}, "missing_file"),
        ({"frames": ["../../0.jpg"], "timestamps_s": [0]}, "outside_root"),
    ],
)
def test_frames_that_make_no_clip(tmp_path: Path, clip: dict[str, Any], reason: str) -> None:
    put_rows(tmp_path, {"id": "a", "media": [clip], "instruction": "What?", "answer": "This."})
    assert reasons_of(items_of(tmp_path)) == [reason]


@pytest.mark.parametrize(
    ("query", "is_query", "meta"),
    [
        (False, False, {}),
        (True, True, {}),
        (None, True, {}),
        ("a word", True, {"query": "a word"}),
        (0, True, {"query": 0}),
    ],
)
def test_context_alone(tmp_path: Path, query: object, is_query: bool, meta: dict[str, Any]) -> None:
    put_rows(tmp_path, {"id": "a", "instruction": "What?", "answer": "This.", "query": query})
    (triplet,) = triplets_of(items_of(tmp_path))
    assert (triplet.is_query, triplet.meta) == (is_query, meta)


def test_context_alone_in_a_csv_cell(tmp_path: Path) -> None:
    put(
        tmp_path, "manifest.csv", "id,instruction,answer,query\na,What?,This.,False\nb,What?,That.,true\nc,What?,So.,\n"
    )
    assert [triplet.is_query for triplet in triplets_of(items_of(tmp_path))] == [False, True, True]


def test_a_document(tmp_path: Path) -> None:
    pieces = [{"media": "media/1.jpg"}, {"media": [CLIP], "text": None}, {"text": "One. "}, {"text": "Two."}]
    put_rows(tmp_path, {"id": "d", "document": pieces, "url": "http://a.b", "meta": {"lang": "en"}})
    (triplet,) = triplets_of(items_of_documents(tmp_path))
    assert triplet.media == (PICTURE, FRAMES)
    assert triplet.parts == ((2, "One."), (0, "Two."))
    assert (triplet.instruction, triplet.answer, triplet.related) == ("", "", ())
    assert triplet.meta == {"url": "http://a.b", "lang": "en"}


def test_a_free_field_called_document_stays_one(tmp_path: Path) -> None:
    put_rows(tmp_path, {"id": "a", "instruction": "What?", "answer": "This.", "document": ["p. 1"]})
    (triplet,) = triplets_of(items_of(tmp_path))
    assert (triplet.parts, triplet.meta) == ((), {"document": ["p. 1"]})


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([], "empty_answer"),
        ([{"text": "  "}], "empty_answer"),
        (["text"], "malformed"),
        ([{"text": "a", "media": "media/0.jpg"}], "malformed"),
        ([{"text": "a"}, {"media": "media/0.jpg"}], "malformed"),
        ([{"media": "nowhere.jpg"}, {"text": "a"}], "missing_file"),
    ],
)
def test_documents_that_are_none(tmp_path: Path, pieces: list[Any], reason: str) -> None:
    put_rows(tmp_path, {"id": "d", "document": pieces})
    assert reasons_of(items_of_documents(tmp_path)) == [reason]


@given(
    row=st.fixed_dictionaries({}, optional=dict.fromkeys(("media", "query", "meta", "answer"), json_values)),
    pieces=json_values | st.lists(json_values | st.fixed_dictionaries({"text": json_values})),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_is_a_triplet_or_a_reject(tmp_path: Path, row: dict[str, Any], pieces: Any) -> None:
    put_rows(tmp_path, {"id": "d", **row, "document": pieces})
    assert len(items_of_documents(tmp_path)) == 1


def items_of_documents(root: Path) -> list[Any]:
    """As `items_of`, whose check of answers is for triplets that are questions."""
    spec = one_source(root)
    return list(SOURCES[spec.format].read(spec, Root(root)))
