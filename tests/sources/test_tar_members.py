from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.tar_members import TarMember, tar_members
from mimicit.sources.files.reading import Reader
from mimicit.sources.files.root import Root
from mimicit.sources.items import InTar
from tests.factories.sources import jpeg, put
from tests.factories.tars import packed

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def special(**fields: object) -> bytes:
    """An archive of one odd member between two good ones."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("first.jpg", "odd.jpg", "last.jpg"):
            info = tarfile.TarInfo(name)
            for field, value in fields.items() if name == "odd.jpg" else ():
                setattr(info, field, value)
            archive.addfile(info)
    return data.getvalue()


def members_of(root: Path, content: bytes) -> list[TarMember | RejectedError]:
    put(root, "a.tar", content)
    return list(tar_members(Root(root), "a.tar"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tar")


names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..")
)


@given(st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=5), st.sampled_from(FORMATS[1:]))
def test_every_member_is_found_where_tarfile_finds_it(
    folder: Path, members: list[tuple[str, bytes]], format: int
) -> None:
    content = packed([(name * 5, payload) for name, payload in members], format)  # long names need extensions
    found = members_of(folder, content)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        truth = [TarMember(info.name, info.offset_data, info.size) for info in archive]
    assert found == truth
    assert [content[m.offset :][: m.size] for m in found if isinstance(m, TarMember)] == [data for _, data in members]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "unsupported_media"),
        ({"type": tarfile.LNKTYPE, "linkname": "first.jpg"}, "unsupported_media"),
        ({"type": tarfile.CHRTYPE}, "unsupported_media"),
        ({"type": tarfile.FIFOTYPE}, "unsupported_media"),
        ({"name": "/etc/passwd"}, "outside_root"),
        ({"name": "a/../../b.jpg"}, "outside_root"),
        ({"name": "x" * 5000}, "malformed"),
    ],
)
def test_an_odd_member_is_refused_and_the_next_one_is_found(
    tmp_path: Path, fields: dict[str, object], reason: str
) -> None:
    first, odd, last = members_of(tmp_path, special(**fields))
    assert isinstance(first, TarMember) and isinstance(last, TarMember)
    assert (first.name, last.name) == ("first.jpg", "last.jpg")
    assert isinstance(odd, RejectedError)
    assert odd.reason == reason


def test_folders_are_passed_over_and_a_sparse_file_is_refused(tmp_path: Path) -> None:
    assert [type(member) for member in members_of(tmp_path, special(type=tarfile.DIRTYPE))] == [TarMember] * 2
    refused = members_of(tmp_path, special(pax_headers={"GNU.sparse.major": "1"}))
    assert len(refused) == 3  # GNU archives have no pax headers: nothing odd was written
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.size": "9"}
        archive.addfile(info)
    (fault,) = members_of(tmp_path, data.getvalue())
    assert isinstance(fault, RejectedError)
    assert "sparse" in fault.detail


def test_a_cut_archive_is_noticed_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = packed([("a.jpg", b"x" * 700), ("b.jpg", b"y")])
    end = len(whole.rstrip(b"\0")) + 511
    for length in range(1, end - 511, 128):
        with pytest.raises(SourceError, match=r"^a\.tar: "):
            members_of(tmp_path, whole[:length])
    with pytest.raises(SourceError, match="cut"):
        members_of(tmp_path, whole[: 3 * 512])  # between two members: only the missing end tells


def test_limits(tmp_path: Path) -> None:
    put(tmp_path, "a.tar", packed([(f"{number}.jpg", b"") for number in range(5)]))
    assert len(list(tar_members(Root(tmp_path), "a.tar", max_members=5))) == 5
    with pytest.raises(SourceError, match="more than 4 members"):
        list(tar_members(Root(tmp_path), "a.tar", max_members=4))
    huge = tarfile.TarInfo("pax")
    huge.type, huge.size = tarfile.XHDTYPE, 2 << 20
    with pytest.raises(SourceError, match="extended header"):
        members_of(tmp_path, huge.tobuf() + bytes(3 << 20))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_archive_has_the_members_of_its_unpacked_copy(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    put(tmp_path, "a.tar.gz", pack(packed([("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))])))
    root = Root(tmp_path, scratch=tmp_path / "scratch")
    members = list(tar_members(root, "a.tar.gz"))
    with Reader(root) as reader:
        found = [reader.read(InTar("a.tar.gz", m.offset, m.size)) for m in members if isinstance(m, TarMember)]
    assert found == [jpeg(1), jpeg(2)]
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    put(tmp_path, "a.tar.gz", pack(packed([("a.jpg", jpeg(3))])))  # a copy is of one state of the file
    with Reader(root) as reader:
        assert reader.read(InTar("a.tar.gz", 512, len(jpeg(3)))) == jpeg(3)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_that_is_cut_damaged_or_a_bomb_is_refused(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    good = pack(packed([(f"{n}.jpg", random.Random(n).randbytes(4000)) for n in range(9)]))
    for name, data in (
        ("cut", good[: len(good) // 2]),
        ("damaged", good[:2000] + bytes(200) + good[2200:]),
        ("bomb", pack(bytes(40 << 20))),
    ):
        put(tmp_path, name, data)
        with pytest.raises(SourceError, match=rf"^{name}: "):
            list(tar_members(Root(tmp_path, scratch=tmp_path / "scratch"), name))
    assert not list((tmp_path / "scratch").iterdir())


def test_archives_behind_one_another_are_all_read(tmp_path: Path) -> None:
    one = packed([("a.jpg", jpeg(1))])
    found = members_of(tmp_path, one + one + bytes(5 * 512) + one)
    assert [(m.name, m.archive) for m in found if isinstance(m, TarMember)] == [("a.jpg", n) for n in range(3)]
    *_, refused = members_of(tmp_path, one + b"no tar " * 200)
    assert isinstance(refused, RejectedError)
    assert "1400 bytes" in refused.detail


def test_a_member_is_read_by_its_place_and_only_while_it_is_there(tmp_path: Path) -> None:
    (member,) = members_of(tmp_path, packed([("a.jpg", jpeg(5))]))
    assert isinstance(member, TarMember)
    place = InTar("a.tar", member.offset, member.size)
    with Reader(Root(tmp_path)) as reader:
        assert reader.read(place) == jpeg(5)
    wrong = [
        (InTar("a.tar", member.offset, member.size + 1), "bad_media"),
        (InTar("a.tar", member.offset + 512, member.size), "bad_media"),
        (InTar("a.tar", 0, member.size), "bad_media"),
        (InTar("a.tar", member.offset, 0), "empty_media"),
        (InTar("b.tar", member.offset, member.size), "missing_file"),
    ]
    for other, reason in wrong:
        with Reader(Root(tmp_path)) as reader, pytest.raises(RejectedError) as caught:
            reader.read(other)
        assert caught.value.reason == reason
    with Reader(Root(tmp_path), max_file_bytes=100) as reader, pytest.raises(RejectedError, match="more than 100"):
        reader.read(place)
