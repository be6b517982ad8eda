"""Small faithful files of the published formats, and what every importer must keep to."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from mimicit.prompt import IMAGE
from mimicit.schema import canonical_json, validate
from mimicit.sources import SOURCES, detect
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import Item, RawTriplet, Reject

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
"""Any JSON value, small."""


def jpeg(shade: int = 0) -> bytes:
    """A picture of 8 x 8 pixels; another one for every shade from 0 to 255."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 128, 255 - shade)).save(data, "JPEG")
    return data.getvalue()


def base64_jpeg(shade: int = 0) -> str:
    return base64.b64encode(jpeg(shade)).decode()


def put(root: Path, path: str, content: bytes | str | Any) -> Path:
    """Write ``content`` under ``root``: bytes and text as they are, any other value as JSON."""
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    place.write_bytes(content)
    return place


def put_lines(root: Path, path: str, records: Iterable[Any]) -> Path:
    return put(root, path, "".join(json.dumps(record) + "\n" for record in records))


def one_source(root: Path, *, format: str | None = None) -> SourceSpec:
    """The only source beneath ``root``."""
    (spec,) = detect(Root(root), format=format).sources
    return spec


def items_of(root: Path, *, format: str | None = None) -> list[Item]:
    """All items of the only source beneath ``root``, checked by `check_items`."""
    spec = one_source(root, format=format)
    items = list(SOURCES[spec.format].read(spec, Root(root)))
    check_items(items, spec)
    return items


def triplets_of(items: Iterable[Item]) -> list[RawTriplet]:
    return [item for item in items if isinstance(item, RawTriplet)]


def reasons_of(items: Iterable[Item]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Reject)]


def check_items(items: Iterable[Item], spec: SourceSpec) -> None:
    """What holds for the items of every format, whatever the input."""
    for item in items:
        if isinstance(item, Reject):
            validate("reject", dataclasses.asdict(item))
            assert (item.source, item.stage) == (spec.name, "import")
            assert item.locator
            assert item.detail
        elif isinstance(item, RawTriplet):
            assert 0 < len(item.id) <= 4096
            texts = [text for _, text in item.parts] or [item.answer]
            assert all(text.strip() == text != "" for text in texts)
            if item.parts:  # a document
                assert item.instruction == item.answer == ""
                assert sum(count for count, _ in item.parts) == len(item.media)
            for text in (item.instruction, *texts):
                text.encode()
                assert "\0" not in text
            assert IMAGE not in item.instruction
            assert item.place.startswith(spec.files)
            canonical_json(dict(item.meta))
            for medium in item.media:
                assert medium.parts
                assert medium.timestamps_s is None or len(medium.timestamps_s) == len(medium.parts)
