"""Alpaca: text alone, ``[{"instruction": "...", "input": "...", "output": "...", "history": [["...", "..."]]}]``.

The instruction of a triplet is ``instruction`` and, on the next line, ``input``. ``history`` are earlier rounds of the
same conversation, each a triplet of its own. Other fields (``system``, the prompt in ``text``) go to ``meta``. A record
with a picture or clip is rejected; the form for such data is that of LLaVA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.containers.json_rows import json_rows
from mimicit.sources.files.root import Root
from mimicit.sources.format import Needs, SourceFormat, SourceSpec
from mimicit.sources.items import Item, MediaRef
from mimicit.sources.records.claiming import claim_files
from mimicit.sources.records.column_names import MEDIA_FIELDS
from mimicit.sources.records.conversations import Turn
from mimicit.sources.records.each_row import turns_of_rows
from mimicit.sources.records.pieces import split_json
from mimicit.sources.records.text import checked_meta, shown
from mimicit.sources.sniff import Fields

_MEDIA_KEYS: Final = ("image", "images", "video", "videos", "audio", "audios")
_KNOWN_KEYS: Final = frozenset({"id", "instruction", "input", "output", "history", *_MEDIA_KEYS})


def _fits(root: Root, path: str, fields: Fields) -> bool:
    if not MEDIA_FIELDS.keys().isdisjoint(fields):
        return False  # a manifest: these rows show something
    return {"instruction", "output"} <= fields.keys() and "answer" not in fields


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for path in spec.paths:
        yield from turns_of_rows(spec, json_rows(root, path, spec.piece), _turns, _about)


ALPACA: Final = SourceFormat(
    claim=claim_files("alpaca", "JSON records with instruction and output", _fits),
    read=_read,
    split=split_json,
    by_record=True,
    needs=(Needs(("array", "lines"), (("instruction",), ("output",))),),
)


def _turns(row: Mapping[str, Any]) -> list[Turn]:
    return [*_history(row.get("history")), Turn(_question(row), row.get("output"))]


def _about(row: Mapping[str, Any]) -> tuple[tuple[MediaRef, ...], dict[str, Any]]:
    if any(row.get(key) for key in _MEDIA_KEYS):
        raise RejectedError("unsupported_media", "the record shows something; write it in LLaVA's form")
    return (), checked_meta({key: value for key, value in row.items() if key not in _KNOWN_KEYS})


def _history(rounds: object) -> list[Turn]:
    if rounds is None:
        return []
    if not isinstance(rounds, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in rounds):
        raise RejectedError("malformed", f"history must be a list of pairs, not {shown(rounds)}")
    return [Turn(question, answer) for question, answer in rounds]


def _question(row: Mapping[str, Any]) -> object:
    """``instruction`` and ``input`` as one text; a part that is not text is returned as it is, to be rejected later."""
    parts = [row[key] for key in ("instruction", "input") if row.get(key) not in (None, "")]
    return next((part for part in parts if not isinstance(part, str)), "\n".join(map(str, parts)))
