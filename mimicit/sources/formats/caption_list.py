"""Captions as LAVIS and BLIP list them: ``[{"image": "a.jpg", "caption": "..."}]``; clips use ``video``.

``caption`` may be a list: every caption is one triplet, with ``_0``, ``_1``, ... after the id of the record. The id is
``id`` or ``instance_id``, else a hash of the record (``image_id`` is the same for all captions of a picture, and goes
to ``meta``). The instruction comes from a fixed pool, picked by a hash of the id.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mimicit.sources.containers.json_rows import json_rows
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Needs, SourceFormat, SourceSpec
from mimicit.sources.items import Item
from mimicit.sources.records.claiming import claim_files
from mimicit.sources.records.pieces import split_json
from mimicit.sources.records.row_media import MediaFinder
from mimicit.sources.records.rows import RowReader
from mimicit.sources.sniff import Fields

_OTHER_FORMATS: Final = frozenset({"answer", "conversations", "document", "instruction", "messages", "question"})


def _fits(root: Root, path: str, fields: Fields) -> bool:
    return (
        fields.get("caption") in ("text", "base64", "array")
        and any(fields.get(key) == "text" for key in ("image", "video"))
        and _OTHER_FORMATS.isdisjoint(fields)
    )


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for path in spec.paths:
        finder = MediaFinder(root, folder_of(path))
        yield from RowReader(spec=spec, finder=finder, id_fields=("id", "instance_id")).items(
            json_rows(root, path, spec.piece)
        )


CAPTION_LIST: Final = SourceFormat(
    claim=claim_files("captions", "JSON records with a caption and the name of a picture or clip", _fits),
    read=_read,
    split=split_json,
    by_record=True,
    needs=(Needs(("array", "lines"), (("image", "video"), ("caption",))),),
)
