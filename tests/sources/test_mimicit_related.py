"""Related ids find their instruction under every spelling that SN was published with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mimicit.pipeline import BuildConfig
from mimicit.sources import SOURCES
from mimicit.sources.files.root import Root
from mimicit.sources.items import Entry, TrainEntry
from tests.factories.builds import build
from tests.factories.sources import base64_jpeg, items_of, one_source, put, triplets_of

LONG = "SN_00_INS_scene0000_00_activity0_round0"
SHORT = "SN_INS_scene0000_activity1_round0"


def record(picture: int, *related: str) -> dict[str, Any]:
    ids = [f"SN_IMG_scene0000_color_{picture:06d}"]
    return {"instruction": f"What is {picture}?", "answer": "A room.", "image_ids": ids, "rel_ins_ids": list(related)}


def put_set(root: Path) -> None:
    # Each names the other by a spelling that the other does not have.
    data = {
        LONG: record(1, "SN_00_INS_scene0000_00_activity1_round0", "SN_INS_scene0009_activity9_round9"),
        SHORT: record(2, "SN_INS_scene0000_activity0_round0", LONG),
    }
    put(root, "SN_instructions.json", {"meta": {}, "data": data})
    put(root, "SN.json", {f"SN_00_IMG_scene0000_00_color_{n:06d}": base64_jpeg(n) for n in (1, 2)})


def test_related_ids_are_those_that_the_instructions_have(tmp_path: Path) -> None:
    put_set(tmp_path)
    first, second = triplets_of(items_of(tmp_path))
    assert first.related == (SHORT, "SN_INS_scene0009_activity9_round9")
    assert second.related == (LONG, LONG)
    built = build(tmp_path, tmp_path / "out", BuildConfig(context="related"))
    assert [t.id for t in built.samples[LONG].context] == [SHORT]
    assert [(r["reason"], r["scope"], r["id"]) for r in built.rejects] == [("dangling_reference", "reference", LONG)]


def test_the_training_list_may_spell_them_in_another_way(tmp_path: Path) -> None:
    put_set(tmp_path)
    put(tmp_path, "SN_train.json", {"SN_INS_scene0000_activity0_round0": ["SN_00_INS_scene0000_activity1_round0"]})
    (entry,) = [item for item in items_of(tmp_path) if isinstance(item, TrainEntry)]
    assert (entry.id, entry.related) == (LONG, (SHORT,))


def test_nothing_is_kept_of_other_sets(tmp_path: Path) -> None:
    data = {id: record(1) for id in ("DC_INS_00001", "x", "LA_INS_1", SHORT)}
    put(tmp_path, "X_instructions.json", {"meta": {}, "data": data})
    join, root = SOURCES["mimicit"].join, Root(tmp_path)
    assert join is not None
    assert [entry.key for entry in join.entries(one_source(tmp_path), root) if isinstance(entry, Entry)] == [SHORT]
