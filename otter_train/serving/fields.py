"""Typed access to the fields of a request, and the errors of the endpoint in the JSON form that OpenAI's clients read.

`ApiError` (400) names the field that is not as it must be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ApiError", "as_object", "flag", "number"]


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


def as_object(value: Any, place: str) -> Mapping[str, Any]:
    """``value`` where it is a JSON object."""
    if not isinstance(value, dict):
        raise ApiError(400, "invalid_type", f"{place}: an object is expected", param=place)
    return value


def number(request: Mapping[str, Any], name: str, *, least: float, most: float, whole: bool = False) -> float | None:
    """The number called ``name``, None where it is absent or null; an int where it must be ``whole``."""
    value = request.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ApiError(400, "invalid_type", f"{name}: a {'whole ' if whole else ''}number is expected", param=name)
    if not least <= value <= most:
        raise ApiError(400, "invalid_value", f"{name}: must be between {least} and {most}", param=name)
    return value


def flag(value: Mapping[str, Any], name: str) -> bool:
    """The truth value called ``name``, False where it is absent or null."""
    found = value.get(name)
    if found is not None and not isinstance(found, bool):
        raise ApiError(400, "invalid_type", f"{name}: true or false is expected", param=name)
    return bool(found)
