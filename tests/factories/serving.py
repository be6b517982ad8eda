"""A small random model behind the endpoint, in this process."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from mimicit.web.server import ConnectionLimits, server_config
from otter_train.config.run_config import RunOptions, resolve
from otter_train.inference.answering import TrainedModel, load_trained_model
from otter_train.reporting.metrics import Console
from otter_train.serving.app import create_app
from otter_train.serving.limits import Limits
from otter_train.serving.worker import Worker
from otter_train.training.loop import train
from tests.factories.train import Colours, png


def trained_model(folder: Path, **recipe: Any) -> TrainedModel:
    """A model after a few steps on coloured squares, from its checkpoint in ``folder``."""
    import io

    config = resolve("tiny", **{"batch_size": 4, "epochs": 1000, "max_steps": 2, "lr": 3e-3, **recipe})
    options = RunOptions(save_every=0, log_every=1000, device="cpu")
    train(config, Colours(), folder, options=options, console=Console(io.StringIO()))
    return load_trained_model(folder, device="cpu")


@contextmanager
def serving(
    trained: TrainedModel, limits: Limits, *, connections: ConnectionLimits | None = None, **options: Any
) -> Iterator[str]:
    """The address of an endpoint that answers with ``trained``."""
    with Worker(trained, limits) as worker:
        app = create_app(worker, model="otter", **options)
        server = uvicorn.Server(server_config(app, connections, port=0))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()


def data_url(data: bytes | None = None) -> str:
    """A picture as a data URL; a red square if none is given."""
    return "data:image/png;base64," + base64.b64encode(data or png((220, 20, 20))).decode()


def request(question: Any = "which colour?", *pictures: str, **fields: Any) -> dict[str, Any]:
    """The body of a request with one user message."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    content = [*parts, {"type": "text", "text": question}] if pictures else question
    return {"model": "otter", "messages": [{"role": "user", "content": content}], "max_tokens": 4, **fields}
