"""A folder behind S3, served by a real server in this process (moto), with faults in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("s3fs", reason="comes with the extra 's3'")
pytest.importorskip("moto.server", reason="comes with the extra 'dev'")

import boto3
from moto.server import ThreadedMotoServer

from mimicit.errors import ShardError
from mimicit.loading.storage import store as folder_module
from mimicit.loading.storage.remote import RemoteFolder, Retries
from mimicit.loading.storage.store import Store
from tests.factories.shards import picture_sample, write_shards

QUICK = Retries(attempts=2, first_wait_s=0.01, stall_s=2.0)


class Faults:
    """A WSGI layer that spoils answers: ``fault(path, number)`` as in `tests.factories.servers`."""

    def __init__(self, application: Callable[..., list[bytes]]) -> None:
        self.application = application
        self.fault: Callable[[str, int], str] = lambda path, number: ""
        self.counts: dict[str, int] = {}
        self.released = threading.Event()  # ends every stall

    def __call__(self, environ: dict[str, str], start_response: Callable[..., object]) -> list[bytes]:
        path = environ["PATH_INFO"]
        number = self.counts.get(path, 0)
        self.counts[path] = number + 1
        fault = self.fault(path, number) if environ["REQUEST_METHOD"] == "GET" else ""
        if fault == "stall":
            self.released.wait(30)
        if fault == "503":
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        answer = b"".join(self.application(environ, start_response))
        return [answer[: len(answer) // 2] if fault == "short" else answer]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    samples = (picture_sample(n, [rng.bytes(3000)]) for n in range(12))
    return write_shards(tmp_path_factory.mktemp("s3") / "shards", samples, per_shard=6)


@pytest.fixture
def faults(shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Faults]:
    monkeypatch.setenv("MIMICIT_CACHE", str(tmp_path / "home"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(folder_module, "RemoteFolder", lambda url: RemoteFolder(url, QUICK))
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    layer = Faults(server._server.app)
    server._server.app = layer
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="bucket")
    for path in shards.iterdir():
        client.upload_file(str(path), "bucket", f"data/{path.name}")
    try:
        yield layer
    finally:
        layer.released.set()
        client.close()
        server.stop()


@pytest.mark.parametrize("cached", [False, True])
def test_a_bucket_is_the_folder(faults: Faults, shards: Path, tmp_path: Path, cached: bool) -> None:
    remote = Store("s3://bucket/data", cache_dir=tmp_path / "cache" if cached else None)
    local = Store(shards)
    assert [remote.read(row) for row in range(12)] == [local.read(row) for row in range(12)]


@pytest.mark.parametrize("fault", ["503", "short"])
def test_passing_faults_cost_no_byte(faults: Faults, shards: Path, fault: str) -> None:
    remote, local = Store("s3://bucket/data"), Store(shards)
    faults.counts.clear()
    faults.fault = lambda path, number: fault if number % 2 == 0 else ""
    assert [remote.raw(row) for row in (0, 7, 11)] == [local.raw(row) for row in (0, 7, 11)]


def test_lasting_faults_are_named(faults: Faults) -> None:
    remote = Store("s3://bucket/data")
    remote.raw(0)
    faults.fault = lambda path, number: "short"
    with pytest.raises(ShardError, match=r"s3://bucket/data/shard-000\.tar: failed 2 times"):
        remote.raw(1)
    faults.fault = lambda path, number: ""
    assert remote.raw(1)


def test_a_stall_is_waited_for_only_so_long(faults: Faults, shards: Path) -> None:
    remote, local = Store("s3://bucket/data"), Store(shards)
    remote.raw(0)
    faults.counts.clear()
    faults.fault = lambda path, number: "stall" if number == 0 else ""
    started = time.monotonic()
    assert remote.raw(1) == local.raw(1)
    assert QUICK.stall_s <= time.monotonic() - started
    faults.fault = lambda path, number: "stall"
    with pytest.raises(ShardError, match=r"s3://bucket/data/shard-000\.tar: failed 2 times"):
        remote.raw(2)


def test_a_bucket_without_a_folder_is_named(faults: Faults) -> None:
    with pytest.raises(ShardError, match="no such file"):
        Store("s3://bucket/nothing")
