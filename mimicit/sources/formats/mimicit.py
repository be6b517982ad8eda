"""MIMIC-IT as released: ``XX_instructions.json``, the pictures next to it, and the optional ``XX_train.json``.

- ``XX_instructions.json``: ``{"meta": {...}, "data": {id: {"instruction", "answer", "image_ids", "rel_ins_ids"}}}``.
  One source for each; ``image_ids`` may be absent, empty, or a bare id. Other keys go to ``meta``. The field
  ``mimicit_clips``, in which our own export says which pictures are frames of clips, is read (see `mimicit_ids`).
- Pictures: ``XX.json`` (``{id: base64}``), ``XX.parquet``, or a folder of parquet parts (column ``base64``, the id in
  the pandas index). They are found by content and matched by name: ``XX``, else the longest prefix of it
  (``LA.json`` serves ``LACONV_instructions.json``), in the same folder first.
- ``XX_train.json``: ``{id: [related ids]}``; selects the queries and overrides ``rel_ins_ids``.
- A training list in YAML names the files of each set itself (see `mimicit_list`). Sets that it does not name are
  sources too.

The files reach hundreds of gigabytes and are streamed. A picture is yielded as an id and a place; the build matches
ids with their aliases (see `mimicit_ids`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any, BinaryIO, Final, Literal

from mimicit.errors import RejectedError, SourceError
from mimicit.placeholders import question_about
from mimicit.sources.containers.disk_table import read_joined
from mimicit.sources.containers.json_cursor import JsonCursor
from mimicit.sources.containers.json_members import decoded_key, json_pictures, members_in
from mimicit.sources.containers.json_rows import MAX_RECORD_BYTES, parsed, parsed_run
from mimicit.sources.containers.parquet import parquet_columns, parquet_rows
from mimicit.sources.containers.unpacked import open_text
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Join, Lookup, Needs, SourceFormat, SourceSpec
from mimicit.sources.formats.mimicit_ids import (
    CLIPS,
    conversation_of,
    instruction_aliases,
    media_of,
    media_with_clips,
    resolved_ids,
)
from mimicit.sources.formats.mimicit_list import is_list, listed_sets
from mimicit.sources.items import Entry, InParquet, Item, MediaRef, Picture, Piece, RawTriplet, Reject, Row, TrainEntry
from mimicit.sources.records.captions import instruction_or_caption
from mimicit.sources.records.pieces import cut_members, cut_rows, grouped, joined_pieces, whole
from mimicit.sources.records.text import answer_of, checked_id, checked_ids, checked_meta, shown
from mimicit.sources.sniff import Head, kept_head

_Role = Literal["instructions", "train", "json pictures", "parquet pictures"]
_PICTURE_COLUMN: Final = "base64"
_ID_COLUMNS: Final = ("__index_level_0__", "index", "__null_dask_index__")
_KNOWN_KEYS: Final = frozenset({"instruction", "answer", "image_ids", "rel_ins_ids", CLIPS})
_FIELDS_OF_RECORDS: Final = frozenset({"id", "answer", "caption", "text", "conversations", "image", "images"})
"""Fields that only a record with an inline picture has, never a map of pictures by their ids."""
_NO_OBJECT: Final = "an instruction must be an object"
_ALIASED: Final = (b"SN_", b"\\u")  # how an id with aliases begins (see `instruction_aliases`), or an escape in it
_BLOCK_BYTES: Final = 1 << 20
_INSTRUCTIONS: Final = "_instructions"
_TRAIN: Final = "_train"
_MEDIA_OF_GROUP: Final[dict[str, Callable[[Sequence[str]], tuple[MediaRef, ...]]]] = {
    "IMAGE_TEXT": partial(media_of, is_clip=False),
    "IMAGE_TEXT_IN_CONTEXT": partial(media_of, is_clip=False),
    "TEXT_ONLY": lambda ids: (),
    "VIDEO_TEXT": partial(media_of, is_clip=True),
}
"""How each group of a training list reads the pictures of a record; without a list, their ids decide."""


def _role(path: str, head: Head) -> _Role | None:
    """The role of the file in MIMIC-IT by its content; the name also counts for training lists and empty ``data``."""
    fields = head.fields
    if head.kind == "parquet":
        return "parquet pictures" if _PICTURE_COLUMN in fields and not fields.keys().isdisjoint(_ID_COLUMNS) else None
    if head.kind not in ("object", "lines"):
        return None
    named = path.rpartition("/")[2].rpartition(".")[0]
    if fields.get("data") == "object":
        inner = [name.rpartition(".")[2] for name in fields if name.startswith("data.")]
        if "answer" in inner or (not inner and named.endswith(_INSTRUCTIONS)):
            return "instructions"
    kinds = [kind for name, kind in fields.items() if name]
    if "base64" in kinds and "object" not in kinds and _FIELDS_OF_RECORDS.isdisjoint(fields):
        return "json pictures"
    return "train" if named.endswith(_TRAIN) and (not kinds or not {"array", "text"}.isdisjoint(kinds)) else None


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    roles = {path: _role(path, head) for path, head in sorted(heads.items())}
    sources = [
        spec for path, head in sorted(heads.items()) if is_list(head) for spec in _sources_of_list(root, path, roles)
    ]
    listed = {path for spec in sources for path in spec.files}
    pictures = _picture_sets(roles)
    for path, role in roles.items():
        if role == "instructions" and path not in listed:
            name = path.rpartition(".")[0].removesuffix(_INSTRUCTIONS)
            train = tuple(other for other in (f"{name}{_TRAIN}.json",) if roles.get(other) == "train")
            found = _pictures_of(name, pictures)
            why = f"instructions by id; {len(train)} training list, {len(found)} files of pictures"
            sources.append(SourceSpec(name=name, format="mimicit", files=(path, *train, *found), why=why))
    return sources


def _sources_of_list(root: Root, path: str, roles: Mapping[str, _Role | None]) -> Iterator[SourceSpec]:
    """The sources of a training list; a set whose files cannot be used has the list as its only file, to report why."""
    try:
        sets = listed_sets(root, path, roles)
    except SourceError as error:
        yield SourceSpec(name=path.rpartition(".")[0], format="mimicit", files=(path,), why=str(error))
        return
    folder = folder_of(path)
    for entry in sets:
        fault = entry.fault
        wrong = [file for file in entry.files if roles[file] is None]
        if wrong and not fault:
            fault = f"{wrong[0]} is no file of MIMIC-IT"
        why = f"{path}: {entry.name}: {fault}" if fault else f"listed in {path} as {entry.group}"
        yield SourceSpec(
            name=f"{folder}/{entry.name}".lstrip("/"),
            format="mimicit",
            files=(path,) if fault else (*entry.files, path),
            why=why,
            part=entry.group,
            limit=entry.limit,
        )


def _records(spec: SourceSpec, root: Root, ids: Lookup) -> Iterator[Item]:
    for path in spec.paths:
        head = kept_head(root, path)
        if is_list(head):
            if len(spec.files) == 1:
                raise SourceError(spec.why)
            continue
        match _role(path, head):
            case "instructions":
                yield from _instructions(spec, root, path, ids)
            case "train":
                yield from _train_entries(spec, root, path, ids)
            case "json pictures":
                yield from json_pictures(spec, root, path)
            case "parquet pictures":
                yield from _parquet_pictures(spec, root, path)
            case None:
                raise SourceError(f"{path}: has changed since it was found; start the build again")


def _ids(spec: SourceSpec, root: Root) -> Iterator[Entry]:
    """The ids of the instructions that have aliases."""
    path = spec.files[0]
    if path not in spec.paths or is_list(kept_head(root, path)):
        return
    with open_text(root, path) as file:
        if not _may_hold_aliases(file, spec.piece):
            return
        for cursor, members in _data(file, path, spec.piece):
            for _ in members:
                key = cursor.key()
                cursor.value(keep_bytes=0)
                with suppress(RejectedError):  # no id: reading the instruction rejects it
                    if len(instruction_aliases(id := decoded_key(key))) > 1:
                        yield Entry(id, "", "")


def _may_hold_aliases(file: BinaryIO, piece: Piece | None) -> bool:
    """Whether the bytes of ``piece`` may spell an id with aliases; far cheaper than a look at each id."""
    start, end = (0, None) if piece is None else (piece.start, piece.end)
    file.seek(start)
    before, left = b"", end - start if end is not None else None
    while block := file.read(_BLOCK_BYTES if left is None else min(_BLOCK_BYTES, left)):
        if any(mark in before + block for mark in _ALIASED):
            file.seek(0)
            return True
        before = block[-2:]
        left = None if left is None else left - len(block)
    return False


def _split(spec: SourceSpec, root: Root) -> list[Piece]:
    pieces: list[list[Piece]] = []
    for path in spec.files:
        head = kept_head(root, path)
        match _role(path, head) if not is_list(head) else None:
            case "instructions":
                pieces.append(cut_members("data")(root, path))
            case "train" | "json pictures":
                pieces.append(cut_members()(root, path))
            case _:
                pieces.append(cut_rows(root, path) or [whole(path)])
    return joined_pieces(pieces[0], grouped(root, chain.from_iterable(pieces)))


_JOIN: Final = Join(entries=_ids, records=_records)
MIMICIT: Final = SourceFormat(
    claim=_claim,
    read=partial(read_joined, _JOIN),
    split=_split,
    join=_JOIN,
    needs=(Needs(("object", "lines"), (("data",),)),),
)


def _picture_sets(roles: Mapping[str, _Role | None]) -> dict[tuple[str, str], tuple[str, ...]]:
    """The files of each set of pictures, by (folder, name); the parts of a parquet folder are one set named after it.

    If a set was published both as JSON and as parquet, the JSON file is taken.
    """
    sets: dict[tuple[str, str], tuple[str, ...]] = {}
    for wanted in ("json pictures", "parquet pictures"):
        found: dict[tuple[str, str], tuple[str, ...]] = {}
        for path, role in roles.items():
            if role == wanted:
                folder, _, name = path.rpartition("/")
                is_part = folder.endswith(".parquet") or name.startswith("part")
                outer, _, stem = folder.rpartition("/") if is_part else (folder, "", name)
                key = (outer, stem.removesuffix(".json").removesuffix(".parquet"))
                found[key] = (*found.get(key, ()), path)
        sets = found | sets
    return sets


def _pictures_of(name: str, sets: Mapping[tuple[str, str], tuple[str, ...]]) -> tuple[str, ...]:
    """The files of the pictures for the instructions ``name`` (with its folder); empty if there are none."""
    folder, stem = folder_of(name), name.rpartition("/")[2]
    fitting = [key for key in sets if key[1] and stem.startswith(key[1])]
    if not fitting:
        return ()
    return sets[min(fitting, key=lambda key: (key[0] != folder, -len(key[1]), key))]


def _instructions(spec: SourceSpec, root: Root, path: str, ids: Lookup) -> Iterator[RawTriplet | Reject]:
    with open_text(root, path) as file:
        for cursor, members in _data(file, path, spec.piece):
            for id, (place, record, *_) in _rows(cursor, path, members):
                try:
                    if isinstance(record, RejectedError):
                        raise record
                    yield _triplet(id, record, place, _MEDIA_OF_GROUP.get(spec.part, media_of), ids)
                except RejectedError as error:
                    yield spec.reject(error.reason, place=place, id=id, detail=error.detail)


def _data(file: BinaryIO, path: str, piece: Piece | None) -> Iterator[tuple[JsonCursor, Iterator[None]]]:
    """A cursor, and its steps through the members of ``data`` in ``file``, or through those in the range ``piece``."""
    if piece is not None and piece.end is not None:
        cursor = JsonCursor(file, path, start=piece.start, end=piece.end)
        yield cursor, cursor.entries_left()
        return
    cursor = JsonCursor(file, path)
    has_data = False
    for key in cursor.members():
        if key.raw != b"data":
            cursor.value(keep_bytes=0)
            continue
        has_data = True
        yield cursor, cursor.entries()
    cursor.finish()
    if not has_data:
        raise SourceError(f'{path}: has no \'data\'; a file of instructions is {{"meta": ..., "data": ...}}')


def _rows(cursor: JsonCursor, path: str, members: Iterable[None]) -> Iterator[tuple[str, Row]]:
    """The ``members`` through which ``cursor`` steps, each with its id, which is empty if it is not valid."""
    for _ in members:
        run = cursor.run(MAX_RECORD_BYTES)
        values = parsed_run(b"{%b}" % run) if run else None
        if values is not None and _are_ids(values):
            cursor.skip(run)
            for id, value in values.items():
                yield (
                    id,
                    Row(f"{path}#{id}", value if isinstance(value, dict) else RejectedError("malformed", _NO_OBJECT)),
                )
            continue
        key = cursor.key()
        is_object = cursor.peek() == b"{"
        span = cursor.value(keep_bytes=MAX_RECORD_BYTES if is_object else 0)
        place, id = f"{path}#byte {key.offset}", ""
        try:
            id = decoded_key(key)
            place = f"{path}#{id}"
            yield id, Row(place, parsed(span.raw) if is_object else RejectedError("malformed", _NO_OBJECT))
        except RejectedError as error:
            yield id, Row(place, error)


def _are_ids(keys: Iterable[str]) -> bool:
    try:
        return all(map(checked_id, keys))
    except RejectedError:
        return False


def _triplet(
    id: str,
    record: Mapping[str, Any],
    place: str,
    media_of: Callable[[Sequence[str]], tuple[MediaRef, ...]],
    known: Lookup,
) -> RawTriplet:
    ids = checked_ids(record.get("image_ids"), "image_ids")
    media = media_with_clips(ids, record[CLIPS]) if CLIPS in record else media_of(ids)
    talk = conversation_of(id)
    return RawTriplet(
        id=id,
        place=place,
        media=media,
        instruction=instruction_or_caption(
            question_about(record.get("instruction"), [medium.kind for medium in media]), id, media
        ),
        answer=answer_of(record),
        related=resolved_ids(checked_ids(record.get("rel_ins_ids"), "rel_ins_ids"), known),
        conversation=talk[0] if talk else None,
        turn=talk[1] if talk else 0,
        meta=checked_meta({key: value for key, value in record.items() if key not in _KNOWN_KEYS}),
    )


def _train_entries(spec: SourceSpec, root: Root, path: str, known: Lookup) -> Iterator[TrainEntry | Reject]:
    with open_text(root, path) as file:
        for cursor, key in members_in(file, path, spec.piece):
            is_text = cursor.peek() == b'"'
            span = cursor.value(keep_bytes=MAX_RECORD_BYTES)
            place, id = f"{path}#byte {key.offset}", ""
            try:
                id = decoded_key(key)
                place = f"{path}#{id}"
                related = parsed(b'"' + span.raw + b'"' if is_text and span.raw is not None else span.raw)
                if not isinstance(related, list | str):
                    raise RejectedError("malformed", f"related ids must be a list, not {shown(related)}")
                (query,) = resolved_ids([id], known)
                yield TrainEntry(query, resolved_ids(checked_ids(related, "related"), known), place)
            except RejectedError as error:
                yield spec.reject(error.reason, place=place, id=id, detail=error.detail, scope="reference")


def _parquet_pictures(spec: SourceSpec, root: Root, path: str) -> Iterator[Picture | Reject]:
    column = next(name for name in _ID_COLUMNS if name in parquet_columns(root, path))
    for number, group, row, values in parquet_rows(root, path, [column], spec.piece):
        place = f"{path}[{number}]"
        try:
            if isinstance(values, RejectedError):
                raise values
            yield Picture(checked_id(values[column]), InParquet(path, group, row, _PICTURE_COLUMN), place)
        except RejectedError as error:
            yield spec.reject(error.reason, place=place, detail=error.detail, scope="media")
