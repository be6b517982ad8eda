"""A filter leaves exactly the samples that meet it, in the same order as without, and says what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from mimicit.errors import UsageError
from mimicit.loading import Where, load
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.records import Sample
from tests.factories import raw as make
from tests.factories.engines import InProcess


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("where")
    make.add_manifest(place / "raw", pictures=4)
    make.add_llava(place / "raw")
    (place / "raw" / "clips").mkdir()
    make.clip(place / "raw" / "clips" / "a.mp4")
    (place / "raw" / "clips" / "a.txt").write_text("A brighter and brighter square.")
    make.write_manifest(place / "raw" / "talk", [{"id": "hello", "instruction": "Say hello.", "answer": "Hello."}])
    build_shards(place / "raw", place / "shards", BuildConfig(), engine=InProcess())
    return place / "shards"


def kinds(sample: Sample) -> set[str]:
    return {media.kind for media in sample.media} or {"text"}


@pytest.mark.parametrize(
    ("where", "meets"),
    [
        ({"source": "own"}, lambda s: s.source == "own"),
        ({"source": ["own", "clips"]}, lambda s: s.source in ("own", "clips")),
        ({"kind": "video"}, lambda s: "video" in kinds(s)),
        ({"kind": "text"}, lambda s: "text" in kinds(s)),
        ({"kind": ("image", "video")}, lambda s: "text" not in kinds(s)),
        ({"relation": "conversation"}, lambda s: any(t.relation == "conversation" for t in s.triplets)),
        ({"min_triplets": 2, "max_triplets": 3}, lambda s: len(s.triplets) in (2, 3)),
        ({"max_frames": 1}, lambda s: sum(len(m.files) for m in s.media) <= 1),
        ({"min_characters": 120}, lambda s: sum(len(t.instruction + t.answer) for t in s.triplets) >= 120),
        ({"source": "llava_instruct", "min_media": 2}, lambda s: s.source == "llava_instruct" and len(s.media) >= 2),
    ],
)
def test_exactly_the_samples_that_meet_it(shards: Path, where: dict[str, Any], meets: Any) -> None:
    wanted = [sample for sample in load(shards) if meets(sample)]
    assert 0 < len(wanted) < len(load(shards))
    assert list(load(shards, where=where)) == wanted == list(load(shards, where=Where(**where)))
    shuffled = list(load(shards, where=where, shuffle="full"))
    assert sorted(shuffled, key=lambda s: s.key) == sorted(wanted, key=lambda s: s.key)


def test_an_arrow_expression(shards: Path) -> None:
    wanted = [sample for sample in load(shards) if sample.source == "own" or len(sample.triplets) == 1]
    assert list(load(shards, where=(pc.field("source") == "own") | (pc.field("triplets") == 1))) == wanted


def test_the_fingerprint_is_that_of_the_selection(shards: Path) -> None:
    def print_of(where: Any) -> str:
        return load(shards, where=where).fingerprints["filter"]

    assert print_of({"source": "own"}) == print_of(pc.field("source") == "own") != print_of(None)
    assert print_of({"source": "own"}) != print_of({"source": "clips"})
    assert load(shards, where={"source": "own"}).fingerprints["content"] == load(shards).fingerprints["content"]


def test_keys_that_are_left_out_are_unknown(shards: Path) -> None:
    own, clips = load(shards, where={"source": "own"}), load(shards, where={"source": "clips"})
    assert own.by_key(own[0].key) == own[0]
    with pytest.raises(UsageError, match="the filter leaves out"):
        own.by_key(clips[0].key)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"sources": "own"}, "'sources' is not known; did you mean source"),
        ({"kind": "audio"}, "'audio' is not known; there are: image, text, video"),
        ({"relation": "radom"}, "did you mean random"),
        ({"source": "nobody"}, r"shards: none .*where=\{'source': 'nobody'\}; its sources are clips, .*, talk"),
        (pc.field("nothing") > 3, "the index has key, id, source"),
        ({"min_frames": "many"}, "where="),
    ],
)
def test_what_is_wrong_is_named(shards: Path, where: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(shards, where=where)
