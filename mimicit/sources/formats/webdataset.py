"""WebDataset shards of pictures and texts, as img2dataset and many others write them: tar files of samples.

A sample is the members whose names are the same up to the first dot (see `tar_samples`): ``00001.jpg``, ``00001.txt``,
``00001.json``.

- Pictures: every member with the extension of a picture or clip, shown in the order of the tar; or only those that the
  option ``pictures`` names.
- ``.json`` with a conversation, an ``answer``, or a question that it answers, is a record as anywhere (see `rows`).
- Otherwise ``.txt`` is the caption, or else ``.text``, ``.caption``, the ``caption`` of the ``.json``, or the class in
  ``.cls``. Its instruction comes from a fixed pool, picked by a hash of the id. The fields of the ``.json`` go to
  ``meta``; other members are ignored.
- The id is the name of the tar and the common name with its folder: ``00000.tar/00001``. So tars may use the same
  names, and no id changes when another tar is added to the folder. ``related`` names samples of the same tar.

The tars of one folder are one source; what img2dataset writes about its downloads may lie next to them. A sample
without a picture or clip, or without a text, is a reject.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, BinaryIO, Final

from mimicit.errors import RejectedError
from mimicit.options import option
from mimicit.sources.containers.json_rows import MAX_RECORD_BYTES, located_text, parsed
from mimicit.sources.containers.tar_members import TarMember, open_tar
from mimicit.sources.containers.tar_samples import TarSample, read_member, tar_samples
from mimicit.sources.containers.unpacked import as_utf8, encoding_of
from mimicit.sources.files.media_names import folder_of, named_kind
from mimicit.sources.files.root import Root
from mimicit.sources.format import A_MEDIUM, Needs, SourceFormat, SourceSpec
from mimicit.sources.items import InTar, Item, Locate, MediaRef, RawTriplet, Row
from mimicit.sources.records.column_names import columns_of
from mimicit.sources.records.pieces import split_files
from mimicit.sources.records.row_media import MediaFinder
from mimicit.sources.records.rows import PlaceholderOptions, RowReader, describes_itself
from mimicit.sources.records.text import MAX_TEXT_CHARACTERS
from mimicit.sources.sniff import Fields, Head

_MAX_CAPTION_BYTES: Final = 4 * MAX_TEXT_CHARACTERS
_TEXTS: Final = ("txt", "text", "caption")
_CLASS: Final = "cls"
_IDS: Final = frozenset({"id", "key", "__key__"})
_DOWNLOADS: Final = frozenset({"url", "key", "status"})
_MOST_SUFFIXES: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class WebdatasetOptions(PlaceholderOptions):
    """What is shown, and what the numbers in ``.cls`` mean."""

    pictures: tuple[str, ...] = option((), "Suffixes of the members to show, such as jpg, or patterns such as *.jpg.")
    classes: tuple[str, ...] = option((), "Names of the classes that .cls numbers from 0.")


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
            why=_why([heads[path] for path in paths]) + (" (named by --format)" if force else ""),
            beside=tuple(_of_downloads(paths, heads)),
        )
        for folder, paths in folders.items()
    ]


def _fits(fields: Fields) -> bool:
    """Whether the sample has a picture or clip, and something that may hold its text."""
    suffixes = {name.rpartition(".")[2] for name in fields if not name.startswith("json.")}
    return not {"image", "video"}.isdisjoint(fields.values()) and not suffixes.isdisjoint((*_TEXTS, _CLASS, "json"))


def _why(heads: list[Head]) -> str:
    """The number of tars, and the suffixes in their heads that are taken for pictures or clips."""
    shapes = [fields for head in heads for fields in head.shapes]
    media = dict.fromkeys(name for fields in shapes for name, kind in fields.items() if kind in ("image", "video"))
    shown = ", ".join(f".{suffix}" for suffix in list(media)[:_MOST_SUFFIXES]) + ", ..." * (len(media) > _MOST_SUFFIXES)
    return f"{len(heads)} tar of samples; for pictures or clips are taken {shown or 'none'}"


def _of_downloads(tars: list[str], heads: Mapping[str, Head]) -> Iterator[str]:
    """What img2dataset writes next to each of the tars: its statistics, and the table of its downloads."""
    for path in tars:
        stem = path.rpartition(".")[0]
        if f"{stem}_stats.json" in heads:
            yield f"{stem}_stats.json"
        if f"{stem}.parquet" in heads and heads[f"{stem}.parquet"].fields.keys() >= _DOWNLOADS:
            yield f"{stem}.parquet"


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    options = WebdatasetOptions(**spec.options)  # type: ignore[arg-type]
    names = tuple(f"{path.rpartition('/')[2]}/" for path in spec.files)
    for path in spec.paths:
        prefix = f"{path.rpartition('/')[2]}/"
        reader = RowReader(
            spec=spec,
            finder=MediaFinder(root, folder_of(path)),
            own_media=True,
            id_fields=(),
            require_placeholders=bool(options.require_placeholders),
        )
        with open_tar(root, path) as tar:
            for sample in tar_samples(root, path):
                if isinstance(sample, RejectedError):
                    yield spec.reject(sample.reason, place=path, detail=sample.detail, scope="media")
                    continue
                place, id = sample.place(path), prefix + sample.key
                try:
                    row = _row(tar, path, sample, options)
                    for item in reader.items_of(row, id=id):
                        yield _of_tar(item, prefix, names) if isinstance(item, RawTriplet) else item
                except RejectedError as error:
                    yield spec.reject(error.reason, place=place, id=id, detail=error.detail)


def _row(tar: BinaryIO, path: str, sample: TarSample, options: WebdatasetOptions) -> Row:
    """The record of ``sample`` of the open ``tar`` at ``path``."""
    if sample.fault:
        raise RejectedError("duplicate_id", sample.fault)
    media = _media(path, sample, options)
    fields, locate = _json(tar, path, sample)
    if not describes_itself(fields):
        fields = _captioned(tar, sample, fields, options)
    return Row(sample.place(path), fields, locate, media)


WEBDATASET: Final = SourceFormat(
    claim=_claim,
    read=_read,
    split=split_files,
    ids_repeat=True,
    options=WebdatasetOptions,
    needs=(Needs(("tar",), ((A_MEDIUM,), (*_TEXTS, _CLASS, "json"))),),
)


def _media(path: str, sample: TarSample, options: WebdatasetOptions) -> tuple[MediaRef, ...]:
    media = []
    for suffix, member in sample.files:
        kind = named_kind(f"x.{suffix}")
        is_asked_for = not options.pictures or any(fnmatchcase(suffix, name) for name in options.pictures)
        if kind is not None and is_asked_for:
            place = InTar(path, member.offset, member.size)
            media.append(MediaRef(kind=kind, parts=(place,), origin=f"{path}#{member.name}"))
    if not media:
        which = f", none of {', '.join(options.pictures)}" if options.pictures else " and no clip"
        raise RejectedError("missing_file", f"the sample {sample.key!r} has no picture{which}")
    return tuple(media)


def _of_tar(triplet: RawTriplet, prefix: str, names: tuple[str, ...]) -> RawTriplet:
    """``triplet`` with its related ids taken as samples of its own tar, unless they begin with one of ``names``."""
    related = (name if name.startswith(names) else prefix + name for name in triplet.related)
    return triplet._replace(related=tuple(related))


def _json(tar: BinaryIO, path: str, sample: TarSample) -> tuple[dict[str, Any], Locate | None]:
    """The fields of the ``.json`` of the sample, without its ids, and how to locate its texts, if that is possible."""
    member = sample.file("json")
    if member is None:
        return {}, None
    raw = read_member(tar, member, most=MAX_RECORD_BYTES)
    try:
        text = as_utf8(raw)
    except UnicodeDecodeError as error:
        raise RejectedError("malformed", f"{member.name!r} is not {error.encoding.upper()}: {error.reason}") from None
    row = parsed(text)
    if not isinstance(row, dict):
        raise RejectedError("malformed", f"{member.name!r} must hold a JSON object")
    fields = {key: value for key, value in row.items() if key not in _IDS}
    if encoding_of(raw):
        return fields, None
    return fields, partial(located_text, path, member.offset + len(raw) - len(text), text)


def _captioned(tar: BinaryIO, sample: TarSample, fields: dict[str, Any], options: WebdatasetOptions) -> dict[str, Any]:
    """The fields of a record whose answer is the caption, with the fields of the ``.json`` as its meta."""
    member = next(filter(None, map(sample.file, _TEXTS)), None)
    number = sample.file(_CLASS)
    named = next((name for name in columns_of(fields).captions if name != "label"), None)
    if member is not None:
        fields.pop("caption", None)
        caption: object = _text(tar, member)
    elif named is not None:
        caption = fields.pop(named)
    elif number is not None:
        caption = _class_name(_text(tar, number).strip(), number, options)
    else:
        raise RejectedError("missing_sidecar", f"the sample {sample.key!r} has no text: no .txt, no caption in a .json")
    # The other fields are not ours, whatever their names.
    return {"caption": caption, "meta": fields or None}


def _text(tar: BinaryIO, member: TarMember) -> str:
    text = read_member(tar, member, most=_MAX_CAPTION_BYTES)
    try:
        return as_utf8(text).decode()
    except UnicodeDecodeError as error:
        raise RejectedError("malformed", f"{member.name!r} is not {error.encoding.upper()}: {error.reason}") from None


def _class_name(text: str, member: TarMember, options: WebdatasetOptions) -> str:
    """The name of the class with the number ``text``; a text that is not a number is the name itself."""
    if not (text.isascii() and text.isdigit()):
        return text
    number = int(text) if len(text) < 10 else len(options.classes)
    if number < len(options.classes):
        return options.classes[number]
    known = f"webdataset.classes has {len(options.classes)} names" if options.classes else "no class has a name"
    fix = "give all names in order: --option webdataset.classes=cat,dog"
    raise RejectedError("malformed", f"{member.name!r} says class {text[:20]}, but {known}; {fix}")
