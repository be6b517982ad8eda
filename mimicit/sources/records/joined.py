"""Reading a source whose records look up entries elsewhere in it (see `mimicit.sources.format.Join`), in one go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from mimicit.sources.containers.disk_table import DiskTable
from mimicit.sources.files.root import Root
from mimicit.sources.format import Join, SourceSpec
from mimicit.sources.items import Entry, Item, Note, Reject

_ITEMS_AT_ONCE: Final = 500


def read_joined(join: Join, spec: SourceSpec, root: Root) -> Iterator[Item]:
    """The rejects and notes of the entries, then the records, then the rejects of entries that no record has used."""
    with DiskTable() as table:
        waiting: list[Entry | Reject | Note] = []
        for item in join.entries(spec, root):
            waiting.append(item)
            if len(waiting) == _ITEMS_AT_ONCE:
                yield from _entered(join, spec, table, waiting)
                waiting = []
        yield from _entered(join, spec, table, waiting)
        yield from join.records(spec, root, table)
        if join.unused is not None:
            for entry in table.unused():
                yield join.unused(spec, entry)


def repeated_answer(spec: SourceSpec, answer: Entry) -> Reject:
    """The reject of a second answer to a question."""
    detail = "this question was answered before; the first annotation counts"
    return spec.reject("duplicate_id", place=answer.place, id=answer.key, detail=detail, scope="reference")


def unused_answer(spec: SourceSpec, answer: Entry) -> Reject:
    """The reject of an answer whose question is absent."""
    detail = "no question has the question_id of this answer"
    return spec.reject("dangling_reference", place=answer.place, id=answer.key, detail=detail, scope="reference")


def _entered(
    join: Join, spec: SourceSpec, table: DiskTable, items: Iterable[Entry | Reject | Note]
) -> Iterator[Reject | Note]:
    """Enter the entries among ``items``; yield the other items, and the rejects of repeated entries."""
    items = list(items)
    added = iter(table.add_all([item for item in items if isinstance(item, Entry)]))
    for item in items:
        if not isinstance(item, Entry):
            yield item
        elif not next(added) and join.repeated is not None and (reject := join.repeated(spec, item)):
            yield reject
