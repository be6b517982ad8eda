from __future__ import annotations

from pathlib import Path

import pytest

from mimicit.build import BuildConfig, build_shards
from mimicit.errors import SourceError
from mimicit.sources import detect
from mimicit.sources.root import Root
from mimicit.sources.unclaimed import unclaimed_tables
from tests.factories.sources import jpeg, put


def lines_of(folder: Path) -> list[str]:
    root = Root(folder)
    return list(unclaimed_tables(root, detect(root).unused))


def test_every_table_that_no_format_takes_is_named_with_its_mend(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "Bild,Frage,Antwort\nx.jpg,Was?,Das.\n")
    put(tmp_path, "b.tsv", "twice\ttwice\n")
    put(tmp_path, "c.XLSX", b"PK\x03\x04")
    put(tmp_path, "good.csv", "image,question,answer\nx.jpg,What?,This.\n")
    put(tmp_path, "notes.md", "nothing")
    put(tmp_path, "x.jpg", jpeg())
    assert lines_of(tmp_path) == [
        "a.csv: not used: its columns are Bild, Frage, Antwort; name them image, question and answer,"
        " or image and caption",
        "b.tsv: not used: its first line must name the columns, each once, in UTF-8",
        "c.XLSX: not used: save the sheet as CSV (UTF-8)",
    ]


def test_a_wide_table_is_named_in_one_line(tmp_path: Path) -> None:
    put(tmp_path, "wide.csv", ",".join(f"c{number}" for number in range(900)) + "\n")
    (line,) = lines_of(tmp_path)
    assert len(line) < 200


def test_a_build_without_a_source_says_so_before_it_ends(tmp_path: Path) -> None:
    class Notes:
        def __init__(self) -> None:
            self.said: list[str] = []

        def update(self, stage: str, done: int, total: int | None) -> None: ...

        def note(self, message: str) -> None:
            self.said.append(message)

    notes = Notes()
    put(tmp_path, "raw/a.csv", "Bild,Antwort\nx.jpg,Das.\n")
    with pytest.raises(SourceError, match="nothing to build from"):
        build_shards(tmp_path / "raw", tmp_path / "out", BuildConfig(), progress=notes)
    assert [note.partition(":")[0] for note in notes.said] == ["a.csv"]
