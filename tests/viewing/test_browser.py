"""The viewer and the report in a real Chromium: what a person does there, what the page may not do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mimicit.inspecting.report import write_report
from mimicit.loading import load
from tests.factories.viewing import (
    LONG_LINE,
    RIGHT_TO_LEFT,
    SCRIPT,
    axe_script,
    chromium,
    hostile_folder,
    many_rows,
    running_viewer,
)

pytest.importorskip("starlette", reason="comes with the extra 'view'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_folder(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with running_viewer(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page that may ask the viewer alone, and may not complain."""
    page = browser.new_page()
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    page.close()
    assert [url for url in asked if not url.startswith((address, "data:", "file:"))] == []
    assert faults == []


def ids_on(page: Any) -> list[str]:
    return [text for text in page.locator(".card h2").all_inner_texts() if text]


def test_pages_follow_each_other_by_keys(page: Any, address: str, folder: Path) -> None:
    ids = [sample.id for sample in load(folder)]
    page.goto(address)
    seen = []
    for place in range(4):
        assert f"page {place + 1} of 4" in page.inner_text(".pager")
        seen += page.locator(".card h2 a").evaluate_all("links => links.map(link => link.textContent)")
        if place < 3:
            with page.expect_navigation():
                page.keyboard.press("n")
    assert len(seen) == len(ids)
    assert [id for id in ids if len(id) <= 80] == [id for id in seen if "…" not in id]


def test_a_card_is_chosen_opened_and_left_by_keys(page: Any, address: str, folder: Path) -> None:
    samples = load(folder)
    page.goto(address)
    for _ in range(5):
        page.keyboard.press("j")
    page.keyboard.press("k")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.inner_text("h1") == samples[3].id
    with page.expect_navigation():
        page.keyboard.press("j")
    assert page.inner_text("h1") == samples[4].id
    with page.expect_navigation():
        page.keyboard.press("p")
    assert "learns to say" in page.inner_text("#prompt")
    assert page.inner_text("pre mark >> nth=0").endswith("<|endofchunk|>")
    with page.expect_navigation():
        page.keyboard.press("u")
    assert page.inner_text("h1").startswith(f"{len(samples)} samples")
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="detached")
    page.wait_for_function("document.activeElement === document.body")  # it gets the focus back a moment later
    page.keyboard.press("/")
    page.keyboard.type("jk?")  # typed, not obeyed
    assert page.input_value("#text") == "jk?" and page.locator("dialog[open]").count() == 0


def test_filters_and_search_by_their_forms(page: Any, address: str, folder: Path) -> None:
    samples = list(load(folder))
    page.goto(address)
    page.select_option("select[name=source]", "own")
    page.select_option("select[name=kind]", "image")
    page.click("button:text('Filter')")
    own = [sample for sample in samples if sample.source == "own" and sample.media]
    assert page.inner_text("h1").startswith(f"{len(own)} samples of {len(samples)}")
    page.fill("#text", "PICTURE")
    page.click("button:text('Search')")
    assert "source=own" in page.url
    text = f" of {len(own)} that meet the filter"
    assert text in page.inner_text("[role=status]")
    page.fill("#jump", samples[-1].id)
    page.click("button:text('Go')")
    assert page.inner_text("h1") == samples[-1].id
    page.goto(f"{address}sample/10")
    page.click("text=find this picture >> nth=0")
    checksum = samples[10].media[0].sha256[0]
    showing = [sample.id for sample in samples if any(checksum in media.sha256 for media in sample.media)]
    assert page.locator(".card h2 a").all_inner_texts()[:12] == showing[:12]


def test_a_clip_plays_through_its_frames_at_their_times(page: Any, address: str, folder: Path) -> None:
    shown_last = [(row, sample.media[-1]) for row, sample in enumerate(load(folder)) if sample.media]
    row, clip = next((row, media) for row, media in shown_last if media.kind == "video")
    assert clip.timestamps_s is not None and clip.duration_s is not None
    page.goto(f"{address}sample/{row}")
    figure = page.locator(".turn.query figure.clip")
    shown = "new Promise(done => { const seen = []; const screen = figure.querySelector('.screen');"
    shown += " const button = figure.querySelector('.play'); const start = performance.now();"
    shown += " new MutationObserver(() => seen.push([screen.getAttribute('src'), performance.now() - start]))"
    shown += ".observe(screen, {attributes: true, attributeFilter: ['src']});"
    shown += " new MutationObserver(() => button.textContent === '▶' && done(seen)).observe(button, {childList: true});"
    shown += " button.click(); })"
    seen = figure.evaluate(f"figure => {shown}")
    first = int(figure.get_attribute("data-first"))
    assert [src for src, _ in seen] == [f"/media/{row}/{first + n}" for n in range(1, len(clip.files))]
    for (_, at_ms), due_s in zip(seen, clip.timestamps_s[1:], strict=True):
        assert due_s * 1000 - 20 <= at_ms <= due_s * 1000 + 1000
    assert page.inner_text(".turn.query output") == f"{clip.timestamps_s[-1]:.2f} s"
    page.locator(".turn.query figure.clip input").press("Home")
    assert page.inner_text(".turn.query output") == "0.00 s"
    loaded = figure.locator(".screen").evaluate("image => image.decode().then(() => image.naturalWidth)")
    assert loaded == clip.width


def clip_card(page: Any, address: str) -> Any:
    page.goto(f"{address}?kind=video")
    return page.locator(".card:has(.preview)").first


def watched(card: Any) -> Any:
    """The picture of a card, whose ``seen`` lists every frame that it shows from now on."""
    image = card.locator(".preview").first.element_handle()
    note = "new MutationObserver(() => image.seen.push(image.getAttribute('src')))"
    image.evaluate(f"image => {{ image.seen = []; {note}.observe(image, {{attributeFilter: ['src']}}); }}")
    return image


def shown_by(page: Any, image: Any) -> list[str]:
    """The first frames that were seen after the first of the clip, once there are a few."""
    page.wait_for_function("image => image.seen.length >= 3", arg=image)
    seen: list[str] = image.evaluate("image => image.seen.splice(0)")
    return seen[1:3]


def test_the_clip_of_a_card_plays_under_the_pointer_and_by_its_key(page: Any, address: str) -> None:
    card = clip_card(page, address)
    still = card.locator(".preview").first.get_attribute("src")
    row, first = map(int, still.removeprefix("/media/").split("/"))
    following = [f"/media/{row}/{first + number}" for number in (1, 2)]
    image = watched(card)
    card.hover()
    assert shown_by(page, image) == following
    page.mouse.move(0, 0)
    assert card.locator(".preview.playing").count() == 0
    assert card.locator(".preview").first.get_attribute("src") == still
    image.evaluate("image => image.seen.splice(0)")
    page.keyboard.press("j")
    page.keyboard.press("Space")
    assert shown_by(page, image) == following
    page.keyboard.press("Space")
    assert card.locator(".preview.playing").count() == 0


def test_where_motion_is_unwelcome_a_clip_plays_only_when_asked(page: Any, address: str) -> None:
    page.emulate_media(reduced_motion="reduce")
    card = clip_card(page, address)
    card.hover()
    assert page.locator(".playing").count() == 0
    page.keyboard.press("j")
    page.keyboard.press("Space")
    assert card.locator(".preview.playing").count() == 1
    page.keyboard.press("j")
    assert page.locator(".playing").count() == 0, "it stops where another card is chosen"


def test_hostile_text_stays_text(page: Any, address: str, folder: Path) -> None:
    for row, text in enumerate((SCRIPT, RIGHT_TO_LEFT, LONG_LINE)):
        page.goto(f"{address}sample/{row}?prompt=otter")
        sample = load(folder)[row]
        words = page.locator(".turn.query .words").evaluate_all("all => all.map(one => one.textContent)")
        assert text in words and sample.query.instruction in words
        assert page.title() == f"{sample.id if len(sample.id) <= 60 else sample.id[:60].rstrip() + '…'} – mimicit"
        assert page.locator("main script, main img[src=x]").count() == 0
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, "a line of 100 kB wraps"
        assert text[:1000] in page.inner_text("pre.mask")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Any, address: str, folder: Path, tmp_path: Path, scheme: str) -> None:
    write_report(folder, tmp_path / "report.html")
    page.emulate_media(color_scheme=scheme)
    axe = axe_script()
    places = ["", "?source=nobody", "sample/0?prompt=otter", "sample/3", "sample/1", "search?text=picture", "rejects"]
    places += ["rejects?source=hostile", "context", "context?source=nobody"]
    places.append(f"sample/{len(load(folder)) - 3}")
    for place in (*(f"{address}{place}" for place in places), (tmp_path / "report.html").as_uri()):
        page.goto(place)
        page.evaluate(axe)  # not a script element: the policy of the page would refuse it
        found = page.evaluate("axe.run()")
        assert len(found["passes"]) > 10, "axe has looked"
        serious = [
            (one["id"], one["nodes"][0]["html"])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], place


def test_the_report_asks_for_nothing(page: Any, folder: Path, tmp_path: Path) -> None:
    write_report(folder, tmp_path / "report.html")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]
    assert page.locator("script").count() == 0
    pictures = page.locator(".sheet img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert pictures and all(pictures)


def test_a_web_page_elsewhere_gets_nothing(browser: Any, address: str, tmp_path: Path) -> None:
    page = browser.new_page()
    (tmp_path / "evil.html").write_text(
        f"<img id=stolen src='{address}media/0/0'><iframe src='{address}'></iframe><script>"
        f"fetch('{address}').then(a => a.text()).then(t => document.title = t, e => document.title = 'refused');"
        "</script>"
    )
    page.goto((tmp_path / "evil.html").as_uri())
    page.wait_for_function("document.title === 'refused'")
    assert page.locator("#stolen").evaluate("image => image.naturalWidth") == 0
    page.close()


def test_with_a_token_the_address_lets_in_and_forgets_it(browser: Any, folder: Path) -> None:
    with running_viewer(folder, "--host", "0.0.0.0") as address:
        page = browser.new_page()
        here = address.replace("0.0.0.0", "127.0.0.1")
        assert page.goto(here.partition("?")[0]).status == 401
        page.goto(here)
        assert "token" not in page.url and "samples" in page.inner_text("h1")
        assert page.evaluate("document.cookie") == ""
        assert page.locator(".card img").first.evaluate("i => i.decode().then(() => i.naturalWidth)") > 0
        page.close()


# The rows of `many_rows` lie in one place, as those of no sound folder do.
UNCHECKED = ("-c", "import mimicit.loading.storage.store as opened; opened._check_index = lambda *_, **__: None;"
             "from mimicit.cli import main; main()")  # fmt: skip


@pytest.mark.slow  # an index of a million rows is written first
def test_the_first_page_of_a_million_samples_takes_less_than_a_second(
    browser: Any, folder: Path, tmp_path: Path
) -> None:
    many = many_rows(folder, tmp_path / "many", 1_000_000)
    with running_viewer(many, cache=tmp_path / "cache", program=UNCHECKED) as address:
        page = browser.new_page()
        times = {}
        for place in ("", "?page=83334", "sample/999999", "?source=own", "find?id=id%20777777"):
            start = time.monotonic()
            page.goto(f"{address}{place}", wait_until="load")
            times[place] = time.monotonic() - start
        print(times)  # noqa: T201
        assert page.inner_text(".where").startswith("#777777")
        page.close()
    assert times[""] < 1, times
    assert times["?page=83334"] < 1 and times["sample/999999"] < 1, times
