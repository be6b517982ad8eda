"""A `Comparison` as text for a terminal, in the manner of diff: ``-`` is a, ``+`` is b."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mimicit.inspecting.compare import Change, Comparison, SampleName
from mimicit.inspecting.text import printable

__all__ = ["comparison_text"]

_LONGEST_VALUE = 60


def comparison_text(comparison: Comparison) -> str:
    """The comparison as lines: configuration, counts, then samples by source and the first of each kind."""
    lines = [f"- {comparison.a}", f"+ {comparison.b}"]
    if comparison.equal:
        lines.append(f"  the same: {comparison.samples['same']:,} samples, byte for byte")
        return printable("\n".join(lines))
    lines += _changes("configuration", comparison.configuration)
    lines += _changes("counts", comparison.counts)
    counts = comparison.samples
    lines += ["", f"samples: {counts['same']:,} the same, {counts['changed']:,} changed,"
              f" {counts['lost']:,} lost, {counts['gained']:,} gained"]  # fmt: skip
    for source, found in sorted(comparison.sources.items()):
        if found["changed"] or found["lost"] or found["gained"]:
            lines.append(
                f"  {source}: {found['changed']:,} changed, {found['lost']:,} lost, {found['gained']:,} gained"
            )
    for sign, what, names in (("~", "changed", comparison.changed), ("-", "lost", comparison.lost),
                              ("+", "gained", comparison.gained)):  # fmt: skip
        lines += _names(sign, names, counts[what])
    if not (counts["changed"] or counts["lost"] or counts["gained"] or comparison.same_bytes):
        lines.append("  the same samples, in another order or in other shards")
    return printable("\n".join(lines))


def _changes(title: str, changes: list[Change]) -> Iterator[str]:
    if changes:
        yield ""
        yield title
        width = max(len(change.name) for change in changes)
        for change in changes:
            yield f"  {change.name:<{width}}  {_short(change.a)} -> {_short(change.b)}"


def _names(sign: str, names: list[SampleName], count: int) -> Iterator[str]:
    for name in names:
        parts = f": {', '.join(name.parts)}" if name.parts else ""
        yield f"{sign} {name.source} {name.id} ({name.key}){parts}"
    if count > len(names) > 0:
        yield f"{sign} ... and {count - len(names):,} more (--limit)"


def _short(value: Any) -> str:
    text = "(none)" if value is None else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
