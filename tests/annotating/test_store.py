"""The store of answers: what was kept is kept, what was cut off is cut, what is damaged is named."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicit.annotating.store import Answer, Store, request_hash
from mimicit.errors import AnnotateError, DamagedStoreError


def keep(path: Path, *texts: str) -> None:
    async def all_of_them() -> None:
        await asyncio.gather(*(store.keep(named(text), Answer(text=text, input_tokens=2)) for text in texts))

    with Store(path) as store:
        asyncio.run(all_of_them())


def named(text: str) -> str:
    return request_hash(text.encode())


@settings(max_examples=20, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True, max_size=8))
def test_what_is_kept_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("store") / "answers"
    keep(path, *texts)
    with Store(path) as store:
        assert len(store) == len(texts) and store.input_tokens == 2 * len(texts)
        assert [store.get(named(text)) for text in texts] == [Answer(text=text, input_tokens=2) for text in texts]
        assert store.get(named("never asked")) is None


def test_a_torn_end_is_cut_at_every_byte_and_nothing_else_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    keep(path, "first", "second\nline")
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        path.write_bytes(whole[:size])
        with Store(path) as store:
            assert store.get(named("first")) == Answer(text="first", input_tokens=2)
            assert store.get(named("second\nline")) is None and store.cut_bytes == size - first
        assert path.read_bytes() == whole[:first]
        keep(path, "second\nline")
        assert path.read_bytes() == whole


def test_damage_is_named_with_its_line_and_deleting_that_line_mends_it(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    keep(path, "first", "second", "third")
    lines = path.read_bytes().splitlines(keepends=True)
    for number in range(3):
        spoilt = list(lines)
        spoilt[number] = spoilt[number].replace(b'"input_tokens":2', b'"input_tokens":9')
        path.write_bytes(b"".join(spoilt))
        with pytest.raises(DamagedStoreError, match=rf"answers: line {number + 1} .*sed -i {number + 1}d"):
            Store(path)
        path.write_bytes(b"".join(spoilt[:number] + spoilt[number + 1 :]))
        with Store(path) as store:
            assert len(store) == 2


def test_one_process_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with Store(path), pytest.raises(AnnotateError, match="another mimicit annotate holds it"):
        Store(path)
    Store(path).close()


def test_a_full_disk_is_named_and_what_was_kept_stays_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers"
    keep(path, "first")
    before = path.read_bytes()
    real, room = os.pwrite, [40]

    def full(descriptor: int, data: bytes, place: int) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(descriptor, data[: room[0]], place)
        room[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(AnnotateError, match=r"answers: No space left on device; .*same command again"):
        keep(path, "second")
    assert path.read_bytes() == before
    monkeypatch.setattr(os, "pwrite", real)
    keep(path, "second")
    with Store(path) as store:
        assert len(store) == 2


def test_an_answer_is_on_disk_before_anybody_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers"
    synced: list[int] = []
    real = os.fsync

    def noted(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    async def one() -> None:
        await store.keep(named("a"), Answer(text="a"))
        assert synced and synced[-1] == path.stat().st_size

    with Store(path) as store:
        monkeypatch.setattr(os, "fsync", noted)
        asyncio.run(one())
    line = path.read_bytes()
    check, body = re.fullmatch(rb"([0-9a-f]{16}) (\{.*\})\n", line).groups()  # type: ignore[union-attr]
    assert hashlib.sha256(body).hexdigest()[:16].encode() == check
