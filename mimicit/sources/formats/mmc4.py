"""MMC4: web pages as JSON Lines, one document a line, plain or as the one member of a ``.jsonl.zip``; or in tars.

In a tar, as OpenFlamingo packs them, each ``{key}.json`` is a document whose pictures are inline.

The documents of one folder are one source. ``text_list`` are the sentences; each entry of ``image_info`` belongs to the
sentence ``matched_text_index`` and is shown right before it, several in their published order. Pictures lie in a file
called ``image_name`` (see `finding`; first in a folder named after the shard), in an uncompressed tar of pictures
next to the documents, or inline as ``image_base64`` (unless the file is zipped).

The usual policy applies (see `Mmc4Options`): a picture is shown if its ``matched_sim`` is at least 0.24 and its file
has more than 10 kB, at most five per document. Every other picture is counted as a reject of scope ``media``. The
similarity matrix is not kept; ``url`` and unknown fields go to ``meta``.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.options import option
from mimicit.sources.containers.disk_table import read_joined
from mimicit.sources.containers.json_cursor import JsonCursor, Span
from mimicit.sources.containers.json_rows import MAX_RECORD_BYTES, Line, json_lines, record_of
from mimicit.sources.containers.tar_members import open_tar
from mimicit.sources.containers.tar_samples import read_member, tar_samples
from mimicit.sources.containers.unpacked import open_text, open_unzipped, open_zipped
from mimicit.sources.files.finding import find_file
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Join, Lookup, Needs, SourceFormat, SourceSpec
from mimicit.sources.formats.web_documents import (
    TAR,
    document_items,
    picture_tars,
    repeated_picture,
    tarred_entries,
    tarred_picture,
)
from mimicit.sources.items import Entry, InFile, InJson, InTar, Item, Locator, MediaRef, Piece, RawTriplet, Reject
from mimicit.sources.records.pieces import cut_lines, grouped, joined_pieces, whole
from mimicit.sources.records.text import checked_meta, checked_text, own_or_derived_id, shown
from mimicit.sources.sniff import Fields, Head, kept_head

_KNOWN_KEYS: Final = frozenset({"id", "text_list", "image_info", "similarity_matrix"})
_INLINE: Final = "image_base64"
_SHARD: Final = re.compile(r"_shard_(\d{1,9})_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mmc4Options:
    """Which pictures of a document are shown."""

    min_similarity: float = option(0.24, "Least `matched_sim` of a picture, a cosine; -1 keeps all.", least=-1, most=1)
    min_bytes: int = option(10_000, "Show only pictures whose file has more bytes.", least=0)
    max_pictures: int = option(5, "Pictures of a document, at most, the first ones; 0 keeps all.", least=0)


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Where the pictures of one file of documents are looked for, and which of them are shown.

    ``folders`` are the names of folders to try: that of the published shard, and the usual one. If the documents are
    zipped (``is_zipped``), no picture can be inline.
    """

    root: Root
    path: str
    folders: tuple[str, ...]
    tarred: Lookup
    is_zipped: bool
    options: Mmc4Options


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    folders: dict[str, list[str]] = {}
    for path, head in sorted(heads.items()):
        if _is_documents(path, head) or (force and head.kind in ("lines", "zip", "text")):
            folders.setdefault(folder_of(path), []).append(path)
    return [
        SourceSpec(
            name=folder or "mmc4" if len(paths) > 1 else _stem(paths[0]),
            format="mmc4",
            files=(*paths, *_tars(root, heads, folder, paths)),
            why="documents with text_list and image_info" + (" (named by --format)" if force else ""),
        )
        for folder, paths in folders.items()
    ]


def _is_documents(path: str, head: Head) -> bool:
    if head.kind == "zip" and not head.shapes:  # unreadable: go by the published name, and let reading say why
        name = path.rpartition("/")[2]
        return name.startswith("docs_") and name.endswith(".jsonl.zip")
    return head.kind in ("lines", "zip", "tar") and head.any(_is_document)


def _is_document(fields: Fields) -> bool:
    """Whether the record, or the JSON of the sample of a tar, is a document."""
    for start in ("", "json."):
        is_one = fields.get(f"{start}text_list") == "array" or f"{start}image_info[].{_INLINE}" in fields
        if is_one and fields.get(f"{start}image_info") == "array":
            return True
    return False


def _tars(root: Root, heads: Mapping[str, Head], folder: str, documents: list[str]) -> list[str]:
    """The tars named like the documents, then the tars of pictures in their folder or in its ``images``."""
    namesakes = [path for path in (_stem(document) + TAR for document in documents) if path in heads]
    found = picture_tars(root, heads, (folder, f"{folder}/images".lstrip("/")))
    return [path for path in dict.fromkeys((*namesakes, *found)) if path not in documents]


def _stem(path: str) -> str:
    return path.removesuffix(".zip").removesuffix(".jsonl")


def _documents(spec: SourceSpec, root: Root, tarred: Lookup) -> Iterator[Item]:
    options = Mmc4Options(**spec.options)  # type: ignore[arg-type]
    for path in spec.paths:
        head = kept_head(root, path)
        if _holds_pictures(head):
            continue
        folders = (*_SHARD.findall(path.rpartition("/")[2]), "images")
        pictures = _Pictures(root, path, folders, tarred, head.kind == "zip", options)
        for line in _lines(spec, root, path, head):
            yield from _document(spec, line, pictures) if isinstance(line, Line) else (line,)


def _tarred(spec: SourceSpec, root: Root) -> Iterator[Entry | Reject]:
    for path in spec.paths:
        if _holds_pictures(kept_head(root, path)):
            yield from tarred_entries(spec, root, path)


def _holds_pictures(head: Head) -> bool:
    """Whether the file of a source is a tar of nothing but pictures."""
    return head.kind == "tar" and not head.any(_is_document)


def _split(spec: SourceSpec, root: Root) -> list[Piece]:
    tars: list[Piece] = []
    documents: list[Piece] = []
    for path in spec.files:
        head = kept_head(root, path)
        if _holds_pictures(head):
            tars.append(whole(path))
        else:  # the samples of a tar may lie anywhere in it
            documents += [whole(path)] if head.kind == "tar" else cut_lines(root, path)
    return joined_pieces(grouped(root, tars), grouped(root, documents))


_JOIN: Final = Join(entries=_tarred, records=_documents, repeated=repeated_picture)
MMC4: Final = SourceFormat(
    claim=_claim,
    read=partial(read_joined, _JOIN),
    split=_split,
    join=_JOIN,
    options=Mmc4Options,
    needs=(Needs(("lines", "zip", "tar"), (("text_list", "json.text_list"), ("image_info", "json.image_info"))),),
)


def _lines(spec: SourceSpec, root: Root, path: str, head: Head) -> Iterator[Line | Reject]:
    """The documents of a file: its lines, or the JSON of each sample of a tar."""
    if head.kind != "tar":
        is_range = spec.piece is not None and spec.piece.end is not None
        opened = open_text if head.kind != "zip" else open_unzipped if is_range else open_zipped
        with opened(root, path) as file:
            yield from json_lines(file, path, spec.piece)
        return
    with open_tar(root, path) as tar:
        for sample in tar_samples(root, path):
            if isinstance(sample, RejectedError):
                yield spec.reject(sample.reason, place=path, detail=sample.detail, scope="media")
                continue
            try:
                if sample.fault:
                    raise RejectedError("duplicate_id", sample.fault)
                member = sample.file("json")
                if member is None:
                    raise RejectedError("missing_sidecar", f"the sample {sample.key!r} has no {sample.key}.json")
                raw = read_member(tar, member, most=MAX_RECORD_BYTES)
            except RejectedError as error:
                yield spec.reject(error.reason, place=sample.place(path), id=sample.key, detail=error.detail)
            else:
                text = raw.removeprefix(b"\xef\xbb\xbf").lstrip()
                yield Line(sample.place(path), member.offset + len(raw) - len(text), text.rstrip())


def _document(spec: SourceSpec, line: Line, pictures: _Pictures) -> Iterator[RawTriplet | Reject]:
    id = ""
    try:
        record = record_of(line.raw)
        if isinstance(record, RejectedError):
            raise record
        id = own_or_derived_id(record)
        texts = [checked_text(text, f"text_list[{place}]") for place, text in enumerate(_list(record, "text_list"))]
        infos = _list(record, "image_info")
        meta = checked_meta({key: value for key, value in record.items() if key not in _KNOWN_KEYS})
    except RejectedError as error:
        yield spec.reject(error.reason, place=line.place, id=id, detail=error.detail)
        return
    shown_at, lost = _placed(infos, line, pictures, sentences=len(texts))
    pieces = [*lost, *(piece for place, text in enumerate(texts) for piece in (*shown_at.get(place, ()), text))]
    yield from document_items(spec, pieces, id=id, place=line.place, between=" ", meta=meta)


def _list(record: Mapping[str, Any], key: str) -> list[Any]:
    value = record.get(key)
    if not isinstance(value, list):
        raise RejectedError("malformed", f"{key} must be a list, not {shown(value)}")
    return value


def _placed(
    infos: list[Any], line: Line, pictures: _Pictures, *, sentences: int
) -> tuple[dict[int, list[MediaRef]], list[RejectedError]]:
    """The pictures to show by the sentence that they belong to, and why the others are not shown."""
    shown_at: dict[int, list[MediaRef]] = {}
    lost: list[RejectedError] = []
    options = pictures.options
    spans = _inline_spans(line)
    for number, info in enumerate(infos):
        name = info.get("image_name") if isinstance(info, dict) else None
        try:
            place = _place(info, sentences, options.min_similarity)
            locator, size = _located(info, spans.get(number), line, pictures)
            if options.min_bytes and size <= options.min_bytes:
                raise RejectedError("file_size", f"{size} bytes; a picture must have more than {options.min_bytes}")
            if options.max_pictures and sum(map(len, shown_at.values())) == options.max_pictures:
                detail = f"the document shows {options.max_pictures} pictures before this one"
                raise RejectedError("too_many_pictures", detail)
        except RejectedError as error:
            lost.append(RejectedError(error.reason, f"image_info[{number}] {name!a:.80}: {error.detail}"))
        else:
            origin = _origin(locator, line, number, name)
            shown_at.setdefault(place, []).append(MediaRef(kind="image", parts=(locator,), origin=origin))
    return shown_at, lost


def _place(info: object, sentences: int, min_similarity: float) -> int:
    """The sentence that the picture belongs to; `RejectedError` if there is none, or it is not similar enough."""
    if not isinstance(info, dict):
        raise RejectedError("malformed", f"must be an object, not {shown(info)}")
    place, similarity = info.get("matched_text_index"), info.get("matched_sim")
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < sentences:
        raise RejectedError("malformed", f"matched_text_index {shown(place)} is none of {sentences} sentences")
    if not isinstance(similarity, int | float) or isinstance(similarity, bool) or not math.isfinite(similarity):
        raise RejectedError("malformed", f"matched_sim must be a number, not {shown(similarity)}")
    if similarity < min_similarity:
        raise RejectedError("low_similarity", f"matched_sim {similarity} is below {min_similarity}")
    return place


def _located(info: Mapping[str, Any], span: Span | None, line: Line, pictures: _Pictures) -> tuple[Locator, int]:
    """Where the picture lies, and its size in bytes (an estimate if it is inline)."""
    if info.get(_INLINE):
        if span is None:
            raise RejectedError("malformed", f"{_INLINE} must be text, not {shown(info[_INLINE])}")
        if pictures.is_zipped:
            raise RejectedError("unsupported_media", "a picture inside a zipped file has no place; unpack the file")
        return InJson(pictures.path, line.offset + span.offset, span.length), span.length * 3 // 4
    name = info.get("image_name")
    if name is None and _INLINE in info:
        raise RejectedError("empty_media", f"{_INLINE} is {shown(info[_INLINE])}, and there is no image_name")
    if not isinstance(name, str):
        raise RejectedError("malformed", f"image_name must be text, not {shown(name)}")
    tarred = tarred_picture(pictures.tarred, name)
    if tarred is not None:
        return tarred, tarred.size
    path = find_file(pictures.root, name, beside=folder_of(pictures.path), hints=pictures.folders)
    return InFile(path), pictures.root.size(path)


def _origin(locator: Locator, line: Line, number: int, name: object) -> str:
    match locator:
        case InFile(path):
            return path
        case InTar(path):
            return f"{path}#{name}"
    return f"{line.place}#image_info[{number}]"


def _inline_spans(line: Line) -> dict[int, Span]:
    """The spans of the inline pictures of a document in its line, by their number in ``image_info``."""
    if line.raw is None or _INLINE.encode() not in line.raw:
        return {}
    spans: dict[int, Span] = {}
    cursor = JsonCursor(io.BytesIO(line.raw), line.place)
    for key in cursor.members():
        if key.raw != b"image_info" or cursor.peek() != b"[":
            cursor.value(keep_bytes=0)
            continue
        for number in cursor.elements():
            span = _inline_span(cursor)
            if span is not None:
                spans[number] = span
    return spans


def _inline_span(cursor: JsonCursor) -> Span | None:
    """Step over one entry of ``image_info`` and return the span of its inline picture, if it has one."""
    found: Span | None = None
    if cursor.peek() != b"{":
        cursor.value(keep_bytes=0)
        return found
    for name in cursor.members():
        is_inline = name.raw == _INLINE.encode()
        is_text = cursor.peek() == b'"'
        span = cursor.value(keep_bytes=0)
        if is_inline:
            found = span if is_text else None
    return found
