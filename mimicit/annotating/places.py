"""Where a picture or clip lies, as JSON and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from mimicit.sources.items import InArrow, InFile, InJson, InParquet, InTar, InText, Locator, MediaRef, Named

__all__ = ["ref_from_json", "ref_to_json"]

_KINDS: Final[dict[str, type[Locator]]] = {
    kind.__name__: kind for kind in (InArrow, InFile, InJson, InParquet, InTar, InText, Named)
}


def ref_to_json(ref: MediaRef) -> dict[str, Any]:
    """``ref`` as JSON; each part names its kind first."""
    parts = [[type(part).__name__, asdict(part)] for part in ref.parts]
    return {**asdict(ref), "parts": parts}


def ref_from_json(value: dict[str, Any]) -> MediaRef:
    """The inverse of `ref_to_json`."""
    times = value["timestamps_s"]
    return MediaRef(
        kind=value["kind"],
        parts=tuple(_locator(*part) for part in value["parts"]),
        origin=value["origin"],
        timestamps_s=None if times is None else tuple(times),
        duration_s=value["duration_s"],
    )


def _locator(kind: str, fields: dict[str, Any]) -> Locator:
    plain: dict[str, Any] = {name: tuple(part) if isinstance(part, list) else part for name, part in fields.items()}
    return _KINDS[kind](**plain)
