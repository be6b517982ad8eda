from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicit.errors import SourceError
from mimicit.sources.containers import unpacked as module
from mimicit.sources.containers.unpacked import open_zipped
from mimicit.sources.files.root import Root
from tests.factories.formats import zip_of
from tests.factories.sources import put

TEXT = b'{"a": 1}\n{"a": 2}\n' * 100


def read(root: Path, data: bytes) -> bytes:
    put(root, "a.zip", data)
    with open_zipped(Root(root), "a.zip") as file:
        return b"".join(iter(lambda: file.read(1000), b""))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_only_member_is_read(tmp_path: Path, method: int) -> None:
    assert read(tmp_path, zip_of({"a.jsonl": TEXT}, method)) == TEXT


def archive_with(offset: int, format: str, value: int) -> bytes:
    """An archive whose entry in the list of members holds ``value`` at ``offset``."""
    data = bytearray(zip_of({"a.jsonl": TEXT}))
    struct.pack_into(format, data, data.index(b"PK\1\2") + offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zip_of({}), "holds 0 members"),
        (zip_of({"a": TEXT, "b": TEXT}), "holds 2 members"),
        (zip_of({"a": TEXT}, zipfile.ZIP_LZMA), "another way than deflate"),
        (archive_with(8, "<H", 1), "encrypted"),
        (archive_with(24, "<L", 1 << 30), "is refused"),
        (archive_with(24, "<L", 10), "damaged"),  # more comes out than it promises
        (zip_of({"a": TEXT})[:-30], "damaged"),
        (zip_of({"a": TEXT}).replace(zip_of({"a": TEXT})[35:40], b"#####"), "damaged"),
        (b"PK\3\4", "damaged"),
    ],
)
def test_what_cannot_be_trusted_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=rf"a\.zip: .*{message}"):
        read(tmp_path, data)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="more than 200 times"):
        read(tmp_path, zip_of({"a.jsonl": bytes(20 << 20)}))
    assert len(read(tmp_path, zip_of({"a.jsonl": bytes(1 << 20)}))) == 1 << 20  # small enough to be harmless


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", len(TEXT) - 1)
    with pytest.raises(SourceError, match="is refused"):
        read(tmp_path, zip_of({"a.jsonl": TEXT}))


def test_a_long_list_of_members_is_not_even_read(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number in range(20):
            archive.writestr(zipfile.ZipInfo(f"{number}" + "x" * 60_000), b"")
    with pytest.raises(SourceError, match="list of members is too long"):
        read(tmp_path, data.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zip")


@settings(deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=3))
def test_damage_is_a_source_error_or_does_no_harm(folder: Path, place: int, damage: bytes) -> None:
    data = bytearray(zip_of({"a.jsonl": TEXT}))
    start = place % len(data)
    data[start : start + len(damage)] = damage
    with contextlib.suppress(SourceError):  # and nothing else
        assert read(folder, bytes(data)) == TEXT
