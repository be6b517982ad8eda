"""Which sources a folder holds. Each format in turn claims what it recognises by content, in the order of `SOURCES`.

Costs one look at the beginning of every file that is no picture, clip or caption, and a few hundred bytes of memory
per file. The result depends on the files alone, not on where the folder lies or in what order it is listed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mimicit.errors import RejectedError, UsageError
from mimicit.sources.files.media_names import named_kind
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.registry import SOURCES
from mimicit.sources.sniff import Head, sniff

_MAX_NAME = 80
_NOT_IN_NAME = re.compile(r"[^a-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What was found beneath the root; all sorted.

    ``unused`` are the files that no source is made of. Pictures and clips are not among them: whether a record uses
    them is known only once the records have been read; ``loose_media`` is the number of pictures and clips that no
    ``folder`` source holds. ``unnamed_media`` are pictures and clips by their contents, but not by their names.
    ``skipped`` are (path, why) of links, special files and files that cannot be opened or named.
    """

    sources: tuple[SourceSpec, ...]
    unused: tuple[str, ...]
    loose_media: int
    unnamed_media: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def detect(root: Root, *, format: str | None = None) -> Detection:
    """Find the sources beneath ``root``.

    With a ``format``, every text and table file that can be read as that format at all is taken for it, whatever it
    looks like. `UsageError` if there is no such format.
    """
    if format is not None and format not in SOURCES:
        raise UsageError(f"--format: no format {format!r}; there are: {', '.join(sorted(SOURCES))}")
    skipped: list[tuple[str, str]] = []
    heads = _heads(root, skipped)
    described = {path: head for path, head in heads.items() if head.kind not in ("image", "video")}
    sources: list[SourceSpec] = []
    by_record = [(name, taken, False) for name, taken in SOURCES.items() if taken.by_record]
    for name, source_format, of_most in [(name, taken, taken.by_record) for name, taken in SOURCES.items()] + by_record:
        if format in (None, name):
            # A format with ``by_record`` first claims files most of whose records are its own, and in a second round
            # files in which any record is: so a stray record of one format does not decide what a file is.
            seen = heads if source_format.of_media else described
            if of_most:
                seen = {path: head.of_most() for path, head in seen.items()}
            found = source_format.claim(root, seen, force=format is not None)
            for spec in found:
                for path in (*spec.files, *spec.beside):
                    heads.pop(path, None)
                    described.pop(path, None)
            sources.extend(found)
    return Detection(
        sources=tuple(sorted(_named(sources), key=lambda spec: spec.name)),
        unused=tuple(described),
        loose_media=len(heads) - len(described),
        unnamed_media=tuple(path for path in heads if path not in described and named_kind(path) is None),
        skipped=tuple(sorted(skipped)),
    )


def _heads(root: Root, skipped: list[tuple[str, str]]) -> dict[str, Head]:
    """The head of every file, sorted by path. Equal heads are one object: a million sidecars look alike."""
    heads: dict[str, Head] = {}
    known: dict[tuple[object, ...], Head] = {}
    paths = sorted(path for path, _ in root.walk(lambda path, why: skipped.append((path, why))))
    for path in paths:
        try:
            head = sniff(root, path)
        except RejectedError as error:
            skipped.append((path, error.detail))
        else:
            shapes = (tuple(shape.items()) for shape in head.shapes)
            heads[path] = known.setdefault((head.kind, head.counts, *shapes), head)
    return heads


def _named(specs: Sequence[SourceSpec]) -> list[SourceSpec]:
    """The specs with unique slugs.

    A slug is the last step of the path that a spec is named after, with as many of the folders above it as are needed
    to make it unique, and with a hash if even the whole path is not unique.
    """
    steps = [1] * len(specs)
    names = [_slug(spec.name, 1) for spec in specs]
    for _ in range(max((spec.name.count("/") for spec in specs), default=0)):
        count = Counter(names)
        steps = [taken + (count[name] > 1) for taken, name in zip(steps, names, strict=True)]
        names = [_slug(spec.name, taken) for spec, taken in zip(specs, steps, strict=True)]
    count = Counter(names)
    return [
        replace(spec, name=name if count[name] == 1 else _with_hash(name, spec))
        for spec, name in zip(specs, names, strict=True)
    ]


def _with_hash(name: str, spec: SourceSpec) -> str:
    digest = hashlib.blake2b("\0".join((spec.format, *spec.files)).encode(), digest_size=4).hexdigest()
    return f"{name[: _MAX_NAME - len(digest) - 1]}-{digest}"


def _slug(path: str, steps: int) -> str:
    joined = "-".join(path.split("/")[-steps:]).lower()
    return _NOT_IN_NAME.sub("-", joined).strip("-")[:_MAX_NAME] or "source"
