"""The nouns mirror the schema, and their JSON is lossless."""

from __future__ import annotations

import dataclasses
import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import SchemaError
from mimicit.pipeline.stages.publish import REJECTS_SCHEMA
from mimicit.records import Media, Sample, Triplet, sample_from_json, sample_key, sample_to_json
from mimicit.schema import canonical_json, names, schema, validate
from mimicit.shards.index import RELATIONS
from mimicit.sources.items import Reject
from tests.factories.strategies import samples


@given(samples())
def test_json_round_trip_is_lossless_and_valid(sample: Sample) -> None:
    text = canonical_json(sample_to_json(sample))
    value = orjson.loads(text)
    validate("sample", value)
    assert sample_from_json(value, [media.data for media in sample.media]) == sample
    assert canonical_json(value) == text


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_key_is_safe_whatever_the_id(source: str, id: str) -> None:
    assert re.fullmatch(r"[a-z0-9_-]{1,80}", sample_key(source, id))


def test_key_is_stable_and_tells_sources_and_cases_apart() -> None:
    assert sample_key("llava", "LACR_T2T_00_INS_000000442786") == "lacr_t2t_00_ins_000000442786-f6d055ab66b6e4a7"
    assert len({sample_key("a", "x"), sample_key("b", "x"), sample_key("a", "X"), sample_key("a", "x.")}) == 4


def test_dataclass_fields_are_the_schema_s_properties() -> None:
    properties = schema("sample")["properties"]
    assert {field.name for field in dataclasses.fields(Sample)} == set(properties) - {"format"}
    media = properties["media"]["items"]["properties"]
    assert {field.name for field in dataclasses.fields(Media)} - {"data"} == set(media)
    triplet = properties["triplets"]["items"]["properties"]
    assert {field.name for field in dataclasses.fields(Triplet)} == set(triplet)
    assert triplet["relation"]["description"].partition(";")[0].split(", ") == list(RELATIONS)
    assert all(re.search(triplet["relation"]["pattern"], name) for name in RELATIONS)
    reject = schema("reject")["properties"]
    assert {field.name for field in dataclasses.fields(Reject)} == set(reject) == set(REJECTS_SCHEMA.names)


def test_every_schema_is_shipped_and_closed() -> None:
    assert names() == ("checkpoint", "manifest", "mixture", "recipe", "reject", "sample")
    for name in names():
        assert schema(name)["additionalProperties"] is False


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {1, 2}])
def test_canonical_json_refuses_what_json_cannot_hold(value: object) -> None:
    with pytest.raises(SchemaError):
        canonical_json({"value": value})


def test_schema_error_names_the_place() -> None:
    with pytest.raises(SchemaError, match=r"^media/0/kind: "):
        validate("sample", {**_minimal(), "media": [{**_minimal()["media"][0], "kind": "sound"}]})


def _minimal() -> dict[str, list[dict[str, object]]]:
    sample = Sample(
        id="a",
        source="s",
        media=(Media(kind="image", files=("000.jpg",), width=1, height=1, sha256=("0" * 64,), origin="a.jpg"),),
        triplets=(Triplet(id="a", role="query", media=(0,), instruction="", answer="x"),),
    )
    return sample_to_json(sample)
