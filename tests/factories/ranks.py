"""Several processes that train together on this machine, as ``torchrun`` would start them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

_PATIENCE_S = 240.0


def on_ranks(world: int, function: Callable[..., None], *args: Any) -> None:
    """``function(rank, *args)`` in ``world`` processes; an error or a hang in one of them is raised here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.start_processes(  # type: ignore[no-untyped-call]
        _rank, (world, port, function, args), nprocs=world, start_method="fork", join=False
    )
    end = time.monotonic() + _PATIENCE_S
    while not context.join(timeout=1):
        if time.monotonic() > end:
            for process in context.processes:
                process.kill()
            raise AssertionError("a rank hangs")


def _rank(rank: int, world: int, port: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    function(rank, *args)
    if dist.is_initialized():
        dist.destroy_process_group()
