"""Typed access to the fields of a request; `ApiError` (400) names the field that is not as it must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otter_train.serving.errors import ApiError

__all__ = ["as_object", "flag", "number"]


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
