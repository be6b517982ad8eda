"""Duplicates: equal pictures are one, pictures that look alike are left out, triplets that say the same are merged."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mimicit.media.image import distance, fingerprint
from mimicit.pipeline import BuildConfig
from mimicit.pipeline.stages.filters import FilterConfig
from mimicit.pipeline.stages.passing import LookAlikes
from tests.factories import raw as make
from tests.factories.builds import add_rows, build, row

bits = st.integers(0, 2**64 - 1)


def saved(picture: Image.Image, format: str = "JPEG", quality: int = 90) -> bytes:
    data = io.BytesIO()
    picture.save(data, format, quality=quality)
    return data.getvalue()


def resized(data: bytes, width: int, height: int, quality: int) -> bytes:
    return saved(Image.open(io.BytesIO(data)).resize((width, height)), quality=quality)


@pytest.mark.parametrize("seed", range(8))
def test_a_picture_keeps_its_fingerprint_when_resized_and_recompressed(seed: int) -> None:
    original = make.picture(seed, 480, 320)
    copy, other = fingerprint(resized(original, 300, 200, 40)), fingerprint(make.picture(seed + 100, 480, 320))
    mine = fingerprint(original)
    assert mine is not None and copy is not None and other is not None
    assert distance(mine, copy) <= 3
    assert distance(mine, other) > 11


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_plain_pictures_have_no_fingerprint(shade: int) -> None:
    plain = np.full((64, 64, 3), shade, np.uint8)
    assert fingerprint(saved(Image.fromarray(plain))) is None
    plain[:32] = min(shade + 5, 255)
    assert fingerprint(saved(Image.fromarray(plain), "PNG")) is None


@given(st.lists(bits, min_size=1, max_size=12), st.integers(0, 11), st.data())
def test_look_alikes_finds_what_a_search_of_all_finds(kept: list[int], most: int, data: st.DataObject) -> None:
    near = data.draw(st.sampled_from(kept)) ^ sum(
        1 << bit for bit in data.draw(st.sets(st.integers(0, 63), max_size=12))
    )
    look_alikes = LookAlikes(most)
    for number, look in enumerate(kept):
        look_alikes.add(number, look.to_bytes(8, "big"))
    found = look_alikes.find(99, near.to_bytes(8, "big"))
    close = [number for number, look in enumerate(kept) if distance(near, look) <= most]
    assert found == min(close, default=None)
    assert look_alikes.find(0, kept[0].to_bytes(8, "big")) is None  # it is kept itself


@pytest.mark.parametrize("most", range(12))
def test_bits_that_are_spread_over_all_bands_are_found(most: int) -> None:
    """The hardest case for a search by bands: each of the four differs by as many bits as the others."""
    look_alikes = LookAlikes(most)
    look_alikes.add(0, bytes(8))
    for flips, expected in ((most, 0), (most + 1, None)):
        spread = sum(1 << bit % 4 * 16 + bit // 4 for bit in range(flips))
        assert look_alikes.find(1, spread.to_bytes(8, "big")) == expected


def test_equal_files_are_one_picture(tmp_path: Path) -> None:
    picture = make.picture(0)
    pictures = {"a.jpg": picture, "b.jpg": picture, "c.jpg": make.picture(1)}
    rows = [row("one", "a.jpg"), row("two", "b.jpg"), row("three", "c.jpg")]
    add_rows(tmp_path / "raw", pictures, rows)
    built = build(tmp_path / "raw", tmp_path / "out", BuildConfig(context="same-media"))
    two = built.samples["two"]
    assert [(t.id, t.relation, t.media) for t in two.triplets] == [("one", "same_media", (0,)), ("two", None, ())]
    assert [media.origin for media in two.media] == ["a.jpg"]
    assert built.rejects == []


def test_a_clip_of_one_frame_is_not_its_picture(tmp_path: Path) -> None:
    """Equal stored bytes, but a clip has times that a picture lacks."""
    raw = tmp_path / "raw"
    raw.mkdir()
    make.clip(raw / "a.mp4", frames=1)
    first = build_frame(raw, tmp_path / "first")
    (raw / "b.jpg").write_bytes(first)
    make.write_manifest(raw, [row("clip", "a.mp4"), row("picture", "b.jpg")])
    built = build(raw, tmp_path / "out", BuildConfig())
    clip, picture = (built.samples[id].media[-1] for id in ("clip", "picture"))
    assert (clip.kind, picture.kind) == ("video", "image")
    assert clip.sha256 == picture.sha256


def build_frame(raw: Path, out: Path) -> bytes:
    """The stored bytes of the only frame of ``a.mp4``."""
    make.write_manifest(raw, [row("clip", "a.mp4")])
    (media,) = build(raw, out, BuildConfig()).samples["clip"].media
    return media.data[0]


@pytest.fixture(scope="module")
def look_alike_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures; a small copy of the first comes before it, and a poor copy of the second after it."""
    raw = tmp_path_factory.mktemp("alike")
    one, two, three = (make.picture(seed, 480, 320) for seed in (1, 2, 3))
    pictures = {
        "one-small.jpg": resized(one, 90, 60, 80),
        "one.jpg": one,
        "two.jpg": two,
        "two-poor.jpg": resized(two, 400, 266, 30),
        "three.jpg": three,
    }
    rows = [row(name.removesuffix(".jpg"), name) for name in pictures]
    rows.append(row("pair", media=None, images=["three.jpg", "three.jpg"]))
    rows.append(row("again", "two-poor.jpg"))
    add_rows(raw, pictures, rows)
    return raw


def test_look_alikes_are_left_out_only_when_asked(look_alike_folder: Path, tmp_path: Path) -> None:
    assert len(build(look_alike_folder, tmp_path / "all", BuildConfig()).samples) == 7
    built = build(look_alike_folder, tmp_path / "few", BuildConfig(near_duplicates=3))
    assert set(built.samples) == {"one-small", "two", "three", "pair"}
    assert [(r["id"], r["reason"], r["stage"]) for r in built.rejects] == [
        ("one", "duplicate_media", "filter"),
        ("two-poor", "duplicate_media", "filter"),
        ("again", "duplicate_media", "filter"),
    ]
    assert built.rejects[0]["detail"] == "one.jpg: looks like one-small.jpg, which is kept"
    build(look_alike_folder, tmp_path / "again", BuildConfig(near_duplicates=3), workers=2)
    assert make.hashes(tmp_path / "few") == make.hashes(tmp_path / "again")


def test_a_picture_that_is_filtered_does_not_push_out_its_look_alikes(look_alike_folder: Path, tmp_path: Path) -> None:
    config = BuildConfig(near_duplicates=3, filters=FilterConfig(min_side=100))
    built = build(look_alike_folder, tmp_path / "out", config)
    assert set(built.samples) == {"one", "two", "three", "pair"}
    assert built.sources["manifest"]["rejected"] == {"duplicate_media": 2, "small_picture": 1}


@pytest.fixture(scope="module")
def repeating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two manifests with the same triplet under several ids, and a talk that repeats itself."""
    raw = tmp_path_factory.mktemp("repeating")
    picture = make.picture(0)
    same = {"instruction": "What?", "answer": "This."}
    a = [
        row("first", "a.jpg", **same),
        row("second", "b.jpg", **same, related=["other"]),
        row("other", "a.jpg", related=["second"]),
        row("unlike", "a.jpg", instruction="What?", answer="That."),
    ]
    add_rows(raw / "a", {"a.jpg": picture, "b.jpg": picture}, a)
    add_rows(raw / "b", {"c.jpg": picture}, [row("third", "c.jpg", **same), row("fourth", "c.jpg", **same)])
    turns = [{"from": side, "value": text} for side, text in (("human", "Again?"), ("gpt", "Yes.")) * 2]
    talks = [{"id": "talk", "conversations": turns}, {"id": "twin", "conversations": turns}]
    (raw / "llava_talks.json").write_text(json.dumps(talks))
    return raw


def test_repeated_triplets_are_kept_unless_asked(repeating: Path, tmp_path: Path) -> None:
    built = build(repeating, tmp_path / "out", BuildConfig())
    assert {name: source["out"] for name, source in built.sources.items()} == {"a": 4, "b": 2, "llava_talks": 4}
    assert built.rejects == []


def test_repeated_triplets_are_merged_into_the_first(repeating: Path, tmp_path: Path) -> None:
    built = build(repeating, tmp_path / "out", BuildConfig(duplicate_triplets="merge"))
    counts = {name: (source["out"], source["merged"]) for name, source in built.sources.items()}
    assert counts == {"a": (3, 1), "b": (1, 1), "llava_talks": (4, 0)}  # a talk keeps its turns
    assert [(r["scope"], r["stage"], r["reason"], r["id"]) for r in built.rejects] == [
        ("reference", "filter", "duplicate_triplet", "second"),
        ("reference", "filter", "duplicate_triplet", "fourth"),
    ]
    assert "'first' of a" in built.rejects[0]["detail"]
    relations = {(t.id, t.relation) for t in built.samples["other"].context}
    assert ("first", "related") in relations  # it named the second, for which the first stands
    build(repeating, tmp_path / "again", BuildConfig(duplicate_triplets="merge"), workers=2)
    assert make.hashes(tmp_path / "out") == make.hashes(tmp_path / "again")


def test_triplets_are_merged_across_sources_when_asked(repeating: Path, tmp_path: Path) -> None:
    built = build(repeating, tmp_path / "out", BuildConfig(duplicate_triplets="merge-all"))
    counts = {name: (source["out"], source["merged"]) for name, source in built.sources.items()}
    assert counts == {"a": (3, 1), "b": (0, 2), "llava_talks": (4, 0)}


def test_a_merged_query_stays_a_query(tmp_path: Path) -> None:
    """The training list asks about the second of two equals: the first, which was context only, takes its place."""
    raw = tmp_path / "raw"
    make.add_mimicit(raw, triplets=3)
    path = raw / "LA" / "LA_instructions.json"
    value = json.loads(path.read_text())
    fields = ("instruction", "answer", "image_ids")
    value["data"]["LA_INS_000001"] |= {name: value["data"]["LA_INS_000000"][name] for name in fields}
    path.write_text(json.dumps(value))
    built = build(raw, tmp_path / "out", BuildConfig(duplicate_triplets="merge"))
    (source,) = built.sources.values()
    assert (source["out"], source["merged"]) == (2, 1)
    assert set(built.samples) == {"LA_INS_000000", "LA_INS_000002"}
