"""Errors of the endpoint, in the JSON form that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

__all__ = ["ApiError"]


class ApiError(Exception):
    """A request that is answered with HTTP ``status`` and an error object.

    ``code`` is one of OpenAI's where there is one that fits; ``param`` names the field of the request at fault.
    """

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param

    def to_json(self) -> dict[str, Any]:
        """The body of the response."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def __reduce__(self) -> tuple[Any, ...]:
        return _api_error, (self.status, self.code, self.message, self.param)  # crosses process borders whole


def _api_error(status: int, code: str, message: str, param: str | None) -> ApiError:
    return ApiError(status, code, message, param=param)
