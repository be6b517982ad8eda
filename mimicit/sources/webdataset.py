"""WebDataset shards of pictures and texts, as img2dataset and many others write them: tar files of samples.

A sample is the members whose names are the same up to the first dot: ``00001.jpg``, ``00001.txt``, ``00001.json``.

- Pictures: every member with the extension of one, shown in the order of the names.
- ``.json`` with ``conversations`` is a talk (see `talk`); one with ``answer`` is a triplet, as in a sidecar.
- Otherwise ``.txt`` is the caption, or else the ``caption`` of the ``.json``. Its instruction comes from a fixed pool,
  picked by a hash of the id. The fields of the ``.json`` go to ``meta``, and those of other members are passed over.
- The id is the common name, folder and all.

The tars of one folder are one source. A sample without a picture or clip, or without a text, is a reject.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.base import A_MEDIUM, InTar, Item, MediaRef, Needs, RawTriplet, Reject, SourceFormat, SourceSpec
from mimicit.sources.json_rows import MAX_RECORD_BYTES, parsed
from mimicit.sources.media_names import folder_of, named_kind
from mimicit.sources.root import Root
from mimicit.sources.sniff import Fields, Head
from mimicit.sources.talk import TALK_KEYS, rejected_turns, system_text, talk_triplets, turns_of
from mimicit.sources.tar_samples import TarSample, read_member, tar_samples
from mimicit.sources.text import MAX_TEXT_CHARACTERS, checked_id, checked_meta
from mimicit.sources.triplet_rows import triplet_from_row

__all__ = ["WEBDATASET"]

_MAX_CAPTION_BYTES: Final = 4 * MAX_TEXT_CHARACTERS
_CAPTION: Final = "caption"
_IDS: Final = frozenset({"id", "key", "__key__"})


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    folders: dict[str, list[str]] = {}
    for path, head in sorted(heads.items()):
        if head.kind == "tar" and (force or head.any(_fits)):
            folders.setdefault(folder_of(path), []).append(path)
    return [
        SourceSpec(
            name=folder or (paths[0].rpartition(".")[0] if len(paths) == 1 else "webdataset"),
            format="webdataset",
            files=tuple(paths),
            why=f"{len(paths)} tar of samples with pictures and texts" + (" (named by --format)" if force else ""),
        )
        for folder, paths in folders.items()
    ]


def _fits(fields: Fields) -> bool:
    """Whether the sample shows something and says something about it."""
    kinds = set(fields.values())
    return not kinds.isdisjoint(("image", "video")) and not fields.keys().isdisjoint(("txt", "json"))


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for path in spec.files:
        for sample in tar_samples(root, path):
            if isinstance(sample, RejectedError):
                yield spec.reject(sample.reason, place=path, detail=sample.detail, scope="media")
                continue
            place = f"{path}#{sample.key}"
            try:
                media = _media(path, sample)
                row = _json(root, path, sample)
                if any(key in row for key in TALK_KEYS):
                    yield from _talk(spec, row, media, id=sample.key, place=place)
                else:
                    yield triplet_from_row(
                        _row(root, path, sample, row), id=checked_id(sample.key), place=place, media=media
                    )
            except RejectedError as error:
                yield spec.reject(error.reason, place=place, id=sample.key, detail=error.detail)


WEBDATASET: Final = SourceFormat(
    claim=_claim,
    read=_read,
    needs=(Needs(("tar",), ((A_MEDIUM,), ("txt", "json"))),),
)


def _media(path: str, sample: TarSample) -> tuple[MediaRef, ...]:
    media = []
    for suffix, member in sorted(sample.files, key=lambda file: file[0]):
        kind = named_kind(f"x.{suffix}")
        if kind is not None:
            place = InTar(path, member.offset, member.size)
            media.append(MediaRef(kind=kind, parts=(place,), origin=f"{path}#{member.name}"))
    if not media:
        raise RejectedError("missing_file", f"the sample {sample.key!r} has no picture and no clip")
    return tuple(media)


def _json(root: Root, path: str, sample: TarSample) -> dict[str, Any]:
    member = sample.file("json")
    if member is None:
        return {}
    row = parsed(read_member(root, path, member, most=MAX_RECORD_BYTES))
    if not isinstance(row, dict):
        raise RejectedError("malformed", f"{member.name!r} must hold a JSON object")
    return row


def _row(root: Root, path: str, sample: TarSample, row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a triplet, from the ``.json`` alone where it has an answer, else with the caption for one."""
    fields = {key: value for key, value in row.items() if key not in _IDS}
    if "answer" in row:
        return fields
    caption = fields.pop(_CAPTION, None)
    member = sample.file("txt")
    if member is not None:
        text = read_member(root, path, member, most=_MAX_CAPTION_BYTES)
        try:
            answer: object = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise RejectedError("malformed", f"{member.name!r} is not UTF-8: {error.reason}") from None
    elif _CAPTION in row:
        answer = caption
    else:
        raise RejectedError("missing_sidecar", f"the sample {sample.key!r} has no text: no .txt, no caption in a .json")
    # The other fields describe the picture: none of them is a field of ours, whatever its name.
    return {"answer": answer, "meta": fields or None}


def _talk(
    spec: SourceSpec, row: Mapping[str, Any], media: tuple[MediaRef, ...], *, id: str, place: str
) -> Iterator[RawTriplet | Reject]:
    turns = turns_of(row)
    try:
        free = {key: value for key, value in row.items() if key not in {*TALK_KEYS, *_IDS}}
        meta = checked_meta(free | system_text(row))
    except RejectedError as error:
        yield from rejected_turns(spec, turns, error, id=id, place=place)
    else:
        yield from talk_triplets(
            spec, turns, media=media, meta=meta, id=checked_id(id), place=place, placeholders_needed=False
        )
