from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.sources import SOURCES
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import InFile, Item
from tests.factories.sources import (
    check_items,
    items_of,
    jpeg,
    json_values,
    one_source,
    put,
    put_lines,
    reasons_of,
    triplets_of,
)

# The record that LLaVA's own documentation shows, cut short.
PUBLISHED: dict[str, Any] = {
    "id": "000000033471",
    "image": "coco/train2017/000000033471.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat are the colors of the bus in the image?"},
        {"from": "gpt", "value": "The bus in the image is white and red."},
        {"from": "human", "value": "What feature can be seen on the back of the bus?"},
        {"from": "gpt", "value": "The back of the bus features an advertisement."},
    ],
}


def talk(*texts: Any) -> list[dict[str, Any]]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def read(root: Path, *records: Any) -> list[Item]:
    put(root, "llava.json", list(records))
    spec = SourceSpec(name="llava", format="llava", files=("llava.json",), why="")
    items = list(SOURCES["llava"].read(spec, Root(root)))
    check_items(items, spec)
    return items


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "clip.mp4", "coco/train2017/000000033471.jpg"):
        put(tmp_path, name, jpeg())
    return tmp_path


@pytest.mark.parametrize("as_lines", [False, True])
def test_the_published_record(root: Path, as_lines: bool) -> None:
    (put_lines if as_lines else put)(root, "llava_instruct_150k.json", [PUBLISHED])
    spec = one_source(root)
    assert (spec.name, spec.format) == ("llava_instruct_150k", "llava")
    first, second = triplets_of(items_of(root))
    place = "llava_instruct_150k.json:1" if as_lines else "llava_instruct_150k.json[0]"
    assert [(t.id, t.place, t.conversation, t.turn) for t in (first, second)] == [
        ("000000033471_0", place, place, 0),
        ("000000033471_1", place, place, 1),
    ]
    assert first.instruction == "What are the colors of the bus in the image?"
    assert first.answer == "The bus in the image is white and red."
    assert [medium.parts for medium in first.media] == [(InFile("coco/train2017/000000033471.jpg"),)]
    assert second.media == first.media  # what was shown last; a sample shows it once


def test_odd_but_published_forms(root: Path) -> None:
    found = triplets_of(
        read(
            root,
            {"id": 7, "conversations": talk("Hi.", "Hello.")},
            {"id": "trailing", "image": "a.jpg", "conversations": talk("What?\n<image>", "This.")},
            {"id": "two", "image": ["a.jpg", "b.jpg"], "conversations": talk("<image>\n<image>\nCompare.", "Same.")},
            {"id": "gpt first", "conversations": [{"from": "gpt", "value": "Welcome."}, *talk("Hi.", "Hello.")]},
            {"id": "extra", "model": "v1", "conversations": talk("Hi.", "Hello.")},
            {"id": "video", "video": "clip.mp4", "data_source": "x", "conversations": talk("<image>\nWhat?", "This.")},
            {"id": "video 2", "video": "clip.mp4", "conversations": talk("<video>\nWhat?", "This.")},
            {"id": "middle", "image": "a.jpg", "conversations": talk("Is <image> red?", "No.")},
            {"conversations": talk("Nobody?", "Here.")},
        )
    )
    by_id = {triplet.id: triplet for triplet in found}
    assert len(by_id) == 9
    assert by_id["7"].media == ()
    assert by_id["trailing"].instruction == "What?"
    assert [medium.origin for medium in by_id["two"].media] == ["a.jpg", "b.jpg"]
    assert by_id["two"].instruction == "Compare."
    assert by_id["gpt first"].instruction == "Hi."
    assert by_id["extra"].meta == {"model": "v1"}
    assert by_id["video"].meta == {"data_source": "x"}
    assert by_id["video"].media == by_id["video 2"].media
    assert [medium.kind for medium in by_id["video"].media] == ["video"]
    assert by_id["middle"].instruction == "Is image 1 red?"


def test_chat_files_with_messages_and_a_second_picture_later(root: Path) -> None:
    # The shape of LLaMA-Factory's demo file: a row whose second picture comes with the second question.
    texts = ["<image>Who are they?", "Players.", "<image>Who is this?", "A player.", "And now?", "The same."]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    record = {"messages": [{"role": "system", "content": "Be kind."}, *messages], "images": ["a.jpg", "b.jpg"]}
    put(root, "mllm_demo.json", [record])
    assert one_source(root).format == "llava"
    found = triplets_of(items_of(root))
    assert [(t.instruction, [medium.origin for medium in t.media]) for t in found] == [
        ("Who are they?", ["a.jpg"]),
        ("Who is this?", ["b.jpg"]),
        ("And now?", ["b.jpg"]),
    ]


def test_pictures_are_looked_for_beside_the_file_then_at_the_root_then_in_images(root: Path) -> None:
    put(root, "sub/here.jpg", jpeg())
    put(root, "sub/images/there.jpg", jpeg())
    names = ["here.jpg", "a.jpg", "there.jpg"]
    put(root, "sub/x.json", [{"id": n, "image": n, "conversations": talk("<image>", "A caption.")} for n in names])
    origins = [medium.origin for triplet in triplets_of(items_of(root)) for medium in triplet.media]
    assert origins == ["sub/here.jpg", "a.jpg", "sub/images/there.jpg"]


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({"conversations": talk("<image><image>", "This.", "And?", "That.")}, ["placeholder_mismatch"] * 2),
        ({"image": None}, ["placeholder_mismatch"]),
        ({"conversations": talk("<image 2>What?", "This.")}, ["placeholder_mismatch"]),
        ({"conversations": talk("<image>What?", "See <image>.")}, []),
        ({"image": "none.jpg"}, ["missing_file"]),
        ({"image": "../../a.jpg"}, ["outside_root"]),
        ({"image": ["a.jpg", 7]}, ["malformed"]),
        ({"conversations": talk("<image>\nWhat?", "  ")}, ["empty_answer"]),
        ({"conversations": talk("<image>\nWhat?")}, ["empty_answer"]),
        ({"conversations": talk("<image>\nWhat?", "An <image>.")}, []),
        ({"conversations": talk("<image>\nWhat is <answer>?", "This.")}, []),
        ({"conversations": talk("<im<image>age>", "This.")}, []),
        ({"conversations": talk("<image>\nWhat?", {"text": "This."})}, ["malformed"]),
        ({"conversations": talk("<image>\nA?", "B.", None, "C.")}, ["malformed"]),
        ({"conversations": []}, ["malformed"]),
        ({"conversations": None}, ["malformed"]),
        ({"conversations": ["Hi."]}, ["malformed"]),
        ({"conversations": [{"from": ["human"], "value": "<image>Hi."}]}, ["malformed"]),
        ({"conversations": [*talk("<image>A?", "B."), {"from": "judge", "value": "Good."}]}, ["malformed"]),
        ({"conversations": [{"from": "narrator", "value": "Once."}, *talk("<image>A?", "B.")]}, ["malformed"]),
        ({"conversations": talk([{"type": "tool_use"}], "B.")}, ["malformed"]),
        ({"conversations": talk([{"type": "image"}, {"type": "image"}], "B.")}, ["placeholder_mismatch"]),
        (
            {"conversations": talk("<image>A?", [{"type": "text", "text": "B"}, {"type": "image"}])},
            [],
        ),
        ({"id": []}, ["malformed"]),
        ({"audios": ["a.mp3"]}, ["unsupported_media"]),
        ({"note": "x" * 1_000_001}, ["too_long"]),
    ],
)
def test_a_bad_record_is_one_reject_for_each_turn(root: Path, fields: dict[str, Any], reasons: list[str]) -> None:
    record = {"id": "r", "image": "a.jpg", "conversations": talk("<image>\nWhat?", "This.")} | fields
    assert reasons_of(read(root, record)) == reasons


def test_a_turn_that_is_left_out_leaves_the_others_whole(root: Path) -> None:
    texts = talk("<image>\nA?", "", "B?", "Yes.", "\0", "No.", "D?", "Maybe.")
    items = read(root, {"id": "r", "image": "a.jpg", "conversations": texts})
    assert reasons_of(items) == ["empty_answer", "malformed"]
    assert [(t.id, t.turn, len(t.media)) for t in triplets_of(items)] == [("r_1", 1, 1), ("r_3", 3, 1)]


def test_turns_without_a_partner_are_rejects(root: Path) -> None:
    texts = [
        {"from": "human", "value": "A?"},
        {"from": "human", "value": "B?"},
        {"from": "gpt", "value": "To B."},
        {"from": "gpt", "value": "To nobody."},
        {"from": "human", "value": "C?"},
    ]
    items = read(root, {"id": "r", "conversations": texts})
    assert [item.id for item in items] == ["r_0", "r_1", "r_2", "r_3"]
    assert reasons_of(items) == ["empty_answer", "malformed", "empty_answer"]
    assert [t.answer for t in triplets_of(items)] == ["To B."]


turns = st.lists(
    st.fixed_dictionaries(
        {"from": st.sampled_from(["human", "gpt", "human", "gpt", "system"]) | json_values},
        optional={"value": st.sampled_from(["<image>What?", "What?", "This.", "<answer>", ""]) | json_values},
    ),
    max_size=6,
)
records = st.fixed_dictionaries(
    {"conversations": turns | json_values},
    optional={
        "id": st.integers() | st.text(max_size=4) | json_values,
        "image": st.sampled_from(["a.jpg", "none.jpg", ["a.jpg", "b.jpg"]]) | json_values,
        "video": st.just("clip.mp4"),
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("llava")
    for name in ("a.jpg", "b.jpg", "clip.mp4"):
        put(place, name, jpeg())
    return place


def questions_and_strays(record: Any) -> int:
    """How many triplets a record claims to hold, counted naively: questions, and answers that follow an answer."""
    count = 0
    previous = None
    for entry in record["conversations"]:
        if entry["from"] == "human" or (entry["from"] == "gpt" and previous == "gpt" and count):
            count += 1
        previous = entry["from"] if entry["from"] in ("human", "gpt") else previous
    return max(count, 1)


@given(st.lists(records | json_values, max_size=4))
def test_no_record_is_lost(folder: Path, values: list[Any]) -> None:
    items = read(folder, *values)
    assert len({item.place if hasattr(item, "place") else item.locator for item in items}) == len(values)


sound_turns = st.lists(st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": st.text(max_size=5)}))


@given(sound_turns)
def test_every_question_is_one_triplet_or_one_reject(folder: Path, entries: list[dict[str, Any]]) -> None:
    record = {"id": "r", "conversations": entries}
    assert len(read(folder, record)) == questions_and_strays(record)


@pytest.mark.parametrize("speaker", ["chatgpt", "bing", "bard", "gpt", "assistant"])
def test_every_speaker_of_sharegpt_answers(root: Path, speaker: str) -> None:
    said = [("system", "Be brief."), ("human", "Hi?"), (speaker, "Hello."), ("system", "Go on."), ("user", "And?")]
    talk = [{"from": who, "value": text} for who, text in [*said, (speaker, "Bye.")]]
    first, second = triplets_of(read(root, {"id": "s", "conversations": talk}))
    assert [(t.instruction, t.answer) for t in (first, second)] == [("Hi?", "Hello."), ("And?", "Bye.")]
    assert first.meta == second.meta == {"system": "Be brief."}


def test_a_field_called_system_wins_over_what_is_said(root: Path) -> None:
    talk = [{"from": "system", "value": 7}, {"from": "human", "value": "Hi?"}, {"from": "bing", "value": "Hello."}]
    (own,) = triplets_of(read(root, {"id": "s", "system": "Mine.", "conversations": talk}))
    assert own.meta == {"system": "Mine."}
    (none,) = triplets_of(read(root, {"id": "s", "conversations": talk}))
    assert none.meta == {}
