"""Run the viewer: bind, say where it is, answer until Ctrl-C."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mimicit.errors import UsageError

__all__ = ["serve"]

_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")


def serve(path: Path, *, host: str, port: int, announce: Callable[[str], object]) -> None:
    """Show the finished folder ``path`` at ``host`` and ``port`` (0: a free one); ``announce`` gets the address.

    Where other machines can reach ``host``, the address has a token without which nothing is shown. `UsageError` where
    the extra ``view`` is not installed or the address cannot be had, `ShardError` where there is no shard folder.
    """
    try:
        import uvicorn

        from mimicit.viewing.app import create_app
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing: pip install 'mimicit[view]'") from None
    from mimicit.viewing.gallery import Gallery

    gallery = Gallery(path)
    token = None if _is_local(host) else secrets.token_urlsafe(32)
    app = create_app(gallery, hosts=_names(host), token=token)
    with _listen(host, port) as listener:
        number = listener.getsockname()[1]
        address = f"http://{f'[{host}]' if ':' in host else host}:{number}/"
        announce(f"{path}: {address}{f'?token={token}' if token else ''}")
        config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=10, server_header=False, ws="none")
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            announce("")  # how one ends it; the next prompt of the shell gets its own line


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: {error.strerror or error}; try another port") from None


def _names(host: str) -> tuple[str, ...] | None:
    """What requests may call us: any name where we listen at all addresses, which the token then guards."""
    if _is_local(host):
        return (*_LOCAL_NAMES, host.lower())
    return None if _is_unspecified(host) else (host.lower(),)


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host
