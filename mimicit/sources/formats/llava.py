"""LLaVA-Instruct and its kin: a JSON array (or JSON Lines) of records with ``conversations`` about a picture or clip.

Every question with its answer is one triplet. The id is that of the record, with ``_0``, ``_1``, ... if a record
holds several. A record's media belong to the turns whose questions hold the placeholders (``<image>``; for a clip also
``<video>``), and to the turns after them until others are shown. There must be as many placeholders as media; with no
placeholder at all, the media are shown first, which is noted.

Accepted besides the documented form: whole numbers as ids and no id at all, no picture, a list of pictures (``image``
or ``images``), ``video`` and ``videos``, a placeholder at the end, a first turn that is not a question (skipped), the
names ``messages``, ``role`` and ``content`` of chat files, their lists of parts, the speakers of ShareGPT (what
``system`` says goes to ``meta``), and extra keys, which go to ``meta``. A record with sound is rejected: the sound is
what its questions are about. Records without a conversation are read by the names of their fields (see `rows`). A list
of InternVL says where the pictures of its sets lie (see `internvl`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from mimicit.sources.containers.json_rows import json_rows
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Needs, SourceFormat, SourceSpec
from mimicit.sources.formats.internvl import is_list, listed_sets
from mimicit.sources.items import Item
from mimicit.sources.records.claiming import claim_files
from mimicit.sources.records.conversations import is_conversation
from mimicit.sources.records.pieces import split_json
from mimicit.sources.records.row_media import MediaFinder
from mimicit.sources.records.rows import PlaceholderOptions, RowReader
from mimicit.sources.sniff import Fields, Head


def _fits(root: Root, path: str, fields: Fields) -> bool:
    return is_conversation(fields)


_claim_files: Final = claim_files("llava", "JSON records with conversations", _fits)


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    options = PlaceholderOptions(**spec.options)  # type: ignore[arg-type]
    for path in spec.paths:
        finder = MediaFinder(root, folder_of(path))
        reader = RowReader(
            spec=spec, finder=finder, require_placeholders=bool(options.require_placeholders), keeps_nulls=True
        )
        yield from reader.items(json_rows(root, path, spec.piece))


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    sets = listed_sets(root, heads)
    return [
        _listed(spec, *sets[spec.files[0]]) if spec.files[0] in sets else spec
        for spec in _claim_files(root, heads, force=force)
        if not is_list(heads[spec.files[0]])
    ]


def _listed(spec: SourceSpec, path: str, folder: str) -> SourceSpec:
    """``spec`` as the list at ``path`` describes it, with pictures in the ``folder``."""
    media_roots = {"": folder} if folder else {}
    return replace(spec, why=f"{spec.why}, listed in {path}", beside=(*spec.beside, path), media_roots=media_roots)


LLAVA: Final = SourceFormat(
    claim=_claim,
    read=_read,
    split=split_json,
    ids_repeat=True,
    by_record=True,
    needs=(Needs(("array", "lines"), (("conversations[].from", "messages[].role"),)),),
    options=PlaceholderOptions,
)
