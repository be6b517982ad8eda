"""Sources in pieces: the items of the pieces, one after the other, are those of the whole."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from mimicit.errors import SourceError
from mimicit.sources import SOURCES, detect
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import InJson, Item, Piece, RawTriplet
from mimicit.sources.records import pieces
from tests.factories.sources import base64_jpeg, put

RNG = random.Random(0)
ANSWER = 'a[]{}"\\\n,'
RECORDS = [
    {
        "id": str(n),
        "conversations": [{"from": "human", "value": "Q" * RNG.randrange(1, 300)}, {"from": "gpt", "value": ANSWER}],
    }
    for n in range(60)
]
LINES = [json.dumps(record) for record in RECORDS]


def in_pieces(root: Root, spec: SourceSpec) -> tuple[list[Piece], list[Item]]:
    split = SOURCES[spec.format].split
    assert split is not None
    parts = split(spec, root)
    items = [item for piece in parts for item in SOURCES[spec.format].read(replace(spec, piece=piece), root)]
    return parts, items


@pytest.mark.parametrize("size", [100, 2_000, 1 << 20])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", json.dumps(RECORDS)),
        ("x.json", "\ufeff" + json.dumps(RECORDS, indent=2)),
        ("x.json", f"[ {' ,'.join([*LINES[:30], '5', 'null', *LINES[30:]])} ]\n"),
        ("x.jsonl", "\n".join([*LINES[:20], "", "no JSON", *LINES[20:]])),
        ("x.jsonl", "\ufeff" + "\r\n".join(LINES) + "\r\n\r\n"),
        ("x.json", json.dumps({f"k{n}": record for n, record in enumerate(RECORDS)})),
        (
            "x.json",
            json.dumps({str(n): {"conversations": record["conversations"]} for n, record in enumerate(RECORDS)}),
        ),
    ],
    ids=["array", "indented", "scalars", "lines", "windows", "by-id", "by-id-alone"],
)
def test_a_json_file_in_pieces_is_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, size: int
) -> None:
    monkeypatch.setattr(pieces, "_PIECE_BYTES", size)
    (tmp_path / name).write_text(text, newline="")
    root = Root(tmp_path)
    (spec,) = detect(root).sources
    parts, items = in_pieces(root, spec)
    assert items == list(SOURCES[spec.format].read(spec, root))
    assert len(parts) == 1 if size == 1 << 20 else len(parts) > 3


def test_text_in_a_piece_is_found_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_PIECE_BYTES", 2_000)
    rows = [record | {"image": base64_jpeg(n)} for n, record in enumerate(RECORDS[:8])]
    put(tmp_path, "x.json", rows)
    root = Root(tmp_path)
    (spec,) = detect(root).sources
    data = (tmp_path / "x.json").read_bytes()
    triplets = [item for item in in_pieces(root, spec)[1] if isinstance(item, RawTriplet)]
    assert len(triplets) == len(rows)
    for number, item in enumerate(triplets):
        (place,) = item.media[0].parts
        assert isinstance(place, InJson)
        assert data[place.offset : place.offset + place.length].decode() == rows[number]["image"]


def test_an_array_that_breaks_is_not_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_PIECE_BYTES", 100)
    (tmp_path / "x.json").write_text(json.dumps(RECORDS)[:-1] + "}")
    root = Root(tmp_path)
    (spec,) = detect(root, format="llava").sources
    with pytest.raises(SourceError, match="not valid JSON at byte"):
        in_pieces(root, spec)


def test_files_are_grouped_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_GROUP_BYTES", 10)
    for number, size in enumerate((4, 4, 4, 30, 1)):
        (tmp_path / f"{number}.tar").write_bytes(bytes(size))
    files = tuple(f"{number}.tar" for number in range(5))
    groups = pieces.split_files(SourceSpec(name="x", format="webdataset", files=files, why="a test"), Root(tmp_path))
    assert [group.paths for group in groups] == [files[:3], files[3:4], files[4:]]
