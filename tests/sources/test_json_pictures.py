from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import SourceError
from mimicit.sources.containers.json_members import json_pictures
from mimicit.sources.files.reading import Reader
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import InJson, Picture, Reject
from tests.factories.sources import check_items, json_values, put

SPEC = SourceSpec(name="la", format="mimicit", files=("LA.json",), why="")

entries = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12),
    st.tuples(st.binary(min_size=1, max_size=60), st.booleans()),
    max_size=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


def scanned(folder: Path, content: bytes | str | Any) -> list[Picture | Reject]:
    put(folder, "LA.json", content)
    items = list(json_pictures(SPEC, Root(folder), "LA.json"))
    check_items(items, SPEC)
    return items


@given(entries, st.sampled_from([None, 2]), st.booleans(), st.booleans())
def test_what_is_read_at_every_place_is_what_json_and_base64_say(
    folder: Path, pictures: dict[str, tuple[bytes, bool]], indent: int | None, has_bom: bool, escaped: bool
) -> None:
    texts = {id: base64.b64encode(data).decode() for id, (data, _) in pictures.items()}
    value = {id: [texts[id]] if in_list else texts[id] for id, (_, in_list) in pictures.items()}
    text = json.dumps(value, indent=indent)
    if escaped:  # as PHP writes a slash
        text = text.replace("/", "\\/")
    items = scanned(folder, ("\ufeff" if has_bom else "") + text)
    with Reader(Root(folder)) as reader:
        read = [(item.id, reader.read(item.locator)) for item in items if isinstance(item, Picture)]
    assert read == [(id, data) for id, (data, _) in pictures.items()]


def test_ids_may_stand_twice(folder: Path) -> None:
    items = scanned(folder, '{"a": "QQ==", "a": "Qg=="}')
    assert [item.id for item in items] == ["a", "a"]
    with Reader(Root(folder)) as reader:
        assert [reader.read(item.locator) for item in items if isinstance(item, Picture)] == [b"A", b"B"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('""', "empty_media"),
        ("null", "malformed"),
        ("7", "malformed"),
        ("[]", "malformed"),
        ('["QQ==", "QQ=="]', "malformed"),
        ("[7]", "malformed"),
        ('{"base64": "QQ=="}', "malformed"),
        ("[" * 500 + "]" * 500, "malformed"),
    ],
)
def test_a_value_that_is_no_picture_costs_only_itself(folder: Path, value: str, reason: str) -> None:
    first, bad, last = scanned(folder, '{"a": "QQ==", "bad": ' + value + ', "z": ["QQ=="]}')
    assert isinstance(bad, Reject)
    assert (bad.scope, bad.reason, bad.id, bad.locator) == ("media", reason, "bad", "LA.json#bad")
    assert (first.id, last.id) == ("a", "z")


@pytest.mark.parametrize("key", ['"\\ud800"', '""', '"\\x"', '"' + "k" * 70_000 + '"'])
def test_an_odd_id_costs_only_itself(folder: Path, key: str) -> None:
    bad, good = scanned(folder, "{" + key + ': "QQ==", "z": "QQ=="}')
    assert isinstance(bad, Reject)
    assert re.fullmatch(r"LA\.json#byte \d+", bad.locator)
    assert good.id == "z"


@pytest.mark.parametrize(
    "text", ['{"a": "QQ=', '{"a": "QQ=="', '["QQ=="]', '"QQ=="', "", '{"a": "QQ==",}', '{"a" "b"}', "{}{}"]
)
def test_a_file_that_is_no_object_is_a_fault_that_names_the_byte(folder: Path, text: str) -> None:
    with pytest.raises(SourceError, match=r"^LA\.json: not valid JSON at byte \d+: "):
        scanned(folder, text)


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=5))
def test_every_entry_is_a_picture_or_a_reject(folder: Path, value: dict[str, Any]) -> None:
    assert len(scanned(folder, value)) == len(value)


def test_the_place_is_between_the_quotes(folder: Path) -> None:
    (item,) = scanned(folder, '{ "a" :\n "QQ==" }')
    assert isinstance(item, Picture)
    assert item.locator == InJson("LA.json", 10, 4)
