"""The pool over the tables of a build says the same as a look at every triplet would."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimicit.pipeline.parts import ColumnFile, batches_of_rows, write_columns
from mimicit.pipeline.stages.links import link_triplets
from mimicit.pipeline.stages.pool import TripletPool
from mimicit.pipeline.tables import MEDIA, MEDIA_NAME, MERGED, MERGED_NAME, TRIPLETS, TRIPLETS_NAME

SOURCES = ("one", "two")


def triplets(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Triplets of two sources, some of which are rejected or merged into an earlier one."""
    rows: list[dict[str, Any]] = []
    for seq in range(count):
        source = int(seq >= count // 2)
        usable = [row["seq"] for row in rows if row["source"] == source and row["rank"] is not None]
        fate = rng.choice(["usable", "usable", "usable", "merged", "rejected"])
        shown = rng.choice(["", "a", "b", "a,b"])
        row: dict[str, Any] = {
            "seq": seq,
            "source": source,
            "id": f"t{seq}",
            "shown": shown,
            "rank": None,
            "into": None,
        }
        if fate == "usable":
            row["rank"] = len(usable)
        elif fate == "merged" and usable:
            row["into"] = rng.choice(usable)
        row["conversation"] = rng.choice([None, "c", "d"])
        row["turn"] = rng.randrange(4)
        row["related"] = [f"t{rng.randrange(count + 2)}" for _ in range(rng.randrange(4))]
        rows.append(row)
    return rows


def write_tables(work: Path, rows: list[dict[str, Any]]) -> None:
    usable = [row for row in rows if row["rank"] is not None]
    place = {row["seq"]: number for number, row in enumerate(usable)}
    texts = ((row, f"question {row['seq']}", row["conversation"] or "") for row in usable)
    triplets = [
        (
            *(row["source"], row["id"], "", question, "a", b"{}", [], row["shown"], b""),
            *(conversation, row["turn"], True, row["related"]),
        )
        for row, question, conversation in texts
    ]
    write_columns(work / TRIPLETS_NAME, TRIPLETS, batches_of_rows(triplets, TRIPLETS))
    merged = [(row["source"], row["id"], "", place[row["into"]]) for row in rows if row["into"] is not None]
    write_columns(work / MERGED_NAME, MERGED, batches_of_rows(merged, MERGED))
    write_columns(work / MEDIA_NAME, MEDIA, [])
    link_triplets(work)


@pytest.mark.parametrize("seed", range(8))
def test_candidates_are_those_that_a_look_at_all_triplets_finds(tmp_path: Path, seed: int) -> None:
    rows = triplets(random.Random(seed), 60)
    write_tables(tmp_path, rows)
    pool = TripletPool(tmp_path, SOURCES)
    usable = [row for row in rows if row["rank"] is not None]
    by_id = {(row["source"], row["id"]): row for row in rows}
    found_at_once = 0
    for place, row in enumerate(usable):
        mine = [other for other in usable if other["source"] == row["source"]]

        def places(those: Iterable[dict[str, Any]]) -> list[int]:
            return [usable.index(one) for one in those]

        assert (pool.id(place), pool.source(place)) == (row["id"], SOURCES[row["source"]])
        assert pool.instruction(place) == f"question {row['seq']}"
        assert list(pool.rows_of_source(place)) == places(mine)
        talk = [other for other in mine if row["conversation"] and other["conversation"] == row["conversation"]]
        before = [other for other in talk if other["turn"] < row["turn"]]
        before.sort(key=lambda other: (-other["turn"], -other["seq"]))
        assert list(pool.earlier_turns(place, 3)) == places(before[:3])
        turns, (are_all,) = pool.turns_before(np.array([place]), 2)
        if are_all:
            assert turns.tolist() == [places(before[:2])]
            found_at_once += 1
        assert pool.conversation(place) == min(places(talk), default=-1)
        same = places(other for other in mine if row["shown"] and other["shown"] == row["shown"])
        assert [pool.same_media_at(place, n) for n in range(pool.same_media_count(place))] == same
        shown = pool.shown(place)
        assert [other for other in places(mine) if pool.shown(other) == shown >= 0] == same
        assert pool.pictures(place) == {name for name in row["shown"].split(",") if name}
        named = (by_id.get((row["source"], id)) for id in row["related"])
        targets = [rows[other["into"]] if other["into"] is not None else other for other in named if other]
        assert list(pool.related(place)) == places(other for other in targets if other["rank"] is not None)
    assert found_at_once


def test_cells_are_found_in_every_batch(tmp_path: Path) -> None:
    """Batches are cut by rows and by bytes, and a cell is found in whichever it lies."""
    rng = random.Random(0)
    rows = []
    for seq in range(60):
        text = "x" * rng.choice([0, 5, 3_000_000])
        first = (seq % 3, f"é{seq}", "", text, "", b"{}", list(range(seq % 4)), "", b"", "")
        rows.append((*first, seq, seq % 2 == 0, [str(seq)] * (seq % 3)))
    path = tmp_path / "t.arrow"
    write_columns(path, TRIPLETS, batches_of_rows(rows, TRIPLETS))
    table = ColumnFile(path)
    assert table.table().column("id").num_chunks > 1
    assert table.rows == len(rows)
    for seq, row in enumerate(rows):
        assert table.number("turn", seq) == seq
        assert table.text("id", seq) == row[1]
        assert len(table.data("instruction", seq)) == len(row[3])
        assert table.integers("media", seq) == row[6]
        assert table.value("related", seq) == row[-1]
        assert table.text_reader("id")(seq) == row[1]
    numbers = table.reader("turn")
    assert [numbers(seq) for seq in reversed(range(60))] == [row[10] for row in reversed(rows)]
    some = np.array(sorted(rng.sample(range(60), 20)))
    assert table.take(["media", "id"], some).to_pylist() == [{"media": rows[n][6], "id": rows[n][1]} for n in some]
    assert table.bytes_of(["id", "instruction"], some).tolist() == [
        len(rows[n][1].encode() + rows[n][3].encode()) for n in some
    ]
    assert table.column("is_query").tolist() == [row[11] for row in rows]


def test_a_pool_goes_with_its_last_use(tmp_path: Path) -> None:
    """Collected later, all that it has mapped would count as memory of a worker that reads one part after the other."""
    write_tables(tmp_path, triplets(random.Random(0), 10))
    link_triplets(tmp_path)
    pool = TripletPool(tmp_path, SOURCES)
    tables = weakref.ref(pool), weakref.ref(pool.triplets)
    gc.disable()
    try:
        del pool
        assert not any(table() for table in tables)
    finally:
        gc.enable()
