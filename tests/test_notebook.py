"""What notebooks show: pictures small, texts as texts, tables complete."""

from __future__ import annotations

import builtins
import io
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from PIL import Image

import mimicit
from mimicit.errors import CorruptShardError, UsageError
from mimicit.loading.interop import to_pandas
from mimicit.records import Media, Sample, Triplet
from tests.factories import raw as make
from tests.factories import strategies
from tests.factories.media import vast_png
from tests.factories.viewing import LONG_LINE, SCRIPT


class Tags(HTMLParser):
    """The tags and attributes of a piece of HTML; every tag must be closed in its place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "img":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def shown(width: int = 320, height: int = 200, **fields: Any) -> Media:
    data = make.picture(1, width, height)
    values: dict[str, Any] = {
        "kind": "image", "files": ("000.jpg",), "width": width, "height": height, "sha256": ("0" * 64,),
        "origin": "a.jpg", "data": (data,), **fields,
    }  # fmt: skip
    return Media(**values)


@given(strategies.samples())
def test_no_text_becomes_a_tag(sample: Sample) -> None:
    for thing in (sample, *sample.triplets, *sample.media):
        html = thing._repr_html_()
        tags = Tags(html)
        assert tags.found <= {"div", "b", "small", "bdi", "img"}
        assert tags.attributes <= {"class", "style", "dir", "src", "alt"}
        assert html.startswith('<div class="tex2jax_ignore"')  # so that no price becomes a formula


def test_hostile_and_long_texts_are_shown_as_texts() -> None:
    triplet = Triplet(id=SCRIPT, role="query", media=(0,), instruction=SCRIPT, answer=LONG_LINE)
    sample = Sample(id=SCRIPT, source="s", media=(shown(origin=SCRIPT),), triplets=(triplet,))
    html = sample._repr_html_()
    tags = Tags(html)
    assert tags.texts.count(SCRIPT) == 4
    assert "img" in tags.found and "(100,000 characters)" in html
    assert len(html) < 30_000


def test_a_picture_and_a_clip_become_pillow_images() -> None:
    picture = shown().to_pil()
    assert isinstance(picture, Image.Image) and picture.size == (320, 200)
    frames = tuple(make.picture(seed, 64, 48) for seed in range(3))
    clip = shown(64, 48, kind="video", files=("0.jpg", "1.jpg", "2.jpg"), data=frames, timestamps_s=(0.0, 1.0, 2.0))
    images = clip.to_pil()
    assert isinstance(images, list) and len(images) == 3
    assert images[1].tobytes() == Image.open(io.BytesIO(frames[1])).tobytes()
    assert clip._repr_html_().count("<img") == 3 and "3 frames" in clip._repr_html_()


@pytest.mark.parametrize(
    ("data", "fault"),
    [((), "have not been read"), ((b"no picture",), "damaged"), ((make.picture(1, 64, 48),), "its sample says 320x200"),
     ((vast_png(),), "its sample says|damaged")],
    ids=["unread", "damaged", "another", "vast"],
)  # fmt: skip
def test_what_is_no_such_picture_is_refused(data: tuple[bytes, ...], fault: str) -> None:
    media = replace(shown(), data=data)
    with pytest.raises(CorruptShardError, match=fault):
        media.to_pil()
    Tags(media._repr_html_())  # says so, and shows the rest


@given(strategies.samples())
def test_a_table_has_a_row_for_every_sample(sample: Sample) -> None:
    pytest.importorskip("pandas", reason="comes with the extra 'dev'")
    table = to_pandas([sample, replace(sample, id="other")])
    assert list(table.index) == [sample.key, replace(sample, id="other").key]
    row = table.loc[sample.key]
    assert (row["answer"], row["context"], row["prompt"]) == (
        sample.query.answer, len(sample.context), mimicit.render(sample),
    )  # fmt: skip
    assert row["images"] + row["videos"] == len(sample.media)
    assert row["relations"] == [triplet.relation for triplet in sample.context]


def test_an_empty_table_has_its_columns() -> None:
    pytest.importorskip("pandas", reason="comes with the extra 'dev'")
    assert "prompt" in to_pandas([]).columns


def test_without_pandas_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'")
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match="pip install pandas"):
        to_pandas([])
