"""From the pictures and texts of a web page, in reading order, to one interleaved document.

A chunk of a document is a run of pictures with all the text up to the next picture. Pictures that cannot be used are
left out, each with a reject of scope ``media``; the document is kept as long as one picture is left.

Pictures that a record names may lie in a tar. Their places in the archives are found first and kept on disk for the
records (`mimicit.sources.format.Join`), and `tar_members` limits the members of an archive, so memory does not grow
with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import orjson

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.tar_members import tar_members
from mimicit.sources.files.media_names import folder_of, named_kind
from mimicit.sources.files.root import Root
from mimicit.sources.format import Lookup, SourceSpec
from mimicit.sources.items import Entry, InTar, MediaRef, RawTriplet, Reject
from mimicit.sources.records.text import checked_text
from mimicit.sources.sniff import Head

Slot = MediaRef | RejectedError | str
"""A picture, a picture that cannot be used (the detail names it), or a text that has been checked."""

TAR: Final = ".tar"
_MEMBERS_LOOKED_AT: Final = 64


def document_items(
    spec: SourceSpec, pieces: Sequence[Slot], *, id: str, place: str, between: str, meta: Mapping[str, Any]
) -> Iterator[RawTriplet | Reject]:
    """A reject for each picture that the document of ``pieces`` loses, then the document, or its own reject.

    ``between`` joins the texts of one chunk. Pictures that no text follows are lost: a model has nothing to learn from
    them. A document without a usable picture is rejected as ``no_media``, a document without text as ``empty_answer``.
    """
    media = [piece for piece in pieces if isinstance(piece, MediaRef)]
    lost = [piece for piece in pieces if isinstance(piece, RejectedError)]
    chunks = _chunks(pieces)
    shown = sum(count for count, _ in chunks)
    if chunks:
        lost += [
            RejectedError("unpaired_media", f"{medium.origin}: no text of the document follows this picture")
            for medium in media[shown:]
        ]
    for fault in lost:
        yield spec.reject(fault.reason, place=place, id=id, detail=fault.detail, scope="media")
    try:
        if not chunks:
            raise RejectedError("empty_answer", "the document has no text")
        if not shown:
            none = f"the document has lost its {len(lost)} pictures" if lost else "the document has no picture"
            raise RejectedError("no_media", none)
        yield RawTriplet(
            id=id,
            place=place,
            media=tuple(media[:shown]),
            instruction="",
            answer="",
            meta=meta,
            parts=tuple((count, checked_text(between.join(texts), "the text of a chunk")) for count, texts in chunks),
        )
    except RejectedError as error:
        yield spec.reject(error.reason, place=place, id=id, detail=error.detail)


def picture_tars(root: Root, heads: Mapping[str, Head], folders: Collection[str]) -> list[str]:
    """The archives directly in ``folders`` whose first members are all pictures, sorted."""
    found = [path for path in heads if path.lower().endswith(TAR) and folder_of(path) in folders]
    return sorted(path for path in found if _holds_pictures(root, path))


def tarred_entries(spec: SourceSpec, root: Root, path: str, *, prefix: str = "") -> Iterator[Entry | Reject]:
    """The pictures of the tar at ``path``; the key of each is ``prefix`` and its name without folders.

    Yields a reject of scope ``media`` for every member that is refused.
    """
    for member in tar_members(root, path):
        if isinstance(member, RejectedError):
            yield spec.reject(member.reason, place=path, detail=member.detail, scope="media")
        elif named_kind(member.name) == "image":
            where = orjson.dumps([path, member.offset, member.size]).decode()
            yield Entry(prefix + member.name.rpartition("/")[2], where, f"{path}#{member.name}")


def repeated_picture(spec: SourceSpec, entry: Entry) -> Reject:
    """The reject of an entry of `tarred_entries` whose name came before."""
    name = entry.place[len(f"{orjson.loads(entry.value)[0]}#") :]
    detail = f"a picture called {name!r} was there before; the first one keeps the name"
    return spec.reject("duplicate_id", place=entry.place, detail=detail, scope="media")


def tarred_picture(table: Lookup, name: str) -> InTar | None:
    """Where the picture lies that `tarred_entries` lists as ``name`` (with its prefix); None if it lists none."""
    where = table.get(name)
    return None if where is None else InTar(*orjson.loads(where))


def _chunks(pieces: Sequence[Slot]) -> list[tuple[int, list[str]]]:
    """(number of pictures, texts that follow them) of each chunk; pictures after the last text are in none."""
    chunks: list[tuple[int, list[str]]] = []
    waiting = 0
    for piece in pieces:
        if isinstance(piece, MediaRef):
            waiting += 1
        elif isinstance(piece, str) and piece:
            if waiting or not chunks:
                chunks.append((waiting, []))
                waiting = 0
            chunks[-1][1].append(piece)
    return chunks


def _holds_pictures(root: Root, path: str) -> bool:
    try:
        members = list(islice(tar_members(root, path), _MEMBERS_LOOKED_AT))
    except SourceError:
        return False
    names = [member.name for member in members if not isinstance(member, RejectedError)]
    return bool(names) and all(named_kind(name) == "image" for name in names)
