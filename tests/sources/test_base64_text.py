from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import RejectedError
from mimicit.sources.containers.base64_text import decode_base64, looks_like_base64


@given(
    st.binary(min_size=1, max_size=200),
    st.booleans(),
    st.booleans(),
    st.sampled_from([b"", b"data:image/jpeg;base64,"]),
    st.sampled_from(["%s", "b'%s'", 'b"%s"', " b'%s'\n", "\t%s "]),
)
def test_every_accepted_spelling_decodes_to_the_same_bytes(
    data: bytes, url_safe: bool, padded: bool, prefix: bytes, around: str
) -> None:
    text = base64.urlsafe_b64encode(data) if url_safe else base64.b64encode(data)
    text = prefix + (text if padded else text.rstrip(b"="))
    assert decode_base64((around % text.decode()).encode()) == data


@given(st.binary(min_size=1, max_size=300))
def test_lines_wrapped_as_mime_does_decode(data: bytes) -> None:
    assert decode_base64(base64.encodebytes(data)) == data
    assert decode_base64(str(base64.encodebytes(data)).encode()) == data


@pytest.mark.parametrize(
    "around", ["%s", "b'%s'", 'b\\"%s\\"', "data:image/png;base64,%s", "data:image\\/png;base64,%s"]
)
def test_the_beginning_of_a_picture_looks_like_one(around: str) -> None:
    text = (around % base64.b64encode(bytes(range(200))).decode()).encode()
    assert looks_like_base64(text)
    assert looks_like_base64(text[:100])
    assert not looks_like_base64(text.replace(b"A", b"."))


@pytest.mark.parametrize(
    "text",
    [
        b"!!!!",
        b"AAA\x00",
        b"AAAAA",
        b"AAAA====",
        b"AA=A",
        b"data:image/jpeg,AAAA",
        b"data:AAAA",
        b"b'AAAA",
        b"'AAAA'",
        b"b'AAAA\\r'",
        b"\xff\xd8\xff\xe0",
        b"AAA?",
    ],
)
def test_anything_else_is_refused_and_never_skipped(text: bytes) -> None:
    with pytest.raises(RejectedError) as caught:
        decode_base64(text)
    assert caught.value.reason == "bad_base64"


@pytest.mark.parametrize("text", [b"", b" \n", b"data:image/png;base64,"])
def test_nothing_is_an_empty_medium(text: bytes) -> None:
    with pytest.raises(RejectedError) as caught:
        decode_base64(text)
    assert caught.value.reason == "empty_media"
