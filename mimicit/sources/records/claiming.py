"""The claim of formats whose sources are single JSON files that are known by the fields of their first record."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

from mimicit.sources.annotated import around_annotated
from mimicit.sources.files.root import Root
from mimicit.sources.format import Claim, SourceSpec
from mimicit.sources.sniff import Fields, Head, HeadKind

__all__ = ["claim_files"]


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
