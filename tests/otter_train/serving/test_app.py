"""The endpoint as its users meet it: OpenAI's own client, many at a time, and those who send nonsense."""

from __future__ import annotations

import asyncio
import copy
import http.client
import io
import json
import random
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")
pytest.importorskip("uvicorn", reason="comes with the extra 'serve'")

from click.testing import CliRunner

from mimicit.web.server import ConnectionLimits
from otter_train.model import PRESETS
from otter_train.serve import main as serve
from otter_train.serving.limits import Limits
from tests.factories.serving import data_url, request, serving, trained_model
from tests.factories.train import COLOURS, MINUTE_MODEL, png

openai = pytest.importorskip("openai", reason="comes with the extra 'dev'")

LIMITS = Limits(body_bytes=200_000, pictures=3, pixels=40_000, tokens=16, context=300, messages=20)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", MINUTE_MODEL)
        yield trained_model(tmp_path_factory.mktemp("served") / "run", max_steps=150, batch_size=8)


@pytest.fixture(scope="module")
def address(trained: Any) -> Iterator[str]:
    with serving(trained, LIMITS) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Any:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as client:
        yield client


def post(address: str, body: Any, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any]:
    """The status and the JSON of one raw request."""
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def refused(address: str, status: int, code: str, body: Any, **headers: str) -> str:
    found, value = post(address, body, **headers)
    assert set(value) == {"error"} and set(value["error"]) == {"message", "type", "param", "code"}
    assert (found, value["error"]["code"]) == (status, code), value
    message: str = value["error"]["message"]
    return message


def test_the_official_client_gets_an_answer_and_the_same_one_streamed(client: Any) -> None:
    whole = client.chat.completions.create(**request("which colour?", data_url()))
    assert whole.choices[0].message.role == "assistant" and whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert 1 <= whole.usage.completion_tokens <= 4
    stream = list(
        client.chat.completions.create(
            **request("which colour?", data_url(), stream=True, stream_options={"include_usage": True})
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] == whole.choices[0].finish_reason
    assert stream[-1].usage == whole.usage and len({chunk.id for chunk in stream}) == 1


@pytest.mark.parametrize("name", COLOURS)
def test_the_picture_of_an_earlier_turn_decides_the_answer(client: Any, name: str) -> None:
    messages = [
        request("red?", data_url(png(COLOURS[name])))["messages"][0],
        {"role": "assistant", "content": "yes" if name == "red" else "no"},
        {"role": "user", "content": "which colour?"},
    ]
    answer = client.chat.completions.create(model="otter", messages=messages, max_tokens=4)
    assert answer.choices[0].message.content == name


def test_models_are_listed(client: Any, address: str) -> None:
    assert [model.id for model in client.models.list()] == ["otter"]
    assert client.models.retrieve("otter").owned_by == "otter_train"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError, match="only 'otter'"):
        client.chat.completions.create(**{**request(), "model": "gpt-4"})


def test_a_conversation_with_pictures_and_a_system_message(client: Any) -> None:
    messages = [
        {"role": "system", "content": "Answer in one word."},
        request("which colour?", data_url())["messages"][0],
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
        {"role": "user", "content": "sure?"},
        {"role": "user", "content": "really?"},
    ]
    answer = client.chat.completions.create(model="otter", messages=messages, max_completion_tokens=3, n=1)
    assert answer.usage.completion_tokens <= 3


def test_an_answer_is_as_long_as_fits_and_the_usage_says_so(client: Any) -> None:
    def usage(words: str, **fields: Any) -> Any:
        fields = {"temperature": 2, "seed": 1, **fields}
        return client.chat.completions.create(**{**request(words), **fields}).usage

    granted = usage("which colour?", max_tokens=10_000)
    assert granted.max_tokens == LIMITS.tokens >= granted.completion_tokens
    assert not hasattr(usage("which colour?", max_tokens=LIMITS.tokens), "max_tokens")
    assert not hasattr(usage("which colour?", max_tokens=None), "max_tokens")
    words = "word "
    length = usage(words * 20).prompt_tokens - usage(words * 10).prompt_tokens
    long = words * (10 * (LIMITS.context - usage("").prompt_tokens - 4) // length)
    close = usage(long, max_completion_tokens=LIMITS.tokens)  # fits nearly the whole context
    assert close.max_tokens == LIMITS.context - close.prompt_tokens < LIMITS.tokens
    streamed = list(client.chat.completions.create(
        **{**request("q"), "max_tokens": 99}, stream=True, stream_options={"include_usage": True}
    ))  # fmt: skip
    assert streamed[-1].usage.max_tokens == LIMITS.tokens


def test_penalties_change_an_answer(client: Any) -> None:
    def answers(**fields: Any) -> list[str]:
        asked = {**request("which colour?", data_url()), "max_tokens": 12, "temperature": 2, **fields}
        made = [client.chat.completions.create(**asked, seed=seed) for seed in range(4)]
        return [one.choices[0].message.content for one in made]

    plain = answers()
    assert answers(presence_penalty=0, frequency_penalty=0, extra_body={"repetition_penalty": 1}) == plain
    for given in ({"presence_penalty": 2}, {"frequency_penalty": -2}, {"extra_body": {"repetition_penalty": 3}}):
        assert answers(**given) != plain


def test_sampling_follows_the_seed_and_stops_are_cut(client: Any) -> None:
    def ask(**fields: Any) -> str:
        fields = {"temperature": 2, "max_tokens": 12, **fields}
        text: str = (
            client.chat.completions.create(**request("which colour?", data_url(), **fields)).choices[0].message.content
        )
        return text

    assert ask(seed=1) == ask(seed=1)
    drawn = {ask(seed=seed) for seed in range(6)}
    assert len(drawn) > 1
    longest = max(drawn, key=len)
    letter = longest[len(longest) // 2]
    seed = next(seed for seed in range(6) if ask(seed=seed) == longest)
    assert ask(seed=seed, stop=[letter]) == longest.partition(letter)[0].rstrip()


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims many pixels and holds none."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        (data_url(png((1, 2, 3), size=(300, 300))), "invalid_image", "too_many_pixels"),
        (data_url(bomb(30_000, 30_000)), "invalid_image", "too_many_pixels"),
        (data_url(png((1, 2, 3))[:50]), "invalid_image", ""),
        (data_url(b"GIF89a nonsense"), "invalid_image", ""),
        (data_url(b"<svg/>"), "invalid_image", ""),
        ("data:image/png;base64,!!!", "invalid_base64", "image_url.url"),
        ("data:image/png,abc", "invalid_image_url", "base64"),
        ("http://127.0.0.1/a.png", "invalid_image_url", "nothing is fetched"),
        ("file:///etc/passwd", "invalid_image_url", "nothing is fetched"),
        (None, "invalid_image_url", "nothing is fetched"),
    ],
)
def test_pictures_that_cannot_be_used_say_why_and_which(address: str, url: Any, code: str, words: str) -> None:
    message = refused(address, 400, code, request("which colour?", data_url(), url))
    assert words in message and "messages[0].content[1]" in message


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"model": None}, 400, "missing_required_parameter"),
        ({"messages": []}, 400, "missing_required_parameter"),
        ({"messages": "hello"}, 400, "missing_required_parameter"),
        ({"messages": [{"role": "user"}]}, 400, "invalid_type"),
        ({"messages": [{"role": "tool", "content": "a"}]}, 400, "invalid_value"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "invalid_value"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, 400, "invalid_value"),
        ({"messages": [{"role": "user", "content": "a"}] * 21}, 400, "too_many_messages"),
        ({"messages": [{"role": "user", "content": "a\0"}]}, 400, "invalid_value"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, 400, "context_length_exceeded"),
        ({"max_tokens": 0}, 400, "invalid_value"),
        ({"max_tokens": "4"}, 400, "invalid_type"),
        ({"max_tokens": 1.5}, 400, "invalid_type"),
        ({"max_tokens": True}, 400, "invalid_type"),
        ({"temperature": -1}, 400, "invalid_value"),
        ({"temperature": 1e400}, 400, "invalid_json"),
        ({"top_p": 2}, 400, "invalid_value"),
        ({"seed": 2**63}, 400, "invalid_value"),
        ({"presence_penalty": 3}, 400, "invalid_value"),
        ({"frequency_penalty": "much"}, 400, "invalid_type"),
        ({"repetition_penalty": 0}, 400, "invalid_value"),
        ({"top_k": 5}, 400, "unsupported_parameter"),
        ({"min_p": 0.1}, 400, "unsupported_parameter"),
        ({"logit_bias": {"5": 1}}, 400, "unsupported_parameter"),
        ({"n": 2}, 400, "unsupported_value"),
        ({"stop": [""]}, 400, "invalid_value"),
        ({"stop": ["a"] * 5}, 400, "invalid_value"),
        ({"stream": "yes"}, 400, "invalid_type"),
        ({"stream_options": 3}, 400, "invalid_type"),
        ({"tools": [{"type": "function"}]}, 400, "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, 400, "unsupported_value"),
    ],
)
def test_fields_that_cannot_be_used_are_named(address: str, change: dict[str, Any], status: int, code: str) -> None:
    refused(address, status, code, {**request(), **change})


def test_too_many_pictures(address: str) -> None:
    assert "3" in refused(address, 400, "too_many_images", request("?", *[data_url()] * 4))


def test_a_body_too_large_is_refused_before_it_is_read(address: str) -> None:
    large = json.dumps(request("x" * 300_000)).encode()
    assert "200,000" in refused(address, 413, "request_too_large", large)
    url = urlsplit(address)
    with socket.create_connection((url.hostname, url.port), timeout=10) as raw:  # says nothing of its length
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n")
        raw.sendall(b"Content-Type: application/json\r\n\r\n")
        for _ in range(4):
            raw.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_come_is_not_waited_for(trained: Any) -> None:
    with (
        serving(trained, replace(LIMITS, body_seconds=0.2)) as address,
        socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), timeout=10) as raw,
    ):
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n")
        raw.sendall(b"Content-Type: application/json\r\n\r\n{")
        assert raw.recv(100).startswith(b"HTTP/1.1 408")


def test_other_paths_methods_types_and_names_of_this_machine(trained: Any, address: str) -> None:
    assert post(address, {}, "/v1/embeddings")[0] == 404
    assert post(address, {}, "/v1/models")[0] == 405
    refused(address, 415, "unsupported_media_type", request(), **{"Content-Type": "text/plain"})
    with serving(trained, LIMITS, hosts=["127.0.0.1", "localhost"]) as strict:
        assert post(strict, request(), Host="localhost:1")[0] == 200
        for name in ("evil.example", "[", "", "localhost.evil.example"):
            refused(strict, 403, "invalid_host", request(), Host=name)


def test_a_key_is_asked_for(trained: Any) -> None:
    with serving(trained, LIMITS, api_key="secret") as address:
        wrong = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0)
        with wrong, pytest.raises(openai.AuthenticationError):
            wrong.models.list()
        refused(address, 401, "invalid_api_key", request())
        with openai.OpenAI(base_url=f"{address}/v1", api_key="secret") as right:
            assert right.models.list().data


def test_two_hundred_at_a_time_are_all_answered_alike(trained: Any) -> None:
    patient = ConnectionLimits(head_seconds=120)  # clients and server share one interpreter here
    with serving(trained, LIMITS, connections=patient) as address:
        check_two_hundred(address)


def check_two_hundred(address: str) -> None:
    async def ask(client: Any, number: int) -> tuple[int, str]:
        asked = request("red?", data_url(png(COLOURS["red" if number % 2 else "blue"])), stream=number % 3 == 0)
        answer = await client.chat.completions.create(**asked)
        if number % 3:
            return number % 2, answer.choices[0].message.content
        return number % 2, "".join([chunk.choices[0].delta.content or "" async for chunk in answer])

    async def all_of_them() -> list[tuple[int, str]]:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=120) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(200)))

    answers = asyncio.run(all_of_them())
    assert sorted(answers) == [(0, "no")] * 100 + [(1, "yes")] * 100  # whatever each was batched with


def test_a_full_queue_says_so_and_empties_again(trained: Any) -> None:
    with serving(trained, Limits(queue=4, batch=1, tokens=64, context=300)) as address:
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(post(address, request(max_tokens=64, temperature=2, seed=1))[0])

        threads = [threading.Thread(target=ask) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200, 429}
        assert [post(address, request())[0] for _ in range(8)] == [200] * 8


def test_those_who_hang_up_leave_room_for_others(trained: Any) -> None:
    with serving(trained, Limits(queue=3, batch=1, tokens=200, context=2000)) as address:
        url = urlsplit(address)
        for _ in range(12):
            body = json.dumps(request(max_tokens=200, temperature=2, stream=True)).encode()
            with socket.create_connection((url.hostname, url.port), timeout=10) as raw:
                raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
                raw.sendall(b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                raw.recv(10)
        for _ in range(50):
            status = post(address, request())[0]
            if status == 200:
                break
            threading.Event().wait(0.1)
        assert [post(address, request())[0] for _ in range(5)] == [200] * 5


def mutated(generator: random.Random) -> bytes:
    """A request with something wrong in its bytes, its structure or its values."""
    value: Any = request("which colour?", data_url())
    junk: list[Any] = [None, 0, -1, 1e308, "", "\ud800", "x" * 5000, [], {}, [[]], True, {"a": []}, "data:,", 2**64]
    kind = generator.randrange(4)
    if kind == 0:
        data = bytearray(json.dumps(value).encode())
        for _ in range(generator.randint(1, 20)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        return bytes(data)
    if kind == 1:
        return generator.randbytes(generator.randrange(300))
    if kind == 2:
        return b"[" * generator.randrange(1, 20_000)
    value[generator.choice([*value, "stop", "seed", "stream", "top_p", "n"])] = generator.choice(junk)
    message = generator.choice(junk)
    if generator.random() < 0.5 and isinstance(value["messages"], list) and value["messages"]:
        target = value["messages"][0]
        if isinstance(target, dict):
            target[generator.choice(["role", "content", "name"])] = generator.choice(
                [message, [message], [copy.deepcopy(value)]]
            )
    return json.dumps(value).encode()


def test_a_thousand_malformed_requests_are_survived(address: str) -> None:
    generator = random.Random(0)
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
    counts: dict[int, int] = {}
    for number in range(1000):
        if number % 10 == 0:  # not even HTTP
            with socket.create_connection((url.hostname, url.port), timeout=10) as raw:
                raw.sendall(generator.choice([b"\r\n", b"GET", generator.randbytes(200), b"POST / HTTP/9\r\n\r\n"]))
            continue
        connection.request("POST", "/v1/chat/completions", mutated(generator), {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = json.loads(response.read())
        assert (response.status == 200) == ("error" not in body)
        counts[response.status] = counts.get(response.status, 0) + 1
    connection.close()
    assert set(counts) <= {200, 400, 404} and counts[400] > 500, counts
    assert post(address, request("which colour?", data_url()))[0] == 200


def test_an_error_of_the_model_is_a_500_and_the_next_question_is_answered(
    trained: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(trained.model, "encode_vision", fail)
        message = refused(address, 500, "internal_error", request())
        assert "memory" not in message
        events = raw_events(address, request(stream=True))
        assert events[-1]["error"]["code"] == "internal_error"
    assert post(address, request())[0] == 200


def raw_events(address: str, body: Any) -> list[Any]:
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.read().decode().split("\n\n")
    connection.close()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line and line != "data: [DONE]"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "--api-key"),
        (["--host", "example.com"], "--api-key"),
        ([], "no such file"),
    ],
)
def test_the_command_refuses_what_it_cannot_serve(tmp_path: Any, arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(serve, ["--checkpoint", str(tmp_path), *arguments], env={"OTTER_API_KEY": ""})
    assert result.exit_code in (1, 2) and words in result.output and result.output.count("\n") == 1
    assert io.StringIO(result.output).readline().startswith("otter_train: ")
