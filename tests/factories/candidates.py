"""Triplets that context is chosen from, in a list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mimicit.context.candidates import By, Likeness


class Known(NamedTuple):
    """What a pool knows of a triplet; ``media`` and ``conversation`` are empty where it has none."""

    id: str
    instruction: str
    media: str
    conversation: str
    turn: int


class ListPool:
    """A pool over a list, the plainest possible."""

    def __init__(self, known: Sequence[Known], related: dict[str, list[str]] | None = None) -> None:
        self.all = list(known)
        self.rows = range(len(self.all))
        self.lists = related or {}

    def source(self, row: int) -> str:
        return "s"

    def rows_of_source(self, row: int) -> range:
        return self.rows

    def is_document(self, row: int) -> bool:
        return False

    def id(self, row: int) -> str:
        return self.all[row].id

    def instruction(self, row: int) -> str:
        return self.all[row].instruction

    def shown(self, row: int) -> int:
        media = self.all[row].media
        return min(self._showing(media)) if media else -1

    def conversation(self, row: int) -> int:
        conversation = self.all[row].conversation
        return min(other for other in self.rows if self.all[other].conversation == conversation) if conversation else -1

    def related(self, row: int) -> list[int]:
        rows = {one.id: row for row, one in enumerate(self.all)}
        return [rows[id] for id in self.lists.get(self.all[row].id, []) if id in rows]

    def earlier_turns(self, row: int, limit: int) -> list[int]:
        _, _, _, conversation, turn = self.all[row]
        turns = [
            other
            for other in self.rows
            if conversation and self.all[other].conversation == conversation and self.all[other].turn < turn
        ]
        return sorted(turns, key=lambda other: -self.all[other].turn)[:limit]

    def same_media_count(self, row: int) -> int:
        return len(self._showing(self.all[row].media)) if self.all[row].media else 0

    def same_media_at(self, row: int, place: int) -> int:
        return self._showing(self.all[row].media)[place]

    def pictures(self, row: int) -> frozenset[str]:
        return frozenset(self.all[row].media.split(",")) - {""}

    def neighbours(self, row: int, by: By) -> Iterator[tuple[int, float]]:
        raise NotImplementedError

    def likeness(self, row: int) -> Likeness:
        raise NotImplementedError

    def _showing(self, media: str) -> list[int]:
        return [other for other in self.rows if self.all[other].media == media]


def known(
    number: int, media: str = "", conversation: str | None = None, turn: int = 0, text: str | None = None
) -> Known:
    return Known(f"id{number}", f"question {number}" if text is None else text, media, conversation or "", turn)
