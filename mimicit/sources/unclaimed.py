"""Why a table that somebody wrote by hand is no source: a CSV file or a spreadsheet that no format claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Final

from mimicit.errors import RejectedError
from mimicit.sources.root import Root
from mimicit.sources.sniff import sniff

__all__ = ["unclaimed_tables"]

_SPREADSHEETS: Final = frozenset({".ods", ".xls", ".xlsm", ".xlsx"})
_MOST_COLUMNS: Final = 8


def unclaimed_tables(root: Root, paths: Iterable[str]) -> Iterator[str]:
    """One line for each table among ``paths``, which no source is made of: its name, what it lacks, and the mend."""
    for path in paths:
        suffix = PurePosixPath(path).suffix.lower()
        if suffix in _SPREADSHEETS:
            yield f"{path}: not used: save the sheet as CSV (UTF-8)"
        elif suffix in (".csv", ".tsv"):
            yield f"{path}: not used: {_lack(root, path)}"


def _lack(root: Root, path: str) -> str:
    try:
        columns = list(sniff(root, path).fields)
    except RejectedError as error:
        return error.detail
    if not columns:
        return "its first line must name the columns, each once, in UTF-8"
    shown = ", ".join(columns[:_MOST_COLUMNS]) + (", ..." if len(columns) > _MOST_COLUMNS else "")
    return f"its columns are {shown}; name them image, question and answer, or image and caption"
