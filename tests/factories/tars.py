"""Tar files as other programs write them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.factories.sources import put


def packed(members: Iterable[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=format) as archive:
        for name, payload in members:
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))
    return data.getvalue()


def put_tar(root: Path, path: str, members: Iterable[tuple[str, Any]]) -> Path:
    """A tar of (name, content) under ``root``: bytes as they are, text in UTF-8, any other value as JSON."""
    return put(root, path, packed((name, _bytes(content)) for name, content in members))


def _bytes(content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else json.dumps(content)).encode()
