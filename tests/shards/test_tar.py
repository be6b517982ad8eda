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
from mimicit.shards.reader import iterate_shard
from mimicit.shards.tar import Members, member_header, member_span
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


@settings(max_examples=30)
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
