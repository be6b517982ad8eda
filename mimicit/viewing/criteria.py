"""Which samples the viewer shows: the filter of its form, as it stands in the address of a page."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlencode

from mimicit.errors import UsageError
from mimicit.loading.order.selection import Where
from mimicit.shards.index import RELATIONS

__all__ = ["Criteria", "parse_criteria", "parse_number"]

_MOST_DIGITS: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """A source, a relation, a kind of media, and limits of the characters; the empty ones are no condition."""

    source: str = ""
    relation: str = ""
    kind: str = ""
    min_characters: int | None = None
    max_characters: int | None = None

    @property
    def query(self) -> str:
        """The criteria as the query part of an address, without the question mark."""
        return urlencode({name: value for name, value in asdict(self).items() if value not in ("", None)})

    def expression(self, relations: Collection[str] = RELATIONS) -> Any | None:
        """The criteria as a `pyarrow.compute.Expression`, None where there are none; `UsageError` at unknown names.

        ``relations`` are those of the folder.
        """
        return Where(
            source=self.source or None,
            relation=self.relation or None,
            kind=self.kind or None,
            min_characters=self.min_characters,
            max_characters=self.max_characters,
        ).expression(relations)


def parse_criteria(parameters: Mapping[str, str]) -> Criteria:
    """The criteria in the parameters of an address; `UsageError` where a limit is no number."""
    return Criteria(
        source=parameters.get("source", ""),
        relation=parameters.get("relation", ""),
        kind=parameters.get("kind", ""),
        min_characters=parse_number(parameters, "min_characters"),
        max_characters=parse_number(parameters, "max_characters"),
    )


def parse_number(parameters: Mapping[str, str], name: str) -> int | None:
    """The number from 0 that the parameter ``name`` has; None where it is absent or empty, `UsageError` at others."""
    text = parameters.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise UsageError(f"{name}={text[:40]!r}: give a whole number from 0")
    return int(text)
