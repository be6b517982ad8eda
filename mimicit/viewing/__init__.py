"""A local web page to look through the samples of a folder of shards (`mimicit view`).

`serve` runs it: bind, say where it is, answer until Ctrl-C.
"""

from __future__ import annotations

import ipaddress
import secrets
import signal
from collections.abc import Callable
from pathlib import Path

from mimicit.errors import UsageError
from mimicit.web import LOCAL_NAMES, is_local, listen, url

__all__ = ["serve"]


def serve(path: Path, *, host: str, port: int, announce: Callable[[str], object]) -> None:
    """Show the finished folder ``path`` at ``host`` and ``port`` (0: a free one); ``announce`` gets the address.

    If other machines can reach ``host``, the address has a token without which nothing is shown. `UsageError` if the
    extra ``view`` is not installed or the address is not available, `ShardError` if there is no shard folder.
    """
    try:
        from mimicit.viewing.app import create_app
        from mimicit.web.server import run_server
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing: pip install 'mimicit[view]'") from None
    from mimicit.viewing.gallery import Gallery

    gallery = Gallery(path)
    token = None if is_local(host) else secrets.token_urlsafe(32)
    app = create_app(gallery, hosts=_names(host), token=token)
    with listen(host, port) as listener:
        announce(f"{path}: {url(host, listener)}/{f'?token={token}' if token else ''}")
        if run_server(app, listener) == signal.SIGINT:
            announce("")  # Ctrl-C is the usual end; the shell's next prompt gets its own line


def _names(host: str) -> tuple[str, ...] | None:
    """The host names that requests may use; None (any) if we listen at all addresses, which the token then guards."""
    if is_local(host):
        return (*LOCAL_NAMES, host.lower())
    return None if _is_unspecified(host) else (host.lower(),)


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host
