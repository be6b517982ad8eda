"""Samples as the rows of an Arrow table that `datasets` reads: the columns mirror `Sample`, and nothing is lost.

=============  =========================================================================================================
column         holds
=============  =========================================================================================================
``id``         `Sample.id`
``source``     `Sample.source`
``media``      the stored pictures, and the frames of clips one after the other: ``Image`` to `datasets`
``triplets``   `Sample.triplets`; their ``media`` are places in the column ``media``: for a clip, one for each frame
``media_info`` the fields of `Media` for each picture or clip, without its bytes; one ``sha256`` for each file
``meta``       `Sample.meta` as JSON text: its fields differ from sample to sample
``videos``     if asked for, each clip as a file: ``Video`` to `datasets`
=============  =========================================================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson

from mimicit.records import FORMAT, Sample, sample_from_json
from mimicit.schema import canonical_json, validate

if TYPE_CHECKING:
    import pyarrow as pa

Picture = Mapping[str, bytes | str | None]
"""A picture of the column ``media``, as `datasets` keeps it: ``{"bytes": ..., "path": ...}``, either may be None."""

PICTURES: Final = "media"
VIDEOS: Final = "videos"
_VIDEO: Final = {"feature": {"_type": "Video"}, "_type": "Sequence"}  # clips look like pictures by their type
COLUMNS: Final = ("id", "source", PICTURES, "triplets", "media_info", "meta")
"""The columns of every such table; it may also have `VIDEOS`, which repeats the frames of clips as files."""


@functools.cache
def table_schema(*, videos: bool = False) -> pa.Schema:
    """The columns, with the features of `datasets` in the metadata."""
    import pyarrow as pa  # takes a quarter of a second, and reading rows does not need it

    picture = picture_type()
    triplet = pa.struct(
        [
            ("id", pa.string()),
            ("role", pa.string()),
            ("media", pa.list_(pa.int32())),
            ("instruction", pa.string()),
            ("answer", pa.string()),
            ("relation", pa.string()),
            ("score", pa.float64()),
        ]
    )
    medium = pa.struct(
        [
            ("kind", pa.string()),
            ("width", pa.int64()),
            ("height", pa.int64()),
            ("sha256", pa.list_(pa.string())),
            ("origin", pa.string()),
            ("timestamps_s", pa.list_(pa.float64())),
            ("duration_s", pa.float64()),
        ]
    )
    text = pa.string()
    types = (text, text, pa.list_(picture), pa.list_(triplet), pa.list_(medium), text)
    fields = dict(zip(COLUMNS, types, strict=True))
    if videos:
        fields[VIDEOS] = pa.list_(picture)
    return datasets_schema(fields, {VIDEOS: _VIDEO} if videos else {})


def datasets_schema(fields: Mapping[str, pa.DataType], features: Mapping[str, Any] | None = None) -> pa.Schema:
    """Columns of these types, with what they are to `datasets` in the metadata: pictures are ``Image`` there.

    ``features`` says it for columns that are something else than their type tells.
    """
    import pyarrow as pa

    known = {name: _feature(type) for name, type in fields.items()} | dict(features or {})
    return pa.schema(list(fields.items()), metadata={"huggingface": orjson.dumps({"info": {"features": known}})})


def _feature(type: pa.DataType) -> Any:
    import pyarrow as pa

    if type == picture_type():  # it would be a plain struct of bytes otherwise
        return {"_type": "Image"}
    if pa.types.is_list(type):
        inner = _feature(type.value_type)
        return [inner] if "_type" not in inner else {"feature": inner, "_type": "Sequence"}
    if pa.types.is_struct(type):
        return {field.name: _feature(field.type) for field in type}
    return {"dtype": {"double": "float64"}.get(str(type), str(type)), "_type": "Value"}


def picture_type() -> pa.DataType:
    """A picture as `datasets` keeps it: its bytes and its path."""
    import pyarrow as pa  # takes a quarter of a second, and reading rows does not need it

    return pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def row_of_sample(sample: Sample, pictures: Iterable[Picture]) -> dict[str, Any]:
    """The row of ``sample``, whose stored files are ``pictures`` in the order of the media."""
    places: list[range] = []
    for medium in sample.media:
        start = places[-1].stop if places else 0
        places.append(range(start, start + len(medium.files)))
    return {
        "id": sample.id,
        "source": sample.source,
        PICTURES: list(pictures),
        "triplets": [
            {
                "id": triplet.id,
                "role": triplet.role,
                "media": [place for number in triplet.media for place in places[number]],
                "instruction": triplet.instruction,
                "answer": triplet.answer,
                "relation": triplet.relation,
                "score": triplet.score,
            }
            for triplet in sample.triplets
        ],
        "media_info": [
            {
                "kind": medium.kind,
                "width": medium.width,
                "height": medium.height,
                "sha256": medium.sha256,
                "origin": medium.origin,
                "timestamps_s": medium.timestamps_s,
                "duration_s": medium.duration_s,
            }
            for medium in sample.media
        ],
        "meta": canonical_json(dict(sample.meta)).decode(),
    }


def embedded_pictures(sample: Sample) -> list[Picture]:
    """The files of ``sample`` with their bytes, which must have been read, under names made of their checksums."""
    return [
        {"bytes": data, "path": f"{digest}.{file.rpartition('.')[2]}"}
        for medium in sample.media
        for file, digest, data in zip(medium.files, medium.sha256, medium.data, strict=True)
    ]


def sample_of_row(row: Mapping[str, Any]) -> Sample:
    """The sample of a row, the inverse of `row_of_sample`; its media have bytes if all pictures of the row do.

    Raises `SchemaError`, `ValueError` (``meta`` is not JSON), `LookupError` or `TypeError` if it is not such a row.
    """
    pictures: Sequence[Any] = row.get(PICTURES) or ()
    media: list[dict[str, Any]] = []
    number_of: list[int] = []  # for each picture, the number of its medium
    for number, info in enumerate(row["media_info"]):
        start = len(number_of)
        number_of += [number] * len(info["sha256"])
        files = [f"{place:03d}.{_extension(pictures, place)}" for place in range(start, len(number_of))]
        media.append({**{name: value for name, value in info.items() if value is not None}, "files": files})
    value = {
        "format": FORMAT,
        "id": row["id"],
        "source": row["source"],
        "media": media,
        "triplets": [
            {
                **{name: entry for name, entry in triplet.items() if entry is not None},
                "media": list(dict.fromkeys(number_of[place] for place in triplet["media"])),
            }
            for triplet in row["triplets"]
        ],
        "meta": orjson.loads(row["meta"]),
    }
    validate("sample", value)
    data: list[list[bytes]] | None = None
    if pictures and all(isinstance(picture, Mapping) and picture.get("bytes") is not None for picture in pictures):
        ahead = iter(pictures)
        data = [[next(ahead)["bytes"] for _ in medium["files"]] for medium in media]
    return sample_from_json(value, data)


def _extension(pictures: Sequence[Any], place: int) -> str:
    """The extension of a stored file by its first bytes, else by its path; ``jpg`` if neither is known."""
    picture = pictures[place] if place < len(pictures) else None
    data, path = (picture.get("bytes"), picture.get("path")) if isinstance(picture, Mapping) else (None, None)
    if data:
        return "png" if data.startswith(b"\x89PNG") else "webp" if data.startswith(b"RIFF") else "jpg"
    ending = (path or "").rpartition(".")[2]
    return ending if ending in ("png", "webp") else "jpg"
