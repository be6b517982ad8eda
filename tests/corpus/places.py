"""How pictures and clips are found: paths, prefixes, links, and names that several files have."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus.case import GREEN, RED, Case, Colour, Says, picture
from tests.factories.sources import put, put_lines

Layout = Mapping[str, Colour]


def llava(root: Path, path: str) -> None:
    talk = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
    put(root, "ann/llava.json", [{"id": "1", "image": path, "conversations": talk}])


def captions(root: Path, path: str) -> None:
    put(root, "ann/captions.json", [{"image": path, "caption": "a"}])


def lines(root: Path, path: str) -> None:
    put_lines(root, "ann/manifest.jsonl", [{"media": path, "instruction": "q", "answer": "a"}])


def table(root: Path, path: str) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["image", "question", "answer"], [path, "q", "a"]])
    put(root, "ann/table.csv", text.getvalue())


def coco(root: Path, path: str) -> None:
    images = [{"id": 1, "file_name": path}]
    annotations = [{"id": 1, "image_id": 1, "caption": "a"}]
    put(root, "ann/captions_train2017.json", {"images": images, "annotations": annotations})


def mmc4(root: Path, path: str) -> None:
    info = {"image_name": path, "matched_text_index": 0, "matched_sim": 0.3}
    put_lines(root, "ann/docs.jsonl", [{"text_list": ["a"], "image_info": [info]}])


def cells(root: Path, path: str) -> None:
    picture_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = pa.array([{"bytes": None, "path": path}], picture_type)
    (root / "ann").mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": pictures, "question": ["q"], "answer": ["a"]}), root / "ann" / "t.parquet")


FORMATS = (llava, captions, lines, table, coco, mmc4, cells)


def laid_out(write: Callable[[Path, str], None], path: str, layout: Layout) -> Callable[[Path], None]:
    def written(root: Path) -> None:
        write(root, path)
        for file, colour in layout.items():
            put(root, file, picture(colour))

    return written


def cases(name: str, path: str, layout: Layout, shows: Colour | None) -> list[Case]:
    """One record that names its picture by ``path``, in each format; without ``shows``, two pictures fit."""
    config = {"options": {"mmc4": {"min_bytes": 0}}}
    found = []
    for write in FORMATS:
        rejected = "no_media" if write is mmc4 else "ambiguous_path"
        says = () if shows is None else (Says("a", (shows,)),)
        if shows is None:  # a second record, for a build of nothing is an error
            layout = {**layout, "z/kept.png": RED}
        found.append(
            Case(
                name=f"{name}-{write.__name__}",
                write=with_kept(laid_out(write, path, layout)) if shows is None else laid_out(write, path, layout),
                says=says or (Says("kept", (RED,)),),
                rejects={} if shows else {rejected: 1},
                config=config,
            )
        )
    return found


def with_kept(write: Callable[[Path], None]) -> Callable[[Path], None]:
    def written(root: Path) -> None:
        write(root)
        put(root, "z/kept.txt", "kept")

    return written


def linked(root: Path) -> None:
    """Records that name a picture through a link inside the folder, and another link to their own file."""
    lines(root, "p/1.png")
    put(root, "pool/1.png", picture(RED))
    (root / "p").symlink_to("pool")
    (root / "again.jsonl").symlink_to("ann/manifest.jsonl")


CASES: list[Case] = [
    Case(name="linked", write=linked, says=(Says("a", (RED,)),), config={"follow_links": True}),
    *cases("beside", "1.png", {"ann/1.png": RED, "1.png": GREEN}, RED),
    *cases("from-src", "p/1.png", {"p/1.png": RED, "q/1.png": GREEN}, RED),
    *cases("of-another-machine", "/export/share/set/p/1.png", {"x/p/1.png": RED, "q/1.png": GREEN}, RED),
    *cases("of-windows", "C:\\set\\p\\1.png", {"x/p/1.png": RED, "q/1.png": GREEN}, RED),
    *cases("with-a-prefix", "coco/train2014/1.png", {"pictures/1.png": RED, "pictures/11.png": GREEN}, RED),
    *cases("of-two", "/export/share/1.png", {"x/1.png": RED, "y/1.png": GREEN}, None),
]
