from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import SourceError
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.sources import SOURCES, detect
from mimicit.sources.files.reading import Reader
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import InFile, InJson, InTar, Item, RawTriplet
from tests.factories.engines import InProcess
from tests.factories.formats import mmc4_document, mmc4_image, noise, tar_of, zip_of
from tests.factories.sources import check_items, items_of, jpeg, json_values, one_source, put, put_lines, triplets_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(7):
        put(tmp_path, f"{number}.jpg", noise(number))
    put(tmp_path, "small.jpg", jpeg())
    return tmp_path


def read(root: Path, *documents: Any) -> list[Item]:
    put_lines(root, "docs.jsonl", documents)
    spec = SourceSpec(name="mmc4", format="mmc4", files=("docs.jsonl",), why="")
    items = list(SOURCES["mmc4"].read(spec, Root(root)))
    check_items(items, spec)
    return items


def rejects(items: list[Item]) -> list[tuple[str, str]]:
    return [(item.scope, item.reason) for item in items if not isinstance(item, RawTriplet)]  # type: ignore[union-attr]


def test_a_document_is_one_record_with_pictures_before_their_sentences(root: Path) -> None:
    images = [mmc4_image("1.jpg", 3), mmc4_image("0.jpg", 1), mmc4_image("2.jpg", 3, 0.24)]
    put_lines(root, "docs_no_face_shard_0_v2.jsonl", [mmc4_document(images, ["a", "b ", " ", "c", "d"], extra=7)])
    (document,) = triplets_of(items_of(root))
    assert document.parts == ((0, "a"), (1, "b"), (2, "c d"))
    assert [medium.origin for medium in document.media] == ["0.jpg", "1.jpg", "2.jpg"]
    assert document.place == "docs_no_face_shard_0_v2.jsonl:1"
    assert document.meta == {"url": "http://example.org/", "could_have_url_duplicate": 0, "extra": 7}


def test_ids_are_those_given_or_follow_from_the_content(root: Path) -> None:
    documents = [mmc4_document([mmc4_image("0.jpg", 0)], **fields) for fields in ({"id": "x"}, {"n": 1}, {"n": 2})]
    first = [item.id for item in triplets_of(read(root, *documents))]
    assert first[0] == "x"
    assert len(set(first)) == 3
    assert [item.id for item in triplets_of(read(root, *reversed(documents)))] == first[::-1]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (mmc4_image("1.jpg", 1, 0.2399), "low_similarity"),
        (mmc4_image("small.jpg", 1), "file_size"),
        (mmc4_image("none.jpg", 1), "missing_file"),
        (mmc4_image("../../1.jpg", 1), "outside_root"),
        (mmc4_image("/etc/passwd", 1), "outside_root"),
        (mmc4_image("1.jpg", 3), "malformed"),
        (mmc4_image("1.jpg", -1), "malformed"),
        (mmc4_image("1.jpg", 1) | {"matched_text_index": True}, "malformed"),
        (mmc4_image("1.jpg", 1) | {"matched_sim": None}, "malformed"),
        (mmc4_image("1.jpg", 1) | {"image_name": None}, "malformed"),
        (mmc4_image("1.jpg", 1, image_base64=["x"]), "malformed"),
        ("1.jpg", "malformed"),
    ],
)
def test_a_picture_that_cannot_be_shown_is_counted_and_the_rest_goes_on(root: Path, image: Any, reason: str) -> None:
    items = read(root, mmc4_document([image, mmc4_image("0.jpg", 2)]), mmc4_document([image]))
    assert [part for document in triplets_of(items) for part in document.parts] == [(0, "s0 s1"), (1, "s2")]
    assert rejects(items) == [("media", reason), ("media", reason), ("record", "no_media")]
    lost = items[0]
    assert lost.locator == "docs.jsonl:1"  # type: ignore[union-attr]
    assert "image_info[0]" in lost.detail  # type: ignore[union-attr]


def test_at_most_five_pictures_are_shown(root: Path) -> None:
    images = [mmc4_image(f"{number}.jpg", 0, 0.1 if number == 2 else 0.3) for number in range(7)]
    items = read(root, mmc4_document(images))
    assert rejects(items) == [("media", "low_similarity"), ("media", "too_many_pictures")]
    (document,) = triplets_of(items)
    assert [medium.origin for medium in document.media] == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image_info": []}, "no_media"),
        ({"image_info": None}, "malformed"),
        ({"text_list": "s0"}, "malformed"),
        ({"text_list": ["s0", None]}, "malformed"),
        ({"text_list": [" "]}, "empty_answer"),
        ({"text_list": ["x" * 600_000] * 2}, "too_long"),
        ({"text_list": ["x" * 1_000_001]}, "too_long"),
        ({"id": []}, "malformed"),
        ({"note": "x" * 1_000_001}, "too_long"),
    ],
)
def test_a_document_that_cannot_be_used_is_one_reject(root: Path, fields: dict[str, Any], reason: str) -> None:
    items = read(root, mmc4_document([mmc4_image("0.jpg", 0)]) | fields, mmc4_document([mmc4_image("0.jpg", 0)]))
    assert rejects(items) == [("record", reason)]
    assert len(triplets_of(items)) == 1


def test_pictures_after_the_last_text_are_counted(root: Path) -> None:
    items = read(root, mmc4_document([mmc4_image("0.jpg", 0), mmc4_image("1.jpg", 1)], ["a", " "]))
    assert rejects(items) == [("media", "unpaired_media")]
    assert triplets_of(items)[0].parts == ((1, "a"),)


def test_inline_pictures_are_read_from_their_place(root: Path) -> None:
    text = base64.b64encode(noise(9)).decode()
    image = mmc4_image("0.jpg", 0, image_base64=text)
    head = b"\xef\xbb\xbf\n  "
    lines = [json.dumps(mmc4_document([mmc4_image("1.jpg", 0), image], note="é")), json.dumps(mmc4_document([image]))]
    put(root, "docs.jsonl", head + "\n\t".join(lines).encode())
    spec = one_source(root)
    assert spec.format == "mmc4"
    (first, second) = triplets_of(SOURCES["mmc4"].read(spec, Root(root)))
    with Reader(Root(root)) as reader:
        for medium in (first.media[1], second.media[0]):
            (part,) = medium.parts
            assert isinstance(part, InJson)
            assert reader.read(part) == noise(9)
    small = mmc4_image("0.jpg", 0, image_base64=base64.b64encode(jpeg()).decode())
    assert rejects(read(root, mmc4_document([small, image]))) == [("media", "file_size")]


def test_names_that_hide_the_inline_picture_do_no_harm(root: Path) -> None:
    text = base64.b64encode(noise(9)).decode()
    info = json.dumps(mmc4_image("0.jpg", 0, image_base64=text))
    whole = json.dumps(mmc4_document([]))
    twice = whole.replace('"image_info": []', f'"image_info": [7, {info}], "image_info": [{info}]')
    hidden = whole.replace('"image_info": []', f'"image_info": [{info}]').replace("image_base64", "image\\u005fbase64")
    put(root, "docs.jsonl", f"{twice}\n{hidden}\n")
    spec = SourceSpec(name="mmc4", format="mmc4", files=("docs.jsonl",), why="")
    items = list(SOURCES["mmc4"].read(spec, Root(root)))
    # A key that stands twice, and one that is not written as it reads: neither is guessed at.
    assert rejects(items) == [("record", "malformed"), ("media", "malformed"), ("record", "no_media")]


def test_zipped_documents_with_pictures_in_a_tar_beside_them(tmp_path: Path) -> None:
    text = base64.b64encode(noise(9)).decode()
    images = [mmc4_image("a.jpg", 0), mmc4_image("b.jpg", 1), mmc4_image("c.jpg", 2, image_base64=text)]
    line = json.dumps(mmc4_document(images)).encode() + b"\n"
    put(tmp_path, "x/docs_shard_7_v2.jsonl.zip", zip_of({"docs_shard_7_v2.jsonl": line}))
    members = {"shard_7/a.jpg": noise(1), "b.jpg": noise(2), "../b.jpg": noise(3), "other/a.jpg": noise(4)}
    put(tmp_path, "x/pictures.tar", tar_of(members))
    put(tmp_path, "x/labels.tar", tar_of({"a.jpg": noise(1), "a.npy": b"1"}))
    spec = one_source(tmp_path)
    assert (spec.name, spec.files) == ("docs_shard_7_v2", ("x/docs_shard_7_v2.jsonl.zip", "x/pictures.tar"))
    items = items_of(tmp_path)
    assert rejects(items) == [("media", "outside_root"), ("media", "duplicate_id"), ("media", "unsupported_media")]
    (document,) = triplets_of(items)
    assert document.place == "x/docs_shard_7_v2.jsonl.zip:1"
    parts = [part for medium in document.media for part in medium.parts]
    assert all(isinstance(part, InTar) for part in parts)
    with Reader(Root(tmp_path)) as reader:
        assert [reader.read(part) for part in parts] == [noise(1), noise(2)]


@pytest.mark.parametrize(
    "data", [zip_of({"docs.jsonl": bytes(20 << 20)}), zip_of({"a": b"{}", "b": b"{}"}), b"PK\3\4 damaged"]
)
def test_a_zip_that_cannot_be_read_is_no_silent_loss(tmp_path: Path, data: bytes) -> None:
    put(tmp_path, "docs_no_face_shard_0_v3.jsonl.zip", data)
    put(tmp_path, "backup.zip", data)  # not called like one of MMC4's: nobody's
    spec = one_source(tmp_path)
    assert spec.format == "mmc4"
    with pytest.raises(SourceError, match=r"docs_no_face_shard_0_v3\.jsonl\.zip"):
        list(SOURCES["mmc4"].read(spec, Root(tmp_path)))


def test_the_documents_of_a_folder_are_one_source(root: Path) -> None:
    for path in ("core/docs_0.jsonl", "core/docs_1.jsonl", "other/docs_0.jsonl"):
        put_lines(root, path, [mmc4_document([mmc4_image("0.jpg", 0)])])
    put(root, "core/images/0.jpg", noise(20))
    sources = detect(Root(root)).sources
    assert [(spec.name, len(spec.files)) for spec in sources] == [("core", 2), ("docs_0", 1)]
    media = [
        triplet.media[0].parts for spec in sources for triplet in triplets_of(SOURCES["mmc4"].read(spec, Root(root)))
    ]
    assert media == [(InFile("core/images/0.jpg"),)] * 2 + [(InFile("0.jpg"),)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mmc4")
    put(place, "0.jpg", noise(0))
    return place


images = st.builds(mmc4_image, st.just("0.jpg"), st.integers(-1, 2), st.sampled_from([0.1, 0.3])) | json_values
documents = st.fixed_dictionaries(
    {"text_list": st.lists(st.sampled_from(["a", "b", " "]), max_size=3) | json_values},
    optional={"image_info": st.lists(images, max_size=7) | json_values, "id": json_values},
)


@given(st.lists(documents | json_values, max_size=4))
def test_no_document_and_no_picture_is_lost(folder: Path, values: list[Any]) -> None:
    items = read(folder, *values)
    for number, value in enumerate(values, 1):
        mine = [
            item
            for item in items
            if f"docs.jsonl:{number}" in (getattr(item, "place", ""), getattr(item, "locator", ""))
        ]
        records = [item for item in mine if isinstance(item, RawTriplet) or item.scope == "record"]  # type: ignore[union-attr]
        assert len(records) == 1
        if isinstance(records[0], RawTriplet):
            assert len(mine) - 1 + len(records[0].media) == len(value["image_info"])


def test_where_nothing_is_left_the_error_says_which_rule_took_how_many_pictures(tmp_path: Path) -> None:
    put(tmp_path, "raw/a.jpg", noise(1))
    put(tmp_path, "raw/small.jpg", jpeg())
    images = [mmc4_image("a.jpg", 0, matched_sim=0.1), mmc4_image("a.jpg", 1, matched_sim=0.2)]
    images += [mmc4_image("small.jpg", 0), mmc4_image("none.jpg", 2)]
    put_lines(tmp_path, "raw/docs.jsonl", [mmc4_document(images)])
    with pytest.raises(SourceError) as caught:
        build_shards(tmp_path / "raw", tmp_path / "out", BuildConfig(), engine=InProcess())
    said = str(caught.value)
    assert "2 as low_similarity, such as image_info[0] 'a.jpg': matched_sim 0.1 is below 0.24" in said
    assert "1 as file_size" in said
    assert "1 as missing_file, such as image_info[3] 'none.jpg'" in said
