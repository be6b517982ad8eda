"""The viewer's pages over HTTP: what they show, what they refuse."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="comes with the extra 'view'")
pytest.importorskip("httpx2", reason="Starlette's test client needs it")

from starlette.testclient import TestClient

from mimicit.errors import UsageError
from mimicit.loading import load
from mimicit.viewing import gallery as gallery_module
from mimicit.viewing import serve
from mimicit.viewing.app import create_app
from mimicit.viewing.gallery import Criteria, Gallery, needle_for_picture, needle_for_text, needle_for_triplet
from tests.factories import raw as make
from tests.factories.viewing import LONG_LINE, RIGHT_TO_LEFT, SCRIPT, built, hostile_folder, many_rejects

LOCAL = ("localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_folder(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def gallery(folder: Path) -> Gallery:
    return Gallery(folder)


@pytest.fixture(scope="module")
def client(gallery: Gallery) -> Iterator[TestClient]:
    with TestClient(create_app(gallery, hosts=LOCAL, token=None), base_url="http://localhost") as client:
        yield client


def rows_on(page: str) -> list[int]:
    return [int(row) for row in re.findall(r'<h2><a href="/sample/(\d+)', page)]


def test_every_filter_shows_the_samples_that_meet_it(folder: Path, gallery: Gallery, client: TestClient) -> None:
    samples = list(load(folder))
    characters = [sum(len(t.instruction) + len(t.answer) for t in sample.triplets) for sample in samples]
    expected = {
        "source=own": {r for r, s in enumerate(samples) if s.source == "own"},
        "relation=conversation": {
            r for r, s in enumerate(samples) if any(t.relation == "conversation" for t in s.triplets)
        },
        "kind=video": {r for r, s in enumerate(samples) if any(m.kind == "video" for m in s.media)},
        "kind=text": {r for r, s in enumerate(samples) if not s.media},
        "min_characters=60&max_characters=90": {r for r, count in enumerate(characters) if 60 <= count <= 90},
        "": set(range(len(samples))),
    }
    for query, rows in expected.items():
        assert rows or query == "kind=text", query
        shown: list[int] = []
        for page in range(1, 1 + -(-len(rows) // 12)):
            text = client.get(f"/?{query}&page={page}").text
            assert f"{len(rows)} sample" in text
            shown += rows_on(text)
        assert shown == sorted(rows), query


def test_neighbours_are_those_of_the_filter(gallery: Gallery, client: TestClient) -> None:
    rows = [int(row) for row in gallery.rows(Criteria(source="own"))]
    page = client.get(f"/sample/{rows[3]}?source=own").text
    assert f'rel="prev" href="/sample/{rows[2]}?source=own"' in page
    assert f'rel="next" href="/sample/{rows[4]}?source=own"' in page
    assert f"4 of {len(rows)}" in page
    assert 'rel="next"' not in client.get(f"/sample/{rows[-1]}?source=own").text


def test_a_sample_shows_all_of_itself(folder: Path, client: TestClient) -> None:
    for row, sample in enumerate(load(folder)):
        page = unescape(client.get(f"/sample/{row}").text)
        for triplet in sample.triplets:
            for text in (triplet.instruction, triplet.answer):
                assert text in page
            if triplet.relation:
                assert triplet.relation.replace("_", " ") in page
        first = 0
        for media in sample.media:
            assert f'src="/media/{row}/{first}"' in page
            first += len(media.files)


def test_files_are_the_stored_ones_and_nothing_else(folder: Path, client: TestClient) -> None:
    for row, sample in enumerate(load(folder)):
        stored = [(name, data) for media in sample.media for name, data in zip(media.files, media.data, strict=True)]
        for number, (name, data) in enumerate(stored):
            answer = client.get(f"/media/{row}/{number}")
            assert answer.content == data
            assert answer.headers["content-type"] == {"jpg": "image/jpeg"}[name.rpartition(".")[2]]
        assert client.get(f"/media/{row}/{len(stored)}").status_code == 404
    for path in (
        "/media/99999/0", "/media/0/-1", "/media/0/../../manifest.json", "/media/..%2f..%2fmanifest.json/0",
        "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/manifest.json",
        "/static/templates/base.html", "/sample/99999", "/sample/x",
    ):  # fmt: skip
        assert client.get(path).status_code == 404, path


def test_hostile_text_is_shown_as_text(gallery: Gallery, client: TestClient) -> None:
    row = gallery.locate(SCRIPT)
    for path, parameters in (
        (f"/sample/{row}", {"prompt": "otter"}), ("/", {}), ("/rejects", {}), ("/search", {"text": SCRIPT}),
        ("/find", {"id": SCRIPT * 2}), ("/", {"source": SCRIPT}), ("/", {"kind": SCRIPT}),
    ):  # fmt: skip
        page = client.get(path, params=parameters).text
        assert "<script>document" not in page and "<img src=x" not in page
        assert page.count("<script") == 1  # our own
    assert SCRIPT in unescape(client.get(f"/sample/{row}").text)
    right = client.get(f"/sample/{gallery.locate('right')}").text
    assert f"Written by {SCRIPT} with the recipe detail" in unescape(re.sub(r"</?(b|bdi)>", "", right))
    assert f'<p class="words" dir="auto">{RIGHT_TO_LEFT}</p>' in right
    long = client.get(f"/sample/{gallery.locate('long')}").text
    assert LONG_LINE in long and "All 100,000 characters" in long
    assert LONG_LINE[:1000] not in client.get("/").text


def test_nothing_can_be_changed_and_no_script_is_inline(client: TestClient) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = client.request(method, "/", headers={"Origin": "http://evil.example"})
        assert answer.status_code == 405
    for path in ("/", "/sample/0", "/media/0/0", "/static/view.css", "/nothing", "/?kind=no"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert client.get(path).headers["x-content-type-options"] == "nosniff"
    page = client.get("/sample/5?prompt=otter").text
    assert not re.search(r"\son\w+=|style=|<script>|https?://", page)


def test_other_sites_and_other_names_are_refused(client: TestClient) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert client.get("/", headers={"Host": "127.0.0.1:99"}).status_code == 200
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/media/0/0", headers=embedded).status_code == 403
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=followed).status_code == 200


def test_with_a_token_nothing_is_shown_without_it(gallery: Gallery) -> None:
    app = create_app(gallery, hosts=None, token="secret")
    client = TestClient(app, base_url="http://10.1.2.3:9000", follow_redirects=False)
    for path in ("/", "/media/0/0", "/static/view.css", "/?token=wrong", "/?token="):
        assert client.get(path).status_code == 401, path
    answer = client.get("http://10.1.2.3:9000//evil.example/?source=own&token=secret")
    assert answer.headers["location"] == "/evil.example/?source=own"
    answer = client.get("/?source=own&token=secret")
    assert answer.status_code == 303 and answer.headers["location"] == "/?source=own"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "secret" in cookie
    assert client.get("/").status_code == 200  # the client keeps the cookie
    client.cookies.clear()
    assert client.get("/").status_code == 401


def test_jumps(gallery: Gallery, folder: Path, client: TestClient) -> None:
    sample = load(folder)[5]
    for wanted in (sample.id, sample.key, "#5"):
        answer = client.get("/find", params={"id": wanted, "source": sample.source}, follow_redirects=False)
        assert answer.headers["location"] == "/sample/5"
    for row, one in enumerate(load(folder)):  # what a context triplet links to says what the triplet says
        for triplet in one.context:
            found = gallery.locate(triplet.id, one.source)
            if found is not None:
                assert gallery.stored.peek(found).query.answer == triplet.answer, row
    assert "0 found" in client.get("/find", params={"id": "nobody"}).text
    assert client.get("/find", params={"id": "#99999"}).status_code == 404
    assert client.get("/find?id=", follow_redirects=False).headers["location"] == "/"


def test_search_finds_what_there_is(folder: Path, gallery: Gallery) -> None:
    samples = list(load(folder))
    everything = {"start": 0, "most": 1000, "seconds": 60.0}
    for text in ("PICTURE", "number 2", SCRIPT, '"', "שלום", "no such words"):
        expected = [
            row for row, sample in enumerate(samples)
            if any(text.casefold() in f"{t.instruction}\n{t.answer}\n{t.id}".casefold() for t in sample.triplets)
        ]  # fmt: skip
        assert gallery.search(needle_for_text(text), Criteria(), **everything).rows == expected, text
    checksum = samples[7].media[0].sha256[0]
    expected = [r for r, s in enumerate(samples) if any(checksum in m.sha256 for m in s.media)]
    for spelling in (checksum, checksum.upper()):
        assert gallery.search(needle_for_picture(spelling), Criteria(), **everything).rows == expected
    id = samples[7].triplets[0].id
    expected = [r for r, s in enumerate(samples) if any(t.id == id for t in s.triplets)]
    assert gallery.search(needle_for_triplet(id), Criteria(), **everything).rows == expected


def test_a_search_stops_in_time_and_goes_on_where_it_was(gallery: Gallery) -> None:
    needle = needle_for_text("e")
    whole = gallery.search(needle, Criteria(source="own"), start=0, most=1000, seconds=60)
    rows: list[int] = []
    start = steps = 0
    while True:
        found = gallery.search(needle, Criteria(source="own"), start=start, most=1000, seconds=0.0)
        rows += found.rows
        steps += 1
        if found.is_through:
            break
        assert found.read == start + 1  # no time at all still gets one sample further
        start = found.read
    assert rows == whole.rows and steps == whole.total
    few = gallery.search(needle, Criteria(source="own"), start=0, most=2, seconds=60)
    assert few.rows == whole.rows[:2] and not few.is_through


def test_search_says_how_far_it_got(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimicit.viewing.app._SEARCH_SECONDS", 0.0)
    page = client.get("/search?text=e&source=own").text
    assert "in samples 1 to 1 of 18 that meet the filter" in page
    assert 'href="/search?source=own&amp;start=1&amp;text=e">Search on</a>' in page


def talk(id: str, turns: int, **fields: str) -> dict[str, Any]:
    """A conversation in the form of LLaVA; with ``image`` or ``video``, its first question shows it."""
    said: list[dict[str, str]] = []
    for turn in range(turns):
        placeholder = "<image>\n" if fields and not turn else ""
        said += [{"from": "human", "value": f"{placeholder}{id} {turn}?"}, {"from": "gpt", "value": f"{id} {turn}!"}]
    return {"id": id, "conversations": said, **fields}


@pytest.mark.parametrize("context", ["auto", "random"])
def test_a_card_shows_what_its_query_is_about_also_where_it_was_shown_before(tmp_path: Path, context: str) -> None:
    src = tmp_path / "raw"
    src.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (src / name).write_bytes(make.picture(ord(name[0])))
    make.clip(src / "c.mp4")
    talks = [talk("a", 4, image="a.jpg"), talk("b", 1, image="b.jpg"), talk("c", 3, video="c.mp4"), talk("none", 3)]
    (src / "talks.json").write_text(json.dumps(talks))
    folder = built(src, tmp_path / "out", context=context)
    client = TestClient(create_app(Gallery(folder), hosts=None, token=None))
    cards = re.findall(r'<li class="card">(.*?)</li>', client.get("/").text, re.DOTALL)
    assert len(cards) == 11
    for card, sample in zip(cards, load(folder), strict=True):
        name = sample.query.instruction.split()[0]
        shown = re.findall(r'<img src="/media/(\d+)/(\d+)"[^>]* alt="[^"]* (\S+)"', card)
        if name == "none":
            assert not shown and "no picture" in card
            continue
        ((row, number, origin),) = shown
        assert origin.startswith(f"{name}.")
        (medium,) = (medium for medium in sample.media if medium.origin.startswith(f"{name}."))
        assert client.get(f"/media/{row}/{number}").content == medium.data[0]
        assert ("shown earlier" in card) == (not sample.query.media)


def test_the_page_of_context_quality_says_what_was_found(folder: Path, gallery: Gallery, client: TestClient) -> None:
    page = client.get("/context").text
    found = gallery.quality(Criteria())
    assert f"{found.triplets:,} context triplets of {len(load(folder))} samples." in page
    for relation in found.relations:
        assert f'<th scope="row"><span class="chip {relation.relation}">' in page
    shown = [int(row) for row in re.findall(r'<p class="where">.*?<a href="/sample/(\d+)"', page)]
    assert shown == [pair.row for pair in (*found.leaks, *found.most_alike, *found.least_alike)]
    assert "There is no context to judge here" in client.get("/context?source=nobody").text
    assert client.get("/context?kind=nothing").status_code == 400
    own = client.get("/context?source=own").text
    assert f"of {gallery.quality(Criteria(source='own')).judged} samples." in own
    assert 'action="/context"' in own and '<a href="/context">clear</a>' in own


def test_context_chosen_by_likeness_is_shown_with_its_scores(folder: Path, tmp_path: Path) -> None:
    folder = built(folder.parent / "raw" / "hostile", tmp_path / "out", context="image-similar")
    gallery = Gallery(folder)
    page = TestClient(create_app(gallery, hosts=None, token=None)).get("/context").text
    found = gallery.quality(Criteria())
    assert found.most_alike and found.least_alike
    assert SCRIPT not in page and SCRIPT in unescape(page), "it is shown, as text"
    assert "Most alike" in page and "Least alike" in page and '<svg class="histogram"' in page
    scores = [sample.triplets[pair.place].score for pair in found.most_alike for sample in [load(folder)[pair.row]]]
    assert scores == sorted(scores, reverse=True) == [pair.score for pair in found.most_alike]


def test_filters_are_kept_for_a_while(gallery: Gallery) -> None:
    for least in range(20):
        gallery.rows(Criteria(min_characters=least))
    assert len(gallery._rows) == gallery_module._KEPT_FILTERS


def test_a_filter_without_sense_says_so(client: TestClient) -> None:
    for query in ("min_characters=x", "kind=pictures", "relation=friend", "page=-1"):
        answer = client.get(f"/?{query}")
        assert answer.status_code == 400 and 'class="fault"' in answer.text, query
    assert "No sample meets this filter" in client.get("/?source=nobody").text
    assert client.get("/sample/0?prompt=nothing").status_code == 400
    assert client.get("/sample/0?prompt=otter&mask=x").status_code == 400


def test_rejects_are_shown_with_their_reasons(client: TestClient) -> None:
    page = client.get("/rejects").text
    assert "1 record: missing file" in page
    assert "nothing was left out" in client.get("/rejects?reason=timeout").text.lower()


def test_a_hundred_thousand_rejects_are_shown_page_by_page(folder: Path, tmp_path: Path) -> None:
    many = many_rejects(folder, tmp_path / "many", 100_000)
    client = TestClient(create_app(Gallery(many), hosts=None, token=None))
    overview = client.get("/rejects").text
    assert "66,667 records: missing file" in overview and "33,333 records: empty answer" in overview
    assert len(overview) < 20_000
    (link,) = re.findall(r'<h2><a href="([^"]*empty_answer[^"]*)"', overview)
    seen: list[int] = []
    for number in (1, 2, 333, 334):
        page = client.get(f"{unescape(link)}&page={number}").text
        seen += [int(line) for line in re.findall(r"own/manifest\.jsonl:(\d+)", page)]
        assert "33,333 rejects: empty answer" in page and f"page {number} of 334" in page
        assert ('rel="prev"' in page, 'rel="next"' in page) == (number > 1, number < 334)
    wanted = range(3, 100_001, 3)  # every third line
    assert seen == [*wanted[:200], *wanted[33_200:]]
    beyond = client.get("/rejects?reason=empty_answer&page=999999", follow_redirects=False)
    assert (beyond.status_code, beyond.headers["location"]) == (303, "/rejects?reason=empty_answer&page=334")
    assert "<script>document" not in client.get("/rejects?source=own").text
    assert client.get("/rejects?source=own&page=x").status_code == 400


def test_a_damaged_sample_does_not_hide_the_others(folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "shards"
    shutil.copytree(folder, damaged)
    shard = damaged / "shard-000.tar"
    data = bytearray(shard.read_bytes())
    place = data.index(b'{"format"')
    data[place : place + 9] = b"[damaged]"
    shard.write_bytes(data)
    client = TestClient(create_app(Gallery(damaged), hosts=None, token=None))
    page = client.get("/").text
    assert page.count('class="fault"') == 1 and len(rows_on(page)) == 12
    assert client.get("/sample/0").status_code == 500
    assert client.get("/sample/1").status_code == 200


def test_an_address_that_cannot_be_had_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"--host 203\.0\.113\.7 --port 1"):
        serve(folder, host="203.0.113.7", port=1, announce=lambda line: None)
