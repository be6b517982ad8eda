"""From outcomes to ``manifest.jsonl``, ``rejects.jsonl`` and ``report.html``, in the order of the records, or nothing.

Two passes over the outcomes on disk: the first applies the gates that look across pairs, and counts; the second writes,
once it is known which pairs can be related. Media stay where they lie: the manifest names them through a link ``media``
to ``--src``, and ``mimicit.toml`` tells ``mimicit build`` to follow it. A medium inside another file (a tar, a table)
is copied to ``pictures/`` as it is.

The report has counts by gate, and examples of kept and dropped pairs with their pictures. It is one file that needs
nothing else, neither scripts nor a network; all text in it is escaped.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined

from mimicit.annotating.asking import RECORD_REASONS, Outcome
from mimicit.annotating.asking import Dropped as DroppedPair
from mimicit.annotating.gates import PAIR_REASONS, Alike, repeats_in_record
from mimicit.annotating.pictures import Pictures
from mimicit.annotating.recipe import Recipe
from mimicit.annotating.records import Dropped
from mimicit.annotating.wording import Job
from mimicit.errors import AnnotateError, RejectedError
from mimicit.media.sniff import HEAD_BYTES, sniff
from mimicit.schema import canonical_json
from mimicit.shards.files import publish, write_atomically
from mimicit.sources.files.reading import Reader
from mimicit.sources.files.root import Root
from mimicit.sources.items import InFile, Locator, MediaRef

LINK_NAME: Final = "media"
PICTURES_NAME: Final = "pictures"
_EXTENSIONS: Final = {"jpeg": "jpg", "matroska": "mkv", "mpegts": "ts", "ogg": "ogv", "asf": "wmv", "mpeg": "mpg"}
_SHOWN: Final = "<image>\n"

_KEPT: Final = 12
_OF_A_REASON: Final = 3
_THUMBNAIL: Final = 160  # pixels
_CHARACTERS: Final = 1500


@dataclass(slots=True)
class Counts:
    """What came of a run. ``jobs = written + rejected``, and ``pairs = kept + dropped``."""

    jobs: int = 0
    written: int = 0
    rejected: int = 0
    pairs: int = 0
    kept: int = 0
    dropped: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    pair_reasons: Counter[str] = field(default_factory=Counter)


class Outcomes:
    """Outcomes in the new file ``path``, added in any order, read in that of their jobs; 8 bytes of memory each."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._file = path.open("x+b", buffering=1 << 20)
        self._places = array("q")

    def add(self, number: int, outcome: Outcome) -> None:
        """Keep the outcome of the job of this ``number``, from 0."""
        self._places.extend([-1] * (number + 1 - len(self._places)))
        self._places[number] = self._file.tell()
        self._file.write(orjson.dumps(outcome.to_json()) + b"\n")

    def __iter__(self) -> Iterator[Outcome]:
        self._file.flush()
        with open(self._file.name, "rb") as file:
            for place in self._places:
                file.seek(place)
                yield Outcome.from_json(orjson.loads(file.readline()))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def decide(outcomes: Iterable[Outcome], recipe: Recipe, decided: Outcomes) -> Counts:
    """Apply the gates across pairs, in order; the outcomes, which are then final, go to ``decided``."""
    counts, alike = Counts(), Alike(recipe.gates.most_alike)
    for number, outcome in enumerate(outcomes):
        pairs, outcome.pairs = outcome.pairs, []
        scores, outcome.scores = outcome.scores or [0.0] * len(pairs), []
        was_judged = any(scores)
        for pair, score in zip(pairs, scores, strict=True):
            if repeats_in_record(pair, outcome.pairs):
                fault = ("duplicate", "another pair of this record says nearly the same")
            elif not pair.choices and alike.is_too_much(pair.answer):
                fault = ("too_alike", f"more than {recipe.gates.most_alike} answers are nearly the same")
            else:
                outcome.pairs.append(pair)
                outcome.scores += [score] if was_judged else []
                continue
            outcome.dropped.append(DroppedPair(*fault, pair.instruction, pair.answer))
        if not outcome.pairs and not outcome.reason:
            reasons = Counter(one.reason for one in outcome.dropped)
            outcome.reason, outcome.detail = "no_pair_left", f"dropped: {_in_words(reasons)}"
        counts.jobs += 1
        counts.written += bool(outcome.pairs)
        counts.rejected += not outcome.pairs
        counts.kept += len(outcome.pairs)
        counts.dropped += len(outcome.dropped)
        counts.pair_reasons.update(one.reason for one in outcome.dropped)
        counts.reasons.update([outcome.reason] if outcome.reason else [])
        decided.add(number, outcome)
    counts.pairs = counts.kept + counts.dropped
    return counts


def write_manifest(
    out: Path,
    root: Root,
    recipe: Recipe,
    model: str,
    jobs: Callable[[], Iterable[tuple[str, Job | None]]],
    decided: Outcomes,
    dropped_input: Iterable[Dropped],
) -> None:
    """Write what `decide` left; ``jobs`` gives all jobs with their ids, in order (None: the record could not be made).

    ``dropped_input`` are records of the input that were never asked about.
    `AnnotateError` if something other than our link is at ``media``, `OSError` from the disk.
    """
    kept = array("H", (len(outcome.pairs) for outcome in decided))
    ids = [id for id, _ in jobs()] if recipe.neighbours else []
    files = _MediaFiles(out, root)
    meta = {"recipe": recipe.name, "recipe_sha256": recipe.fingerprint, "model": model}
    with ExitStack() as stack:
        stack.callback(files.close)
        manifest = stack.enter_context(publish(out / "manifest.jsonl", out / ".manifest.tmp"))
        rejects = stack.enter_context(publish(out / "rejects.jsonl", out / ".rejects.tmp"))
        for one in dropped_input:
            _write(
                rejects, {"scope": "input", "id": one.id, "reason": one.reason, "detail": f"{one.place}: {one.detail}"}
            )
        for (id, job), outcome in zip(jobs(), decided, strict=True):
            if job is not None and outcome.pairs:
                beside = [f"{ids[other]}#{pair}" for other in job.neighbours for pair in range(kept[other])]
                for row in _rows(job, outcome, recipe, files.of(job.record.media), beside, meta):
                    _write(manifest, row)
            if outcome.reason:
                _write(rejects, {"scope": "record", "id": id, "reason": outcome.reason, "detail": outcome.detail})
            for dropped in outcome.dropped:
                said = {"instruction": dropped.instruction, "answer": dropped.answer}
                _write(rejects, {"scope": "pair", "id": id, "reason": dropped.reason, "detail": dropped.detail, **said})
        files.finish()


def _rows(
    job: Job, outcome: Outcome, recipe: Recipe, media: list[Any], beside: list[str], meta: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The rows of the manifest for one job: one for each pair, or one conversation; ``beside`` are related to all."""
    shared = {**meta, "request": outcome.requests[-1], "record": job.record.id, "language": job.language}
    if recipe.form == "turns":
        turns = []
        for number, pair in enumerate(outcome.pairs):
            shown = _SHOWN * len(job.record.media) if number == 0 else ""
            turns += [{"from": "human", "value": shown + pair.instruction}, {"from": "gpt", "value": pair.answer}]
        yield {"id": job.id, "media": media, "conversations": turns, **shared}
        return
    ids = [f"{job.id}#{number}" for number in range(len(outcome.pairs))]
    for number, (id, pair) in enumerate(zip(ids, outcome.pairs, strict=True)):
        row: dict[str, Any] = {"id": id, "media": media, "instruction": pair.instruction, "answer": pair.answer}
        if pair.choices:
            row["choices"] = list(pair.choices)
        score = {"judge_score": outcome.scores[number]} if outcome.scores else {}
        yield {**row, "related": [*(other for other in ids if other != id), *beside], "meta": {**shared, **score}}


class _MediaFiles:
    """How the manifest names media: through the link, or as copies of what lies inside other files."""

    def __init__(self, out: Path, root: Root) -> None:
        self._out, self._root = out, root
        self._reader = Reader(root)
        self._is_linked = False

    def of(self, media: Iterable[MediaRef]) -> list[Any]:
        """The media as the manifest names them."""
        named: list[Any] = []
        for ref in media:
            paths = [self._path(part) for part in ref.parts]
            if ref.timestamps_s is None:
                named += paths
            else:
                length = {} if ref.duration_s is None else {"duration_s": ref.duration_s}
                named.append({"frames": paths, "timestamps_s": list(ref.timestamps_s), **length})
        return named

    def close(self) -> None:
        """Close the files that were read."""
        self._reader.close()

    def finish(self) -> None:
        """Write the link and ``mimicit.toml``."""
        options = ""
        link = self._out / LINK_NAME
        if self._is_linked:
            wanted = os.path.relpath(self._root.folder, os.path.realpath(self._out))
            if not (link.is_symlink() and os.readlink(link) == wanted):
                if link.is_symlink():
                    link.unlink()
                if link.exists():
                    raise AnnotateError(f"{link}: is in the way of a link to the pictures; move it, and run again")
                link.symlink_to(wanted)
            folders = [str(folder) for folder in (self._root.folder, *self._root.allowed)]
            options = f"follow_links = true\nallow_root = {orjson.dumps(folders).decode()}\n\n"
        text = f'{options}[[source]]\npath = "manifest.jsonl"\n'
        write_atomically(self._out / "mimicit.toml", [text.encode()])

    def _path(self, part: Locator) -> str:
        if isinstance(part, InFile):
            self._is_linked = True
            return f"{LINK_NAME}/{part.path}"
        try:
            data = self._reader.read(part)
        except RejectedError as error:  # it was there when the record was asked about
            raise AnnotateError(f"a picture of --src cannot be read any more: {error.detail}") from None
        format = sniff(data[:HEAD_BYTES]) or "bin"
        name = f"{hashlib.sha256(data).hexdigest()[:32]}.{_EXTENSIONS.get(format, format)}"
        path = self._out / PICTURES_NAME / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, [data])
        return f"{PICTURES_NAME}/{name}"


def _write(file: BinaryIO, row: dict[str, Any]) -> None:
    file.write(canonical_json(row) + b"\n")


def _in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "no pair"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Example:
    id: str
    media: tuple[MediaRef, ...] = ()
    reason: str = ""
    detail: str = ""
    instruction: str = ""
    answer: str = ""
    picture: str = ""


def report_html(
    counts: Counts,
    jobs: Iterable[tuple[str, Job | None]],
    outcomes: Iterable[Outcome],
    *,
    root: Root,
    recipe: Recipe,
    model: str,
    tokens: int,
) -> str:
    """The page; of the media beneath ``root`` only those of the examples are read."""
    kept, dropped = _examples(counts, zip(jobs, outcomes, strict=True))
    kept, dropped = asyncio.run(_with_pictures(root, kept, dropped))
    environment = Environment(
        loader=PackageLoader("mimicit.annotating"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    values: dict[str, Any] = {
        "counts": counts,
        "kept": kept,
        "dropped": dropped,
        "recipe": recipe,
        "model": model,
        "tokens": tokens,
        "pair_reasons": PAIR_REASONS,
        "record_reasons": RECORD_REASONS,
    }
    return environment.get_template("report.html").render(values)


def _examples(
    counts: Counts, found: Iterable[tuple[tuple[str, Job | None], Outcome]]
) -> tuple[list[_Example], list[_Example]]:
    """Kept pairs spread over the set, and the first few dropped ones of each reason."""
    step = max(1, counts.written // _KEPT)
    kept: list[_Example] = []
    dropped: list[_Example] = []
    seen: Counter[str] = Counter()
    written = 0
    for (id, job), outcome in found:
        media = job.record.media[:1] if job is not None else ()
        if outcome.pairs:
            if written % step == 0 and len(kept) < _KEPT:
                pair = outcome.pairs[0]
                kept.append(_example(id, media, "", "", pair.instruction, pair.answer))
            written += 1
        fell = [(one.reason, one.detail, one.instruction, one.answer) for one in outcome.dropped]
        if not fell and outcome.reason:
            fell = [(outcome.reason, outcome.detail, "", "")]
        for reason, *rest in fell:
            seen[reason] += 1
            if seen[reason] <= _OF_A_REASON:
                dropped.append(_example(id, media, reason, *rest))
    return kept, sorted(dropped, key=lambda one: one.reason)


def _example(id: str, media: tuple[MediaRef, ...], reason: str, detail: str, instruction: str, answer: str) -> _Example:
    return _Example(
        id=id,
        media=media,
        reason=reason,
        detail=detail[:_CHARACTERS],
        instruction=instruction[:_CHARACTERS],
        answer=answer[:_CHARACTERS],
    )


async def _with_pictures(root: Root, *lists: Sequence[_Example]) -> list[list[_Example]]:
    pictures = Pictures(root, size=_THUMBNAIL, frames=1, workers=1)

    async def shown(example: _Example) -> _Example:
        try:
            ((_, data), *_) = await pictures.of(example.media) or [("", b"")]
        except RejectedError:
            data = b""
        url = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" if data else ""
        return replace(example, picture=url)

    try:
        return [[await shown(example) for example in examples] for examples in lists]
    finally:
        pictures.close()
