"""Video-ChatGPT and VideoChat2; what LLaVA-Video publishes is read as LLaVA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mimicit.sources import SOURCES
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import Item
from tests.factories.sources import check_items, items_of, jpeg, one_source, put, put_lines, reasons_of, triplets_of

QUESTION = {"q": "What is the main activity?", "a": "Crossing a river.", "video_id": "v_k_ZXmr8pmrs"}
TALK = {
    "video": "a b.mp4",
    "QA": [{"i": "Look closely.", "q": "What?", "a": "A cat."}, {"i": "", "q": "Then?", "a": "No."}],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("v_k_ZXmr8pmrs.mkv", "v_2.mp4", "academic_source/x/RW587.mp4"):
        put(tmp_path, f"videos/{name}", b"")
    put(tmp_path, "a b.mp4", b"")
    put(tmp_path, "picture.jpg", jpeg())
    return tmp_path


def read(root: Path, format: str, *records: Any) -> list[Item]:
    put(root, "qa.json", list(records))
    spec = SourceSpec(name="qa", format=format, files=("qa.json",), why="")
    items = list(SOURCES[format].read(spec, Root(root)))
    check_items(items, spec)
    return items


def test_video_chatgpt_probes_the_extension(root: Path) -> None:
    put(root, "VideoInstruct100K.json", [QUESTION, QUESTION | {"video_id": "v_2.mp4", "note": 1}, QUESTION | {"q": ""}])
    assert one_source(root).format == "video-chatgpt"
    first, second, third = triplets_of(items_of(root))
    assert (first.instruction, first.answer) == ("What is the main activity?", "Crossing a river.")
    assert [medium.kind for medium in first.media] == ["video"]
    assert [t.media[0].origin for t in (first, second)] == ["videos/v_k_ZXmr8pmrs.mkv", "videos/v_2.mp4"]
    assert second.meta == {"note": 1}
    assert "video" in third.instruction or "clip" in third.instruction  # without a question, the answer is a caption
    assert len({first.id, second.id, third.id}) == 3


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"video_id": "v_none"}, "missing_file"),
        ({"video_id": "../../v"}, "outside_root"),
        ({"video_id": None}, "malformed"),
        ({"q": 7}, "malformed"),
        ({"a": {"no": "text"}}, "malformed"),
        ({"a": ""}, "empty_answer"),
        ({"a": None}, "empty_answer"),
    ],
)
def test_a_question_that_cannot_be_used_is_one_reject(root: Path, fields: dict[str, Any], reason: str) -> None:
    items = read(root, "video-chatgpt", QUESTION | fields, QUESTION, [])
    assert reasons_of(items) == [reason, "malformed"]
    assert len(triplets_of(items)) == 1


@pytest.mark.parametrize("as_lines", [False, True])
def test_videochat2_is_a_conversation_about_one_clip(root: Path, as_lines: bool) -> None:
    (put_lines if as_lines else put)(root, "train.json", [TALK | {"id": "t", "source": "x"}])
    assert one_source(root).format == "videochat2"
    first, second = triplets_of(items_of(root))
    assert [(t.id, t.instruction, t.answer, t.conversation == t.place, t.turn) for t in (first, second)] == [
        ("t_0", "Look closely.\nWhat?", "A cat.", True, 0),
        ("t_1", "Then?", "No.", True, 1),
    ]
    assert first.media == second.media
    assert (first.media[0].kind, first.media[0].origin) == ("video", "a b.mp4")
    assert first.meta == {"source": "x"}


def test_videochat2_of_pictures_and_without_a_question(root: Path) -> None:
    (triplet,) = triplets_of(
        read(root, "videochat2", {"image": "picture.jpg", "QA": [{"i": "", "q": "", "a": "A cat."}]})
    )
    assert triplet.media[0].kind == "image"
    assert "picture" in triplet.instruction or "here" in triplet.instruction


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({"video": "none.mp4"}, ["missing_file"] * 2),
        ({"video": "../../a.mp4"}, ["outside_root"] * 2),
        ({"video": None}, ["malformed"] * 2),
        ({"start": 1.0, "end": 2.0}, ["unsupported_media"] * 2),
        ({"QA": [{"q": "What?", "a": ""}]}, ["empty_answer"]),
        ({"QA": [{"q": ["What?"], "a": "This."}]}, ["malformed"]),
        ({"QA": [{"q": "What?", "a": {"no": "text"}}]}, ["malformed"]),
        ({"QA": [{"q": "<image><image>?", "a": "This."}]}, ["placeholder_mismatch"]),
        ({"QA": []}, ["malformed"]),
        ({"QA": ["What?"]}, ["malformed"]),
        ({"id": 0.5}, ["malformed"]),
    ],
)
def test_a_bad_record_is_one_reject_for_each_turn(root: Path, fields: dict[str, Any], reasons: list[str]) -> None:
    items = read(root, "videochat2", TALK | fields, TALK)
    assert reasons_of(items) == reasons
    assert len(triplets_of(items)) == 2


def test_llava_video_is_llava(root: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat happens?"}, {"from": "gpt", "value": "A dance."}]
    record = {"id": "RW587", "video": "academic_source/x/RW587.mp4", "data_source": "a", "conversations": turns}
    put(root, "videos/0_30_s_academic_v0_1_cap_processed.json", [record])
    assert one_source(root).format == "llava"
    (triplet,) = triplets_of(items_of(root))
    assert (triplet.instruction, triplet.media[0].kind) == ("What happens?", "video")
    assert triplet.media[0].origin == "videos/academic_source/x/RW587.mp4"
