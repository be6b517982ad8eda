"""Related ids of MIMIC-IT by the names that the instructions have: SN was published with and without an infix.

A related id whose set is known for that (see `instruction_aliases`) is looked up among the ids of the instructions.
These are read into a table on disk, in a pass of their own, when the first such id is met; for all other sets this
costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from mimicit.errors import RejectedError
from mimicit.sources.containers.disk_table import DiskTable
from mimicit.sources.containers.json_cursor import JsonCursor
from mimicit.sources.containers.json_pictures import decoded_key
from mimicit.sources.containers.unpacked import open_text
from mimicit.sources.files.root import Root
from mimicit.sources.formats.mimicit_ids import instruction_aliases

__all__ = ["RelatedIds"]


class RelatedIds:
    """The ids in the instructions at ``path``; a context manager that holds their table, once there is need of it."""

    def __init__(self, root: Root, path: str) -> None:
        self._root = root
        self._path = path
        self._table: DiskTable | None = None
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def resolved(self, ids: Sequence[str]) -> tuple[str, ...]:
        """``ids``, each as the first of its aliases that is the id of an instruction; as it is if none is one."""
        return tuple(map(self._resolved, ids))

    def _resolved(self, id: str) -> str:
        names = instruction_aliases(id)
        if len(names) == 1:
            return id
        if self._table is None:
            self._table = self._held.enter_context(DiskTable())
            self._fill(self._table)
        return next((name for name in names if self._table.get(name) is not None), id)

    def _fill(self, table: DiskTable) -> None:
        with open_text(self._root, self._path) as file:
            cursor = JsonCursor(file, self._path)
            for key in cursor.members():
                if key.raw != b"data":
                    cursor.value(keep_bytes=0)
                    continue
                for id_key in cursor.members():
                    cursor.value(keep_bytes=0)
                    try:
                        table.add(decoded_key(id_key), "")
                    except RejectedError:
                        continue  # no id: reading the instruction rejects it
