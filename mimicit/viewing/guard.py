"""The checks before every page of the viewer: who may ask, how, and what a browser may do with the answer.

The viewer changes nothing, so only GET and HEAD pass. On this machine a page of the web could still try to read it by
pointing a name of its own here (DNS rebinding): the host that a request names must be a local one. Beyond this machine
a token is needed, once in the address, then as a cookie that no script and no other site can use.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mimicit.web import host_name

COOKIE: Final = "mimicit_view"
_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """``app`` with the checks in front. ``hosts``: the names that requests may be addressed to, None for any."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None, token: str | None) -> None:
        self._app = app
        self._hosts = hosts
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets here; the server closes the connection

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_SECURITY_HEADERS)
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("There is nothing to change here.", 405, {"Allow": "GET, HEAD"})
        if self._hosts is not None and host_name(request.headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("This page answers to local names only.", 403)
        if _is_foreign(request.headers):
            return PlainTextResponse("This page does not serve other sites.", 403)
        return self._without_token(request) if self._token is not None else None

    def _without_token(self, request: Request) -> Response | None:
        """The answer to a request whose cookie lacks the token: a redirect if the address has it, else a refusal."""
        parameters = parse_qsl(request.url.query)
        for name, value in parameters:
            if name == "token" and self._is_token(value):
                rest = urlencode([pair for pair in parameters if pair[0] != "token"])
                path = "/" + request.url.path.lstrip("/\\")  # two slashes would name another host
                answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303, {"Cache-Control": "no-store"})
                answer.set_cookie(COOKIE, value, httponly=True, samesite="strict")
                return answer
        if self._is_token(request.cookies.get(COOKIE, "")):
            return None
        return PlainTextResponse("Open the address that mimicit view has printed; it has the token.", 401)

    def _is_token(self, value: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(value.encode(), self._token.encode())


def _is_foreign(headers: Headers) -> bool:
    """Whether a page of another site asks for a part of ours; following a link from there is fine."""
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate"
