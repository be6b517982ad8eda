"""The claim of formats whose sources are single JSON files, recognised by the fields of their first records.

What ``mimicit annotate`` leaves around the manifest that it writes is neither data nor reported as unused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final

from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Claim, SourceSpec
from mimicit.sources.sniff import Fields, Head, HeadKind

_BESIDE: Final = ("rejects.jsonl", "report.html")
_ORIGINAL: Final = "media"
_STAMPS: Final = ("recipe_sha256", "request")


def claim_files(
    format: str, why: str, fits: Callable[[Root, str, Fields], bool], kinds: Collection[HeadKind] = ("array", "lines")
) -> Claim:
    """A claim that takes every file of one of the ``kinds`` for a source if it ``fits``, or if the format is named."""

    def claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
        specs = []
        for path, head in sorted(heads.items()):
            is_own = head.kind in kinds and (force or head.any(partial(fits, root, path)))
            if is_own or (force and head.kind == "text"):
                beside, made_from = around_annotated(heads, path)
                specs.append(
                    SourceSpec(
                        name=path.rpartition(".")[0] or path,
                        format=format,
                        files=(path,),
                        why=why + (" (named by --format)" if force else ""),
                        beside=beside,
                        made_from=made_from,
                    )
                )
        return specs

    return claim


def is_annotated(fields: Fields) -> bool:
    """Whether a record states the recipe and the request by which it was written."""
    return any(all(f"{where}{stamp}" in fields for stamp in _STAMPS) for where in ("", "meta."))


def around_annotated(heads: Mapping[str, Head], path: str) -> tuple[tuple[str, ...], str]:
    """For the file at ``path``: the files that only describe its run, and the folder that it was written from.

    Both are empty if the file was not written by ``mimicit annotate``.
    """
    if path.rpartition("/")[2] != "manifest.jsonl" or not heads[path].any(is_annotated):
        return (), ""
    folder = folder_of(path)
    beside = tuple(name for name in (f"{folder}/{known}".lstrip("/") for known in _BESIDE) if name in heads)
    return beside, f"{folder}/{_ORIGINAL}/".lstrip("/")
