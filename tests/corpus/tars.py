"""WebDataset tars, and tars that hold pictures: members, keys and suffixes."""

from __future__ import annotations

from pathlib import Path

from tests.corpus.case import GREEN, RED, Case, Says, picture
from tests.factories.tars import put_tar


def capitals_and_folders(root: Path) -> None:
    put_tar(
        root,
        "d.tar",
        [
            ("./x/._A.PNG", b"what a Mac adds"),
            ("./x/A.PNG", picture(RED)),
            ("./x/A.TXT", "red"),
            ("./x/B.png", picture(GREEN)),
            ("./x/B.Json", {"caption": "green"}),
        ],
    )


CASES = [
    Case(name="capitals-and-folders", write=capitals_and_folders, says=(Says("red", (RED,)), Says("green", (GREEN,)))),
]
