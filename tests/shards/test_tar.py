"""The tar writer agrees with the reference, and what is packed is read back."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicit.errors import CorruptShardError, ShardError
from mimicit.records import Sample, sample_to_json
from mimicit.schema import canonical_json
from mimicit.shards.reader import MAX_SAMPLE_BYTES, iterate_shard
from mimicit.shards.tar import END_OF_ARCHIVE, Members, member_header, member_span, parse_header
from tests.factories.strategies import samples


@given(st.from_regex(r"[a-z0-9_-]{1,80}\.(json|000\.jpg|012\.webp)", fullmatch=True), st.integers(0, 8**11 - 1))
def test_header_is_that_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert member_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


@pytest.mark.parametrize(("name", "size"), [("x" * 101, 1), ("ä.json", 1), ("a.json", 8**11)])
def test_header_refuses_what_ustar_cannot_hold(name: str, size: int) -> None:
    with pytest.raises(ShardError):
        member_header(name, size)


@pytest.mark.parametrize("size", [b"-0000000001", b"+0000000001", b"0000000_001", b"00000000008", b"0x000000001"])
def test_sizes_are_octal_digits(size: bytes) -> None:
    with pytest.raises(CorruptShardError, match="a number that is none"):
        parse_header(_with_field(member_header("a.jpg", 0), 124, size))


def test_a_hard_link_has_no_bytes_of_its_own() -> None:
    """Some readers of tars skip as many bytes as it says, and others do not."""
    with pytest.raises(CorruptShardError, match="has a size"):
        parse_header(_with_field(member_header("a.jpg", 0, "b.jpg"), 124, b"00000001000"))


def _with_field(header: bytes, place: int, value: bytes) -> bytes:
    changed = header[:place] + value + header[place + len(value) :]
    checksum = sum(changed[:148]) + 8 * ord(" ") + sum(changed[156:])
    return changed[:148] + b"%06o\0 " % checksum + changed[156:]


def test_links_cannot_make_a_sample_of_many_times_its_shard(tmp_path: Path) -> None:
    members = Members()
    members.add(b"a", b".json", b"{}")
    members.add(b"a", b".000.jpg", bytes(1 << 20))
    for number in range(1, MAX_SAMPLE_BYTES >> 20):
        members.link(f"a.{number:03d}.jpg", "a.000.jpg", 2048, 1 << 20)
    path = tmp_path / "a.tar"
    path.write_bytes(members.taken() + END_OF_ARCHIVE)
    with pytest.raises(CorruptShardError, match=r"the limit is 536,870,912"):
        list(iterate_shard(path))


@given(st.lists(st.binary(max_size=1500), min_size=1, max_size=5))
def test_members_are_a_tar_file(payloads: list[bytes]) -> None:
    members = Members()
    for number, payload in enumerate(payloads):
        members.add(b"key%d" % (number // 2), b".%03d.jpg" % number, payload)
        assert members.position == sum(member_span(len(payload)) for payload in payloads[: number + 1])
    members.link("key.link.jpg", "key0.000.jpg", 512, len(payloads[0]))
    places = members.places()
    members.end()
    assert members.waiting == members.position
    data = members.taken()
    assert (members.waiting, members.places()) == (0, ([], []))
    for payload, offset, size in zip([*payloads, payloads[0]], *places, strict=True):
        assert data[offset : offset + size] == payload
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = [(m.name, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    names = [f"key{number // 2}.{number:03d}.jpg" for number in range(len(payloads))]
    assert found == list(zip([*names, "key.link.jpg"], [*payloads, payloads[0]], strict=True))


@pytest.mark.parametrize(("key", "size"), [(b"x" * 97, 1), (b"x", 8**11)])
def test_members_refuse_what_ustar_cannot_hold(key: bytes, size: int) -> None:
    class Large(bytes):
        def __len__(self) -> int:
            return size

    with pytest.raises(ShardError):
        Members().add(key, b".jpg", Large())


@given(st.from_regex(r"[a-z0-9_-]{1,80}", fullmatch=True), st.integers(0, 3000))
def test_a_member_has_the_header_of_its_name(key: str, size: int) -> None:
    members = Members()
    members.add(key.encode(), b".json", bytes(size))
    assert members.taken()[:512] == member_header(f"{key}.json", size)


@given(st.lists(samples(), min_size=1, max_size=4, unique_by=lambda sample: sample.key))
def test_samples_survive_a_shard(tmp_path_factory: pytest.TempPathFactory, wanted: list[Sample]) -> None:
    path = tmp_path_factory.mktemp("shard") / "shard-000.tar"
    write_shard(path, wanted)
    stored = list(iterate_shard(path))
    assert [item.sample for item in stored] == wanted
    data = path.read_bytes()
    for item in stored:
        payloads = [data[a : a + n] for a, n in zip(item.member_offsets, item.member_sizes, strict=True)]
        assert payloads[0] == canonical_json(sample_to_json(item.sample))
        assert payloads[1:] == [part for media in item.sample.media for part in media.data]
        assert data[item.offset : item.offset + 10] == item.key.encode()[:10]


@settings(max_examples=10)
@given(samples(), samples(), st.data())
def test_a_cut_shard_is_never_silently_short(
    tmp_path_factory: pytest.TempPathFactory, first: Sample, second: Sample, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "shard-000.tar"
    write_shard(path, [first, second])
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CorruptShardError, match=r"shard-000\.tar"):
        list(iterate_shard(path))


def write_shard(path: Path, wanted: list[Sample]) -> None:
    members = Members()
    for sample in wanted:
        members.add(sample.key.encode(), b".json", canonical_json(sample_to_json(sample)))
        for media in sample.media:
            for name, data in zip(media.files, media.data, strict=True):
                members.add(sample.key.encode(), f".{name}".encode(), data)
    members.end()
    path.write_bytes(members.taken())
