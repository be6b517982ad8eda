"""The page about a run: it stands alone, says what was trained, and shows hostile text as text."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from mimicit.errors import TrainError
from otter_train.config.run_config import RunOptions, resolve
from otter_train.model import PRESETS
from otter_train.reporting.metrics import Console
from otter_train.reporting.run_report import Shown, write_report
from otter_train.training.loop import train
from tests.factories.train import MINUTE_MODEL, Colours, image, png, sample, triplet

HOSTILE = '<script>alert(1)</script> & "quotes" \u202eRTL ' + "x" * 100_000


class Page(HTMLParser):
    """The tags of a page, what they carry, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "path", "polyline", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "my <run>"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", MINUTE_MODEL)
        train(
            resolve("tiny", batch_size=4, epochs=100, max_steps=5, lr=3e-3),
            Colours(sources=("even", "odd")),
            folder,
            options=RunOptions(save_every=0, log_every=1, device="cpu", eval_shards=Path("held"), eval_every=2),
            console=Console(io.StringIO()),
            held_out=Colours(count=3, seed=1),
        )
    return folder


def test_the_page_says_what_was_trained_and_needs_nothing(run: Path) -> None:
    data = png((220, 20, 20))
    asked = sample(triplet(HOSTILE, HOSTILE, media=[0]), media=[image(data)], id=HOSTILE, source="<b>")
    path = write_report(run, [Shown(asked, {0: HOSTILE, 2: "no"})])
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert "script" not in names and "link" not in names and "b" not in names
    assert not re.search(r'(src|href)="(?!data:)', text)  # nothing is fetched
    assert "<script>alert(1)</script>" in page.text and len(text) < 60_000
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert pictures == [f"data:image/png;base64,{base64.b64encode(data).decode()}"]
    assert "my <run>" in page.text and "even" in page.text and "odd" in page.text
    for setting in ("lr", "batch_size", "guard_factor", "eval_shards"):
        assert setting in page.text
    assert names.count("svg") == 6 and names.count("polyline") >= 9  # loss twice, two sources, two layers
    assert "Answers to held-out questions" in page.text and "2 examples shown" in page.text


def test_a_run_without_held_out_data_or_lines_has_a_page_too(tmp_path: Path, run: Path) -> None:
    assert "Answers" not in Page(write_report(run).read_text()).text
    assert "Nothing has been logged" in Page(write_report(tmp_path).read_text()).text


def test_the_page_names_the_steps_that_were_left_out(tmp_path: Path) -> None:
    (tmp_path / "guard.jsonl").write_text(
        '{"step":7,"reason":"spike","gradient_norm":9.0,"samples":[{"id":"<i>","source":"s","loss":1.0}]}\n'
    )
    page = Page(write_report(tmp_path).read_text())
    assert "Steps left out (1)" in page.text and "<i>" in page.text


@pytest.mark.parametrize("name", ["guard.jsonl", "config.json"])
@pytest.mark.parametrize("text", ["{", "[1]", '{"step": 1}\n7'])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TrainError, match=rf"{name}: damaged .*move the file away"):
        write_report(tmp_path)
