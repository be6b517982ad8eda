"""OBELICS: web documents as parquet rows, whose pictures are URLs; and the files that these were downloaded to.

``images`` and ``texts`` are lists of equal length with exactly one of the two in each slot, in reading order; an image
is its URL. ``general_metadata`` is a JSON text; if it is an object, it goes to ``meta``. The parquet files of one
folder are one source.

Nothing is fetched. A map says where the picture of a URL lies: the parquet tables that img2dataset writes (``url``,
``key``, ``status``; the pictures of ``00000.parquet`` are ``00000/{key}.jpg``, members of ``00000.tar``, or
``{key}.jpg`` next to it), or a table (parquet, CSV, JSON Lines) with the columns ``url`` and ``path``. Maps are looked
for beneath the folder of the documents, else beneath the folder above it, and so on. They are joined on disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

import orjson

from mimicit.errors import RejectedError
from mimicit.sources.containers.csv_rows import csv_rows
from mimicit.sources.containers.disk_table import read_joined
from mimicit.sources.containers.json_rows import json_rows, parsed
from mimicit.sources.containers.parquet import parquet_columns, parquet_rows
from mimicit.sources.files.finding import PICTURE_EXTENSIONS, media_ref
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Join, Lookup, Needs, SourceFormat, SourceSpec
from mimicit.sources.formats.web_documents import (
    TAR,
    Slot,
    document_items,
    repeated_picture,
    tarred_entries,
    tarred_picture,
)
from mimicit.sources.items import Entry, Item, MediaRef, Piece, RawTriplet, Reject, Row
from mimicit.sources.records.pieces import cut_records, cut_rows, grouped, joined_pieces
from mimicit.sources.records.text import checked_id, checked_meta, checked_text, derived_id, is_unicode, shown
from mimicit.sources.sniff import Head, kept_head

_LISTS: Final = ("images", "texts")
_PARQUET: Final = ".parquet"
_TABLES: Final = frozenset({"array", "csv", "lines", "parquet"})
_TEXTS: Final = re.compile(r"(large_)?list<\w+: (large_)?string( not null)?>")
_BETWEEN: Final = "\n\n"  # texts are paragraphs


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    folders: dict[str, list[str]] = {}
    for path, head in sorted(heads.items()):
        if _is_documents(head.fields) or (force and head.kind == "parquet" and not _is_map(head)):
            folders.setdefault(folder_of(path), []).append(path)
    maps = [path for path, head in sorted(heads.items()) if _is_map(head)] if folders else []
    return [
        SourceSpec(
            name=folder or "obelics" if len(paths) > 1 else paths[0].removesuffix(_PARQUET),
            format="obelics",
            files=(*paths, *_with_tars(_nearest(maps, folder), heads)),
            why="parquet with lists of images and texts" + (" (named by --format)" if force else ""),
        )
        for folder, paths in folders.items()
    ]


def _is_documents(fields: Mapping[str, str]) -> bool:
    return all(_TEXTS.fullmatch(fields.get(name, "")) for name in _LISTS)


def _is_map(head: Head) -> bool:
    """Whether the table is a map; an img2dataset table with captions is a set of its own (see `webdataset`)."""
    fields = head.fields.keys()
    if head.kind not in _TABLES or "url" not in fields or "caption" in fields:
        return False
    return {"key", "status"} <= fields or "path" in fields


def _nearest(maps: list[str], folder: str) -> list[str]:
    """The maps beneath ``folder``, else beneath the nearest folder above it that has any."""
    while True:
        found = [path for path in maps if not folder or path.startswith(f"{folder}/")]
        if found or not folder:
            return found
        folder = folder_of(folder)


def _with_tars(maps: list[str], heads: Mapping[str, Head]) -> list[str]:
    tars = [path.removesuffix(_PARQUET) + TAR for path in maps if path.endswith(_PARQUET)]
    return [*maps, *(path for path in tars if path in heads)]


def _read_documents(spec: SourceSpec, root: Root, downloads: Lookup) -> Iterator[Item]:
    for path in spec.paths:
        if not _holds_documents(root, path):
            continue
        columns = [name for name in (*_LISTS, "general_metadata") if name in parquet_columns(root, path)]
        for number, _, _, row in parquet_rows(root, path, columns, spec.piece):
            yield from _document(spec, root, row, f"{path}[{number}]", downloads)


def _read_downloads(spec: SourceSpec, root: Root) -> Iterator[Entry | Reject]:
    for path in spec.paths:
        if path.endswith(TAR):
            yield from tarred_entries(spec, root, path, prefix=f"{path}\0")
        elif not _holds_documents(root, path):
            yield from _read_map(spec, root, path)


def _holds_documents(root: Root, path: str) -> bool:
    """Whether the file of a source is neither a map nor a tar of pictures."""
    if path.endswith(TAR):
        return False
    head = kept_head(root, path)
    return not _is_map(head) or _is_documents(head.fields)


def _repeated(spec: SourceSpec, entry: Entry) -> Reject | None:
    """The reject of a second picture of one name in a tar; None for a second download of a URL, which loses nothing."""
    return repeated_picture(spec, entry) if "\0" in entry.key else None


def _split(spec: SourceSpec, root: Root) -> list[Piece]:
    pieces: tuple[list[Piece], list[Piece]] = [], []  # of downloads and of documents
    for path in spec.files:
        pieces[_holds_documents(root, path)].extend(cut_rows(root, path) or cut_records(root, path))
    return joined_pieces(*(grouped(root, of_kind) for of_kind in pieces))


_JOIN: Final = Join(entries=_read_downloads, records=_read_documents, repeated=_repeated)
OBELICS: Final = SourceFormat(
    claim=_claim,
    read=partial(read_joined, _JOIN),
    split=_split,
    join=_JOIN,
    needs=(Needs(("parquet",), (("images",), ("texts",))),),
)


def _read_map(spec: SourceSpec, root: Root, path: str) -> Iterator[Entry | Reject]:
    """Every download that succeeded, by its URL; its place is resolved when a document shows it."""
    for place, row, *_ in _map_rows(root, path, spec.piece):
        try:
            if isinstance(row, RejectedError):
                raise row
            url = row.get("url")
            if not isinstance(url, str) or not url or "\0" in url or not is_unicode(url):
                raise RejectedError("malformed", f"url must be text, not {shown(url)}")
            if "key" not in row:
                yield Entry(url, orjson.dumps(["path", folder_of(path), row.get("path")]).decode(), place)
            elif row.get("status") == "success":
                yield Entry(url, orjson.dumps(["key", path, row["key"]]).decode(), place)
        except RejectedError as error:
            yield spec.reject(error.reason, place=place, detail=error.detail, scope="reference")


def _map_rows(root: Root, path: str, piece: Piece | None) -> Iterator[Row]:
    head = kept_head(root, path)
    if head.kind == "csv":
        yield from csv_rows(root, path, piece)
    elif head.kind != "parquet":
        yield from json_rows(root, path, piece)
    else:
        names = ("url", "key", "status") if {"key", "status"} <= head.fields.keys() else ("url", "path")
        for number, _, _, row in parquet_rows(root, path, names, piece):
            yield Row(f"{path}[{number}]", row)


def _document(
    spec: SourceSpec, root: Root, row: Mapping[str, Any] | RejectedError, place: str, downloads: Lookup
) -> Iterator[RawTriplet | Reject]:
    id = ""
    try:
        if isinstance(row, RejectedError):
            raise row
        id = derived_id(row)
        pieces = [_checked_slot(number, url, text, root, downloads) for number, (url, text) in enumerate(_slots(row))]
        meta = checked_meta(_general_metadata(row.get("general_metadata")))
    except RejectedError as error:
        yield spec.reject(error.reason, place=place, id=id, detail=error.detail)
    else:
        yield from document_items(spec, pieces, id=id, place=place, between=_BETWEEN, meta=meta)


def _slots(row: Mapping[str, Any]) -> list[tuple[object, object]]:
    images, texts = (row.get(name) for name in _LISTS)
    if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts):
        raise RejectedError("malformed", "images and texts must be lists of equal length")
    return list(zip(images, texts, strict=True))


def _checked_slot(number: int, url: object, text: object, root: Root, downloads: Lookup) -> Slot:
    """The text or the picture of one slot; the error of a picture that cannot be used is returned, not raised."""
    if (url is None) == (text is None):
        raise RejectedError("malformed", f"slot {number} must hold either a text or a picture")
    if url is None:
        return checked_text(text, f"texts[{number}]")
    try:
        if not isinstance(url, str):
            raise RejectedError("malformed", f"must be a URL, not {shown(url)}")
        return _picture(url, root, downloads)
    except RejectedError as error:
        return RejectedError(error.reason, f"images[{number}] {url!a:.200}: {error.detail}")


def _picture(url: str, root: Root, downloads: Lookup) -> MediaRef:
    entry = downloads.get(url)
    if entry is None:
        raise RejectedError("missing_file", "no map has a download of this URL that succeeded; nothing is fetched")
    match orjson.loads(entry):
        case ["path", folder, str(path)]:
            return media_ref(root, path, beside=str(folder), kind="image")
        case ["key", table, key]:
            return _of_img2dataset(checked_id(key, "key"), str(table).removesuffix(_PARQUET), root, downloads)
    raise RejectedError("malformed", "the map gives no path for this URL")


def _of_img2dataset(key: str, shard: str, root: Root, downloads: Lookup) -> MediaRef:
    for extension in PICTURE_EXTENSIONS:
        tarred = tarred_picture(downloads, f"{shard}{TAR}\0{key}{extension}")
        if tarred is not None:
            return MediaRef(kind="image", parts=(tarred,), origin=f"{tarred.path}#{key}{extension}")
    folder, _, name = shard.rpartition("/")
    return media_ref(root, key, beside=folder, hints=(name,), extensions=PICTURE_EXTENSIONS, kind="image")


def _general_metadata(value: object) -> dict[str, Any]:
    """The object in the JSON text ``value``; empty if it is another value: published rows also have ``"[]"``."""
    if value is None:
        return {}
    if not isinstance(value, str):
        raise RejectedError("malformed", f"general_metadata must be JSON as text, not {shown(value)}")
    try:
        meta = parsed(value.encode())
    except RejectedError as error:
        raise RejectedError("malformed", f"general_metadata: {error.detail}") from None
    return meta if isinstance(meta, dict) else {}
