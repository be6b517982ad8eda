"""Small faithful sets of the published formats, each in a folder of its own, and what a reader finds in them."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.factories import raw as make
from tests.factories.sources import put, put_lines


def noise(seed: int) -> bytes:
    """A JPEG of more than 10 kB, another one for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=95)
    assert len(data.getvalue()) > 10_000
    return data.getvalue()


def tar_of(members: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, payload in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return data.getvalue()


def zip_of(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, payload in members.items():
            archive.writestr(name, payload)
    return data.getvalue()


def mmc4_image(name: str, sentence: int, similarity: float = 0.277, **fields: Any) -> dict[str, Any]:
    info = {"image_name": name, "raw_url": f"http://example.org/{name}", "matched_text_index": sentence}
    return {**info, "matched_sim": similarity, "face_detections": None, **fields}


def mmc4_document(images: Sequence[Any], texts: Sequence[Any] = ("s0", "s1", "s2"), **fields: Any) -> dict[str, Any]:
    matrix = [[0.24, 0.32, 0.277]] * len(images)
    document = {"text_list": list(texts), "url": "http://example.org/", "could_have_url_duplicate": 0}
    return {**document, "image_info": list(images), "similarity_matrix": matrix, **fields}


def obelics_table(documents: Sequence[Sequence[str]]) -> pa.Table:
    """A row for each document, given as its pieces; one that begins with ``http`` is the URL of a picture."""
    rows = []
    for number, pieces in enumerate(documents):
        is_url = [piece.startswith("http") for piece in pieces]
        metadata = [{"src": piece, "alt_text": "x"} if url else None for piece, url in zip(pieces, is_url, strict=True)]
        general = "[]" if number % 2 else json.dumps({"url": f"http://example.org/{number}"})
        rows.append(
            {
                "images": [piece if url else None for piece, url in zip(pieces, is_url, strict=True)],
                "texts": [None if url else piece for piece, url in zip(pieces, is_url, strict=True)],
                "metadata": json.dumps(metadata),
                "general_metadata": general,
            }
        )
    return pa.Table.from_pylist(rows, schema=OBELICS_SCHEMA)


OBELICS_SCHEMA: Final = pa.schema(
    [
        ("images", pa.list_(pa.string())),
        ("metadata", pa.string()),
        ("general_metadata", pa.string()),
        ("texts", pa.list_(pa.string())),
    ]
)


def img2dataset_table(urls: Sequence[str | None], statuses: Mapping[int, str] | None = None) -> pa.Table:
    """What img2dataset writes beside the folder of a shard: a row for each URL, downloaded or not."""
    failed = statuses or {}
    return pa.table(
        {
            "url": pa.array(urls, pa.string()),
            "key": [f"{number:09d}" for number in range(len(urls))],
            "status": [failed.get(number, "success") for number in range(len(urls))],
            "error_message": pa.array([None] * len(urls), pa.string()),
            "width": [96] * len(urls),
            "height": [96] * len(urls),
            "sha256": ["0" * 64] * len(urls),
        }
    )


def write_table(root: Path, path: str, table: pa.Table) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, root / path)


def vqa_question(id: int, picture: int, **fields: Any) -> dict[str, Any]:
    return {"image_id": picture, "question": f"What is in {id}?", "question_id": id, **fields}


def vqa_annotation(id: int, picture: int, **fields: Any) -> dict[str, Any]:
    answers = [{"answer": f"net {number}", "answer_confidence": "yes", "answer_id": number} for number in range(1, 11)]
    value = {"question_type": "what", "multiple_choice_answer": "net", "answers": answers, "image_id": picture}
    return {**value, "answer_type": "other", "question_id": id, **fields}


def put_vqa(
    root: Path, folder: str, questions: Sequence[Any], annotations: Sequence[Any] | None, subtype: str = "train2014"
) -> None:
    head = {"info": {"year": 2017}, "data_type": "mscoco", "license": {"name": "CC"}, "data_subtype": subtype}
    value = {**head, "task_type": "Open-Ended", "questions": questions}
    put(root, f"{folder}/v2_OpenEnded_mscoco_{subtype}_questions.json", value)
    if annotations is not None:
        put(root, f"{folder}/v2_mscoco_{subtype}_annotations.json", {**head, "annotations": annotations})


def coco(images: Sequence[Any], annotations: Sequence[Any]) -> dict[str, Any]:
    licenses = [{"url": "http://example.org/", "id": 1, "name": "CC"}]
    return {"info": {"year": 2017}, "images": images, "licenses": licenses, "annotations": annotations}


def coco_image(id: int, name: str | None = None) -> dict[str, Any]:
    return {"license": 1, "file_name": name or f"{id:012d}.jpg", "height": 32, "width": 48, "id": id}


def add_mmc4(root: Path, name: str = "mmc4") -> None:
    for number in range(2):
        put(root, f"{name}/images/p{number}.jpg", noise(number))
    document = mmc4_document([mmc4_image("p0.jpg", 1), mmc4_image("p1.jpg", 1)])
    put_lines(root, f"{name}/docs_no_face_shard_0_v2.jsonl", [document])
    zipped = json.dumps(mmc4_document([mmc4_image("p2.jpg", 0)])) + "\n"
    put(root, f"{name}/docs_no_face_shard_1_v2.jsonl.zip", zip_of({"docs_no_face_shard_1_v2.jsonl": zipped.encode()}))
    put(root, f"{name}/docs_no_face_shard_1_v2.tar", tar_of({"shard_1/p2.jpg": noise(2)}))


def add_obelics(root: Path, name: str = "obelics") -> None:
    urls = [f"https://example.org/{number}.jpg" for number in range(3)]
    write_table(root, f"{name}/data/train-00000-of-00002.parquet", obelics_table([[urls[0], "one", "two"]]))
    write_table(root, f"{name}/data/train-00001-of-00002.parquet", obelics_table([["zero", urls[1], "one"]]))
    write_table(root, f"{name}/images/00000.parquet", img2dataset_table(urls))
    put(root, f"{name}/images/00000/000000000.jpg", make.picture(10))
    members = {"000000001.jpg": make.picture(11), "000000001.json": b"{}", "000000001.txt": b"alt text"}
    put(root, f"{name}/images/00000.tar", tar_of(members))


def add_vqav2(root: Path, name: str = "vqa") -> None:
    put(root, f"{name}/train2014/COCO_train2014_000000458752.jpg", make.picture(20))
    questions = [vqa_question(458752000 + number, 458752) for number in range(2)]
    annotations = [vqa_annotation(458752000 + number, 458752) for number in (1, 0)]
    put_vqa(root, name, questions, annotations)


def add_coco(root: Path, name: str = "coco") -> None:
    put(root, f"{name}/train2017/000000000009.jpg", make.picture(30))
    annotations = [{"image_id": 9, "id": id, "caption": f"Caption {id}."} for id in (661611, 661977)]
    put(root, f"{name}/annotations/captions_train2017.json", coco([coco_image(9)], annotations))
    boxes = [{"id": 1, "image_id": 9, "category_id": 58, "bbox": [1, 2, 3, 4], "segmentation": [[1.0, 2.0]]}]
    put(root, f"{name}/annotations/instances_train2017.json", coco([coco_image(9)], boxes))


def add_captions(root: Path, name: str = "lavis") -> None:
    put(root, f"{name}/images/val2014/a.jpg", make.picture(40))
    record = {"image": "val2014/a.jpg", "caption": ["A cat.", "The cat."], "image_id": "coco_1"}
    put(root, f"{name}/coco_karpathy_val.json", [record])


def add_minigpt4(root: Path, name: str = "cc_sbu_align") -> None:
    put(root, f"{name}/image/2.jpg", make.picture(50))
    put(root, f"{name}/filter_cap.json", {"annotations": [{"image_id": "2", "caption": "The image shows a man."}]})


def add_video_chatgpt(root: Path, name: str = "activitynet") -> None:
    (root / name / "videos").mkdir(parents=True)
    make.clip(root / name / "videos" / "v_k_ZXmr8pmrs.mkv")
    record = {"q": "What is the main activity?", "a": "Crossing.", "video_id": "v_k_ZXmr8pmrs"}
    put(root, f"{name}/VideoInstruct100K.json", [record])


def add_videochat2(root: Path, name: str = "videochat2") -> None:
    (root / name).mkdir(parents=True)
    make.clip(root / name / "clip 1.mp4", frames=8)
    turns = [{"i": "Look.", "q": "What?", "a": "A screen."}, {"i": "", "q": "And then?", "a": "It is bright."}]
    put(root, f"{name}/train.json", [{"video": "clip 1.mp4", "QA": turns}])


def add_alpaca(root: Path, name: str = "alpaca") -> None:
    rows = [
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "And 4?", "input": "", "output": "7", "history": [["Add 1 and 2.", "3"]]},
    ]
    put(root, f"{name}/alpaca_data.json", rows)


ADD: Final[dict[str, Callable[[Path], None]]] = {
    "mmc4": add_mmc4,
    "obelics": add_obelics,
    "vqav2": add_vqav2,
    "coco-captions": add_coco,
    "captions": add_captions,
    "minigpt4": add_minigpt4,
    "video-chatgpt": add_video_chatgpt,
    "videochat2": add_videochat2,
    "alpaca": add_alpaca,
}
"""Adds a small sound set, by the name of its format."""
