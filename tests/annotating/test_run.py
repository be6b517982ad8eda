"""``mimicit annotate`` against a server that does everything wrong, and one that does everything right."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mimicit.cli import main
from tests.factories.annotating import (
    KEY,
    RECIPE,
    ModelServer,
    Reply,
    annotate,
    asked,
    captioned_pictures,
    completion,
    model_server,
    pairs_json,
    rows,
    sound,
)

pytest.importorskip("openai", reason="comes with the extra 'annotate'")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captioned_pictures(tmp_path_factory.mktemp("annotate") / "raw", 12)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def number_of(body: dict[str, Any]) -> int:
    """Which picture a request is about, also one that is made again."""
    return int(body["messages"][1]["content"].split("kind ")[1].split("\n")[0])


def test_pairs_are_written_in_order_and_a_second_run_asks_nothing(raw: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "written"
    with model_server() as server:
        server.reply = lambda body, number: Reply(
            **{**sound(body).__dict__, "delay_s": 0.05 * (number % 3)}  # answers come in another order
        )
        summary = annotate(raw, out, recipe, server)
        assert len(server.requests) == 12 and summary["requests"] == 12
        assert all("Bearer " + KEY in head for head in server.seen_headers)
        before = (out / "manifest.jsonl").read_bytes()
        again = annotate(raw, out, recipe, server)
        assert len(server.requests) == 12 and again["requests"] == 0
        server.reply = lambda body, number: Reply(**{**sound(body).__dict__, "delay_s": 0.01 * (24 - number)})
        annotate(raw, tmp_path / "again", recipe, server, "--concurrency", "12")  # the last asked is answered first
        assert server.answered[12:] != server.answered[:12] and set(server.answered[12:]) == set(server.answered[:12])
    assert (out / "manifest.jsonl").read_bytes() == before == (tmp_path / "again" / "manifest.jsonl").read_bytes()
    assert (summary["records"], summary["written"], summary["kept"]) == (12, 12, 24)
    assert summary["tokens"] == {"input": 1200, "output": 240} == again["tokens"]
    written = rows(out)
    assert [row["media"] for row in written] == [[f"media/{number:03}.jpg"] for number in range(12) for _ in (0, 1)]
    assert (out / "media" / "003.jpg").read_bytes() == (raw / "003.jpg").read_bytes()
    first = written[0]
    assert first["related"] == [written[1]["id"]]
    assert first["meta"]["recipe"] == "test" and first["meta"]["model"] == "m" and len(first["meta"]["request"]) == 64
    request = server.requests[0]
    assert request["max_tokens"] == 100 and request["response_format"]["json_schema"]["strict"] is True
    assert {asked(body) for body in server.requests} == {
        f"- a cat of kind {number}\n- cat {number} on a mat" for number in range(12)
    }


def test_build_takes_what_was_written_with_pictures_where_they_lie(raw: Path, recipe: Path, tmp_path: Path) -> None:
    from mimicit import load

    out = tmp_path / "written"
    with model_server() as server:
        server.reply = lambda body, number: completion("no") if number_of(body) == 2 else sound(body)
        annotate(raw, out, recipe, server, "--limit", "3", "--report")
    assert len(rows(out, "rejects.jsonl")) == 1 and (out / "report.html").exists()
    words = ["build", "--src", str(out), "--config", str(out / "mimicit.toml"), "--out", str(tmp_path / "shards")]
    words += ["--workers", "1", "--json", "--strict"]
    (out / "stray.jsonl").write_text('{"some": "data"}\n')
    refused = CliRunner().invoke(main, words, catch_exceptions=False)
    assert refused.exit_code == 1 and "stray.jsonl: not used" in refused.output
    (out / "stray.jsonl").unlink()
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["input"]["unused"] == 0
    samples = list(load(tmp_path / "shards"))
    assert len(samples) == 4
    assert {sample.context[-1].relation for sample in samples} == {"related"}
    assert {sample.meta["recipe"] for sample in samples} == {"test"}


@pytest.fixture(scope="module")
def hostile(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelServer, Path, dict[str, Any]]:
    """One run over a server that does to each record what its number says."""
    folder = tmp_path_factory.mktemp("hostile")
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE)
    counts: Counter[str] = Counter()

    def reply(body: dict[str, Any], number: int) -> Reply:
        record = number_of(body)
        counts[str(record)] += 1
        attempt = counts[str(record)]
        match record:
            case 0 if attempt == 1:
                return Reply(429, b"{}", {"Retry-After": "0.2"})
            case 1 if attempt == 1:
                return Reply(429, b'{"error": {"message": "slow down"}}')
            case 2 if attempt == 1:
                return Reply(500, b"<html>")
            case 3:
                return Reply(**{**sound(body).__dict__, "do": "cut"})
            case 4:
                return Reply(do="stall")
            case 5:
                return Reply(body=b"\xff\xfegarbage" * 100)
            case 6:
                return Reply(body=b'{"choices": []}')
            case 7:
                return Reply(body=b'{"error": {"message": "your key %s is over its limit"}}' % KEY.encode())
            case 8:
                return completion('{"pairs": "none"}') if attempt == 1 else sound(body)
            case 9:
                return completion("x" * 10_000_000)
            case 10:
                return completion("I am no JSON")
            case 11:
                return Reply(400, b'{"error": {"message": "context too long, key %s"}}' % KEY.encode())
        return sound(body)

    with model_server() as server:
        server.reply = reply
        summary = annotate(raw, folder / "out", recipe, server, "--timeout", "0.7", "--retries", "1", "--report")
    return server, folder / "out", summary


def test_every_request_ends_as_kept_or_rejected_with_its_reason(hostile: Any) -> None:
    _, out, summary = hostile
    assert summary["records"] == 12 == summary["written"] + summary["rejected"]
    assert summary["pairs"] == summary["kept"] + summary["dropped"]
    rejected = {row["id"]: (row["reason"], row["detail"]) for row in rows(out, "rejects.jsonl")}
    assert Counter(reason for reason, _ in rejected.values()) == summary["reasons"]
    assert summary["reasons"] == {"no_answer": 5, "too_long": 1, "unreadable": 1, "refused_request": 1}
    details = " ".join(detail for _, detail in rejected.values())
    for words in ("the connection failed", "no whole answer within 0.7 s", "no JSON", "no choices", "over its limit"):
        assert words in details
    assert "HTTP 400: " in details and "more than 4,194,304 bytes" in details and "when asked again" in details
    assert summary["written"] == 4 and len(rows(out)) == 8


def test_the_key_is_nowhere(hostile: Any) -> None:
    _, out, _ = hostile
    files = [path for path in out.rglob("*") if path.is_file() and "media" not in path.parts]
    assert len(files) >= 4
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path
    assert "[key]" in (out / "rejects.jsonl").read_text()


def test_a_rerun_asks_what_got_no_answer_and_nothing_else(hostile: Any, raw: Path, tmp_path: Path) -> None:
    _, out, _ = hostile
    (tmp_path / "recipe.toml").write_text(RECIPE)
    with model_server() as sane:
        summary = annotate(raw, out, tmp_path / "recipe.toml", sane)
        numbers = sorted(number_of(body) for body in sane.requests)
    assert numbers == [3, 4, 5, 6, 7, 11]
    assert summary["reasons"] == {"too_long": 1, "unreadable": 1} and summary["written"] == 10


def test_a_server_that_refuses_the_key_ends_the_run_with_its_words(
    raw: Path, recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with model_server() as server:
        server.reply = lambda body, number: Reply(401, b'{"error": {"message": "bad key %s"}}' % KEY.encode())
        said = annotate(raw, tmp_path / "out", recipe, server, code=1)["error"]
        assert "HTTP 401: the key is not accepted" in said and "bad key [key]" in said
        server.reply = lambda body, number: Reply(307, b"", {"Location": "http://127.0.0.1:1/elsewhere"})
        said = annotate(raw, tmp_path / "out", recipe, server, code=1)["error"]
        assert "redirects to http://127.0.0.1:1/elsewhere" in said
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    assert "chat/completions" in caplog.text and KEY not in caplog.text


def test_retry_after_makes_all_requests_wait_and_one_of_hours_ends_the_run(
    raw: Path, recipe: Path, tmp_path: Path
) -> None:
    with model_server() as server:
        server.reply = lambda body, number: sound(body) if number else Reply(429, b"", {"Retry-After": "0.5"})
        annotate(raw, tmp_path / "out", recipe, server, "--concurrency", "1")
        assert server.times[1] - server.times[0] >= 0.5 and len(server.times) == 13
        server.reply = lambda body, number: Reply(429, b"", {"Retry-After": "7200"})
        said = annotate(raw, tmp_path / "other", recipe, server, code=1)["error"]
        assert "the server asks to wait for 7,200 s" in said and "same command goes on" in said


def test_a_server_that_fails_always_ends_the_run_and_it_goes_on_later(
    tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = captioned_pictures(tmp_path / "raw", 40)
    with model_server() as server:
        server.reply = lambda body, number: sound(body) if number < 5 else Reply(503)
        said = annotate(raw, tmp_path / "out", recipe, server, "--retries", "0", "--concurrency", "4", code=1)["error"]
        assert "20 requests in a row have failed, the last with: HTTP 503" in said and "same command goes on" in said
        assert len(server.requests) < 40
        before = list(server.answered)
        server.reply = sound
        summary = annotate(raw, tmp_path / "out", recipe, server)
        assert summary["written"] == 40 and summary["requests"] == 35
        assert len(set(server.answered)) == len(server.answered) == 40 and server.answered[:5] == before


def test_the_budget_ends_the_run_cleanly_and_a_larger_one_goes_on(raw: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with model_server() as server:
        summary = annotate(raw, out, recipe, server, "--budget-tokens", "700", code=1)
        assert "the budget of 700 tokens is reached" in summary["stopped"]
        spent = sum(summary["tokens"].values())
        assert 360 <= spent <= 700 and summary["reasons"] == {"not_asked": 12 - spent // 120}
        assert len(rows(out)) == 2 * spent // 120
        paid = annotate(raw, out, recipe, server, "--budget-usd", "0.5", "--price-in", "100", "--price-out", "100")
        assert paid["written"] == 12 and len(server.requests) == 12 and paid["usd"] == pytest.approx(0.144)


def test_the_pace_holds_requests_a_minute(raw: Path, recipe: Path, tmp_path: Path) -> None:
    with model_server() as server:
        began = time.monotonic()
        annotate(raw, tmp_path / "out", recipe, server, "--requests-per-minute", "1200")
        assert time.monotonic() - began >= 11 * 60 / 1200


def test_changing_the_recipe_asks_only_what_changed(raw: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with model_server() as server:
        annotate(raw, out, recipe, server)
        recipe.write_text(RECIPE + "[gates]\nmin_words = 2\n")
        annotate(raw, out, recipe, server)
        assert len(server.requests) == 12
        recipe.write_text(RECIPE.replace("Write {{", "Please write {{"))
        annotate(raw, out, recipe, server)
        assert len(server.requests) == 24
        recipe.write_text(RECIPE)
        annotate(raw, out, recipe, server)
        assert len(server.requests) == 24


def test_hostile_answers_end_as_text(tmp_path: Path, recipe: Path) -> None:
    raw = captioned_pictures(tmp_path / "raw", 5)
    said = [
        "<script>alert(1)</script> is what the sign reads",
        "a \x1b[31mred\x07 thing",
        "the <image> token and <|endofchunk|>",
        "../../../etc/passwd is the name on the label",
        "half a pair \ud800 here",
    ]

    def reply(body: dict[str, Any], number: int) -> Reply:
        text = said[number_of(body)]
        return completion(pairs_json(("What does it say?", text)))

    with model_server() as server:
        server.reply = reply
        summary = annotate(raw, tmp_path / "out", recipe, server, "--report")
    assert summary["pair_reasons"] == {"control_characters": 1, "special_token": 1}
    assert summary["reasons"] == {"no_pair_left": 2, "unreadable": 1}  # half a pair is no JSON
    answers = [row["answer"] for row in rows(tmp_path / "out")]
    assert answers == [said[0], said[3]]
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")) == [
        "manifest.jsonl", "media", "mimicit.toml", "rejects.jsonl", "report.html",
    ]  # fmt: skip
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script" not in page
    assert page.count("<img src=") == 5 and 'src="data:image/jpeg;base64,' in page
    assert "control_characters" in page and "special_token" in page and "by m" in page


def test_equal_requests_are_paid_once(tmp_path: Path, recipe: Path) -> None:
    raw = captioned_pictures(tmp_path / "raw", 4)
    table = raw / "captions.jsonl"
    table.write_text("".join(json.dumps({"image": f"{n:03}.jpg", "caption": "the same"}) + "\n" for n in range(4)))
    with model_server() as server:
        summary = annotate(raw, tmp_path / "out", recipe, server)
        assert len(server.requests) == 1 and summary["written"] == 4


def test_misuse_is_named(raw: Path, recipe: Path, tmp_path: Path) -> None:
    server = ModelServer()
    server.url = "http://user:password@127.0.0.1:1/v1"
    assert "must hold no password" in annotate(raw, tmp_path / "out", recipe, server, code=2)["error"]
    server.url = "http://127.0.0.1:1/v1"
    assert "neither in it nor around it" in annotate(raw, raw / "out", recipe, server, code=2)["error"]
    assert (
        "--budget-usd needs the prices"
        in annotate(raw, tmp_path / "o", recipe, server, "--budget-usd", "1", code=2)["error"]
    )
    said = annotate(raw, tmp_path / "out", Path("detial"), server, code=2)["error"]
    assert "did you mean detail?" in said
    recipe.write_text(RECIPE.replace("needs", "need"))
    assert "no key 'need'; did you mean needs?" in annotate(raw, tmp_path / "out", recipe, server, code=2)["error"]
    recipe.write_text(RECIPE.replace("in captions", "in caption"))
    assert "did you mean captions?" in annotate(raw, tmp_path / "out", recipe, server, code=2)["error"]
    os.makedirs(tmp_path / "bare")
    assert (
        "nothing to ask about" in annotate(tmp_path / "bare", tmp_path / "out", Path("detail"), server, code=1)["error"]
    )


def test_a_dry_run_shows_a_request_and_asks_nobody(raw: Path, recipe: Path, tmp_path: Path) -> None:
    with model_server() as server:
        annotate(raw, tmp_path / "out", recipe, server, "--limit", "3")
        asked_for = ("--dry-run", "--price-in", "1", "--price-out", "10")
        found = annotate(raw, tmp_path / "out", recipe, server, *asked_for)
        assert len(server.requests) == 3
        annotate(raw, tmp_path / "out", recipe, server, "--limit", "4")
    assert (found["records"], found["answered"], found["requests"]) == (12, 3, 9)
    assert json.loads(found["request"]) == server.requests[3]
    assert found["tokens"]["output"] == 900 and found["usd"] == pytest.approx(
        (found["tokens"]["input"] + 9000) / 1e6, abs=1e-6
    )
