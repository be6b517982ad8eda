"""A `Summary` or a `Sample` as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mimicit.inspecting.summary import Summary, top
from mimicit.prompt import render
from mimicit.records import Sample

__all__ = ["printable", "sample_text", "summary_text"]

_BAR = 40


def printable(text: str) -> str:
    """``text`` without control characters, which could drive a terminal; line breaks and tabs stay."""
    return "".join(c if c in "\n\t" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def summary_text(summary: Summary) -> str:
    """The summary as lines: totals, then counts with bars, then the first prompts."""
    lines = [
        f"{summary.path}",
        f"  {summary.samples:,} samples, {summary.triplets:,} triplets, {summary.media.total():,} media"
        f" in {summary.files.total():,} files, {summary.bytes:,} bytes in {summary.shards} shard(s)",
    ]
    if summary.manifest is not None and summary.manifest["totals"]["rejects"]:
        lines.append(f"  {summary.manifest['totals']['rejects']:,} rejects (mimicit rejects says why)")
    lines += _block("source", top(summary.sources, 8))
    lines += _block("media", summary.media.most_common())
    lines += _block("size in pixels", top(summary.sizes, 6))
    lines += _block("context relation", summary.relations.most_common())
    lines += _block("context triplets", ((str(n), summary.context[n]) for n in sorted(summary.context)))
    classes = sorted(summary.text_lengths)
    lines += _block(
        "characters per triplet", ((f"{least:,} and more", summary.text_lengths[least]) for least in classes)
    )
    for key, prompt in summary.previews:
        lines += ["", f"sample {key}", *(f"  {line}" for line in printable(prompt).splitlines())]
    return "\n".join(lines)


def sample_text(sample: Sample, origins: Sequence[Sequence[str]] = ()) -> str:
    """One sample in full: its media, with all ``origins`` of each where they are known, its triplets and its prompt."""
    lines = [f"key     {sample.key}", f"id      {sample.id}", f"source  {sample.source}"]
    for number, media in enumerate(sample.media):
        times = f", at {', '.join(f'{t:g}' for t in media.timestamps_s)} s" if media.timestamps_s else ""
        frames = f", {len(media.files)} frames of {media.duration_s:g} s" if media.duration_s is not None else ""
        lines.append(f"media[{number}]  {media.kind} {media.width}x{media.height}{frames}{times}  {media.origin}")
        lines += [f"  also from  {origin}" for origin in (origins[number][1:] if origins else ())]
    for triplet in sample.triplets:
        why = (
            f" ({triplet.relation}{'' if triplet.score is None else f', {triplet.score:.3f}'})"
            if triplet.relation
            else ""
        )
        shown = f", shows media {list(triplet.media)}" if triplet.media else ""
        lines += ["", f"{triplet.role}{why} {triplet.id}{shown}"]
        lines += [f"  instruction: {triplet.instruction}", f"  answer:      {triplet.answer}"]
    lines += ["", "prompt", f"  {render(sample)}"]
    if sample.meta:
        lines += ["", f"meta  {dict(sample.meta)}"]
    return printable("\n".join(lines))


def _block(title: str, rows: Iterable[tuple[str, int]]) -> Iterator[str]:
    counted = list(rows)
    if not counted:
        return
    most = max(count for _, count in counted)
    width = max(len(name) for name, _ in counted)
    yield ""
    yield title
    for name, count in counted:
        yield f"  {printable(name):<{width}}  {count:>10,}  {'#' * (_BAR * count // most)}".rstrip()
