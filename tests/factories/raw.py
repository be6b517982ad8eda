"""Small raw folders of every supported kind, made the same way each time."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 48, height: int = 32, format: str = "JPEG") -> bytes:
    """A smooth colourful picture that differs for every seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), "RGB")
    data = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(data, format)
    return data.getvalue()


def clip(path: Path, frames: int = 12, width: int = 64, height: int = 48) -> None:
    """An H.264 clip at 10 frames per second whose brightness grows with time."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        for number in range(frames):
            shade = np.full((height, width, 3), 20 + 200 * number // frames, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def write_manifest(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def add_manifest(root: Path, name: str = "own", pictures: int = 6, questions: int = 3) -> None:
    """Several questions about each picture."""
    folder = root / name
    (folder / "images").mkdir(parents=True)
    for number in range(pictures):
        (folder / "images" / f"{number}.jpg").write_bytes(picture(number))
    write_manifest(
        folder,
        (
            {
                "id": f"{name}-{number}-{question}",
                "media": f"images/{number}.jpg",
                "instruction": f"What is the {question}th thing in picture {number}?",
                "answer": f"thing {number * 10 + question}",
            }
            for number in range(pictures)
            for question in range(questions)
        ),
    )


def add_llava(root: Path, name: str = "llava_tiny", talks: int = 4, turns: int = 3) -> None:
    """Conversations of several turns about one picture each, and one without a picture."""
    folder = root / name
    (folder / "coco").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for talk in range(talks):
        (folder / "coco" / f"{talk:012d}.jpg").write_bytes(picture(100 + talk, 400, 300))
        values = []
        for turn in range(turns):
            values.append({"from": "human", "value": ("<image>\n" if turn == 0 else "") + f"Question {talk}.{turn}?"})
            values.append({"from": "gpt", "value": f"Answer {talk}.{turn}."})
        rows.append({"id": f"{talk:012d}", "image": f"coco/{talk:012d}.jpg", "conversations": values})
    talk_only = [{"from": "human", "value": "Say hello."}, {"from": "gpt", "value": "Hello."}]
    rows.append({"id": 7, "conversations": talk_only})
    (folder / "llava_instruct.json").write_text(json.dumps(rows))


def add_mimicit(root: Path, name: str = "LA", triplets: int = 6) -> None:
    """Instructions, base64 pictures, and a training list, as the published files."""
    folder = root / name
    folder.mkdir(parents=True)
    data = {}
    pictures = {}
    train = {}
    for number in range(triplets):
        pictures[f"{name}_IMG_{number:012d}"] = base64.b64encode(picture(200 + number)).decode()
        related = [f"{name}_INS_{(number + 1) % triplets:06d}", f"{name}_INS_{(number + 2) % triplets:06d}"]
        data[f"{name}_INS_{number:06d}"] = {
            "instruction": f"Describe picture {number}.",
            "answer": f"It is picture {number}.",
            "image_ids": [f"{name}_IMG_{number:012d}"],
            "rel_ins_ids": related,
        }
        if number:
            train[f"{name}_INS_{number:06d}"] = related[::-1]
    meta = {"version": "0.0.1", "time": "2023-06", "author": "ntu"}
    (folder / f"{name}_instructions.json").write_text(json.dumps({"meta": meta, "data": data}))
    (folder / f"{name}.json").write_text(json.dumps(pictures))
    (folder / f"{name}_train.json").write_text(json.dumps(train))


def add_sidecars(root: Path, name: str = "photos") -> None:
    """Pictures and a clip, each with a text file of the same stem."""
    folder = root / name
    folder.mkdir(parents=True)
    for number, format in enumerate(("JPEG", "PNG", "WEBP", "BMP")):
        (folder / f"p{number}.{format.lower()}").write_bytes(picture(300 + number, format=format))
        (folder / f"p{number}.txt").write_text(f"Picture number {number}.\n")
    clip(folder / "c.mp4")
    (folder / "c.txt").write_text("A screen that grows brighter.\n")


def make_raw(root: Path) -> Path:
    """A folder with one source of every kind side by side."""
    add_manifest(root)
    add_llava(root)
    add_mimicit(root)
    add_sidecars(root)
    return root


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file beneath ``folder``, hidden ones too."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def hashes_without_work(folder: Path) -> dict[str, str]:
    """As `hashes`, without the work folder and the scan that a kill after the manifest leaves until the next run."""
    left = (".mimicit-work", ".scan.tmp")
    return {name: digest for name, digest in hashes(folder).items() if not name.startswith(left)}
