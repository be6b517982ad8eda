"""``manifest.json``: written last, so a folder that has one is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson

from mimicit.errors import CorruptShardError, SchemaError, ShardError, UnfinishedError
from mimicit.schema import validate
from mimicit.shards.files import read_regular

MANIFEST_NAME: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 64 << 20
"""Room for a quarter of a million shards."""

WORK_NAME: Final = ".mimicit-work"
"""The folder in which an unfinished build keeps its state, inside the output folder."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder, checked against its schema.

    `UnfinishedError` if a build was interrupted, `ShardError` if this is not a shard folder at all,
    `CorruptShardError` if the manifest itself is damaged.
    """
    path = folder / MANIFEST_NAME
    try:
        data = read_regular(path, most=MAX_MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        if (folder / WORK_NAME).is_dir():
            raise UnfinishedError(
                f"{folder}: unfinished build; run the same mimicit build again to finish it"
            ) from None
        raise ShardError(f"{folder}: no {MANIFEST_NAME}; give a folder that mimicit build has written") from None
    except OSError as error:
        raise CorruptShardError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_manifest(data, str(path))


def parse_manifest(data: bytes, where: str) -> dict[str, Any]:
    """The manifest in ``data``, checked against its schema; `CorruptShardError` names ``where``."""
    try:
        value: dict[str, Any] = orjson.loads(data)
        validate("manifest", value)
    except (orjson.JSONDecodeError, SchemaError) as error:
        raise CorruptShardError(f"{where}: {error}; build the folder again") from None
    return value
