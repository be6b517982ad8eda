"""What the two small web servers of this project (the viewer, the endpoint of a model) need before their first page.

Here: where a server listens, and which names requests may use for it. `mimicit.web.server` limits every connection.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

from mimicit.errors import UsageError

__all__ = ["LOCAL_NAMES", "host_name", "is_local", "listen", "url"]

LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")
"""What this machine calls itself; a web page that points a name of its own here is recognized by that name."""


def is_local(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at ``host`` and ``port`` (0: a free one); `UsageError` if that is not available."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: {error.strerror or error}; try another port") from None


def url(host: str, listener: socket.socket) -> str:
    """The address of ``listener`` as a browser takes it, without a slash at its end."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def host_name(header: str) -> str:
    """The name in a ``Host`` header: ``localhost`` of ``localhost:8000``, ``::1`` of ``[::1]:8000``."""
    return header[1 : header.find("]")] if header.startswith("[") else header.partition(":")[0].lower()
