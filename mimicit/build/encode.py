"""Encode every distinct medium once, before any context is chosen.

So a picture that stands in many samples is decoded once, and a record whose picture is broken is known to be a reject
before it could become somebody's context. The bytes go to blob files in the work folder, one per task; tasks are cut
by number and kind of media, never by worker, and a finished task is not run again.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import orjson

from mimicit.build.catalog import Catalog, ref_from_json
from mimicit.build.engine import WorkerDiedError, Engine
from mimicit.build.progress import Progress, Silent
from mimicit.errors import BuildError, RejectedError
from mimicit.media import EncodedMedia, MediaOptions, encode_frames, encode_image, encode_video
from mimicit.schema import canonical_json
from mimicit.shards.files import publish
from mimicit.sources.base import InFile, MediaRef, Reject
from mimicit.sources.reading import Reader
from mimicit.sources.root import Root

__all__ = ["blob_path", "encode_media"]

_TASK_COST: Final = 128  # pictures per task
_VIDEO_COST: Final = 8
_SECONDS_PER_MEDIUM: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """The media of one blob file: (medium number, reference as JSON)."""

    root: Root
    work: Path
    options: MediaOptions
    media: tuple[tuple[int, str], ...]
    broken: Mapping[int, tuple[str, str]] = field(default_factory=dict)  # (reason, detail) of what kills a worker


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What became of one medium: ``media`` describes it as JSON and ``content`` identifies it, or why it was rejected."""

    medium: int
    content: str | None = None
    media: bytes | None = None
    offset: int = 0
    sizes: tuple[int, ...] = ()
    reason: str | None = None
    detail: str | None = None


def blob_path(work: Path, number: int) -> Path:
    """The blob file whose first medium is ``number``."""
    return work / "media" / f"{number:012d}.bin"


def encode_media(
    catalog: Catalog, root: Root, work: Path, options: MediaOptions, engine: Engine, progress: Progress
) -> None:
    """Encode all media that are not encoded yet, note the results, and reject the triplets of broken media."""
    (work / "media").mkdir(exist_ok=True)
    tasks = list(_tasks(catalog, root, work, options))
    results = engine.run(_encode_task, tasks, label="encode", progress=progress, on_death=_without_culprit(engine))
    for number, stored in results:
        blob = tasks[number].media[0][0]
        with catalog.transaction():
            catalog.db.executemany(
                "UPDATE medium SET done = 1, content = ?, media = ?, blob = ?, offset = ?, sizes = ?, reason = ?, detail = ?"
                " WHERE id = ?",
                [
                    (r.content, r.media, blob, r.offset, orjson.dumps(r.sizes).decode(), r.reason, r.detail, r.medium)
                    for r in stored
                ],
            )
    if not catalog.is_done("media"):
        with catalog.transaction():
            _settle_triplets(catalog)
            catalog.mark_done("media")


def _tasks(catalog: Catalog, root: Root, work: Path, options: MediaOptions) -> Iterator[_Task]:
    """Cut all media into tasks by their order alone, and keep those with something left to do."""
    media: list[tuple[int, str]] = []
    cost = 0
    todo = False
    for number, ref, kind, done in catalog.db.execute("SELECT id, ref, kind, done FROM medium ORDER BY id"):
        media.append((number, ref))
        cost += _VIDEO_COST if kind == "video" else 1
        todo = todo or not done
        if cost >= _TASK_COST:
            if todo:
                yield _Task(root=root, work=work, options=options, media=tuple(media))
            media, cost, todo = [], 0, False
    if media and todo:
        yield _Task(root=root, work=work, options=options, media=tuple(media))


def _encode_task(task: _Task) -> list[_Stored]:
    """Encode the media of one task into its blob file; runs in a worker."""
    reader = Reader(task.root)
    path = blob_path(task.work, task.media[0][0])
    marker = _Marker(task)
    stored: list[_Stored] = []
    with publish(path, path.with_suffix(".tmp")) as blob:
        for number, text in task.media:
            if number in task.broken:
                reason, detail = task.broken[number]
                stored.append(_Stored(medium=number, reason=reason, detail=detail))
                continue
            marker.write(number)
            try:
                with _Deadline(_SECONDS_PER_MEDIUM):
                    ref = ref_from_json(orjson.loads(text))
                    encoded = _encode(ref, reader, task.options)
            except RejectedError as error:
                stored.append(_Stored(medium=number, reason=error.reason, detail=error.detail))
                continue
            offset = blob.tell()
            blob.writelines(encoded.files)
            stored.append(_describe(number, ref, encoded, offset))
    marker.remove()
    return stored


class _Deadline:
    """Ends this process when the block takes too long: no decoder can be interrupted otherwise."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)


def _without_culprit(engine: Engine) -> Callable[[_Task, WorkerDiedError], list[_Stored]]:
    """For a task whose process died: the medium it was at becomes a reject, and the task is run again without it."""

    def on_death(task: _Task, died: WorkerDiedError) -> list[_Stored]:
        culprit = _Marker(task).read()
        if culprit is None or culprit in task.broken:
            raise BuildError(f"{died}; run the same command again to go on") from died
        if died.signal == signal.SIGALRM:
            fault = ("timeout", f"decoding took more than {_SECONDS_PER_MEDIUM} s")
        else:
            fault = ("decoder_died", f"its decoder crashed: {died}")
        rest = replace(task, broken={**task.broken, culprit: fault})
        ((_, stored),) = engine.run(_encode_task, [rest], label="encode", progress=Silent(), on_death=on_death)
        return stored

    return on_death


class _Marker:
    """A small file that says which medium a worker is at, for the case that it does not come back."""

    def __init__(self, task: _Task) -> None:
        self._path = blob_path(task.work, task.media[0][0]).with_suffix(".at")

    def write(self, medium: int) -> None:
        self._path.write_text(str(medium))

    def read(self) -> int | None:
        return int(self._path.read_text()) if self._path.exists() else None

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def _encode(ref: MediaRef, reader: Reader, options: MediaOptions) -> EncodedMedia:
    if ref.timestamps_s is not None:
        return encode_frames([reader.read(part) for part in ref.parts], ref.timestamps_s, options)
    (part,) = ref.parts
    if ref.kind == "video":
        if not isinstance(part, InFile):
            raise RejectedError("unsupported_media", "a clip inside a table is not supported; store it as a file")
        return encode_video(reader.path(part), options)
    return encode_image(reader.read(part), options)


def _describe(number: int, ref: MediaRef, encoded: EncodedMedia, offset: int) -> _Stored:
    hashes = [hashlib.sha256(data).hexdigest() for data in encoded.files]
    value: dict[str, Any] = {
        "kind": encoded.kind,
        "extension": encoded.extension,
        "width": encoded.width,
        "height": encoded.height,
        "sha256": hashes,
        "origin": ref.origin,
        "timestamps_s": encoded.timestamps_s,
        "duration_s": encoded.duration_s,
    }
    return _Stored(
        medium=number,
        content=hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest(),
        media=canonical_json(value),
        offset=offset,
        sizes=tuple(len(data) for data in encoded.files),
    )


def _settle_triplets(catalog: Catalog) -> None:
    """Reject the triplets whose media cannot be used; rank the others within their source."""
    ranks: dict[int, int] = {}
    rows = catalog.db.execute(
        "SELECT seq, source, id, place, media, parts FROM triplet WHERE media IS NOT NULL ORDER BY seq"
    )
    for seq, source, id, place, media, texts in rows:
        numbers: list[int] = orjson.loads(media)
        outcomes = [_outcome(catalog, number) for number in numbers]
        broken = [outcome for outcome in outcomes if isinstance(outcome, RejectedError)]
        contents = [outcome for outcome in outcomes if isinstance(outcome, str)]
        reject = Reject(
            scope="record",
            stage="media",
            reason="",
            source=catalog.source_name(source),
            locator=place,
            id=id,
            detail="",
        )
        if broken and texts != "[]" and contents:
            _drop_from_document(catalog, seq, numbers, orjson.loads(texts), outcomes)
            for fault in broken:
                lost = replace(reject, scope="media", reason=fault.reason, detail=fault.detail)
                catalog.add_reject(source, lost)
        elif broken:
            catalog.add_reject(source, replace(reject, reason=broken[0].reason, detail=broken[0].detail))
            continue
        ranks[source] = ranks.get(source, -1) + 1
        shown = ",".join(contents)
        catalog.db.execute("UPDATE triplet SET shown = ?, rank = ? WHERE seq = ?", (shown, ranks[source], seq))


def _outcome(catalog: Catalog, number: int) -> str | RejectedError:
    """What identifies the stored bytes of a medium, or why there are none."""
    content, reason, detail, ref = catalog.db.execute(
        "SELECT content, reason, detail, ref FROM medium WHERE id = ?", (number,)
    ).fetchone()
    if content is None:
        return RejectedError(reason, f"{orjson.loads(ref)['origin']}: {detail}")
    return str(content)


def _drop_from_document(
    catalog: Catalog,
    seq: int,
    numbers: Sequence[int],
    texts: Sequence[tuple[int, str]],
    outcomes: Sequence[str | RejectedError],
) -> None:
    """A document goes on without its broken pictures, as long as one is left."""
    kept: list[int] = []
    parts: list[tuple[int, str]] = []
    start = 0
    for count, text in texts:
        fine = [n for n, o in zip(numbers[start:], outcomes[start : start + count], strict=False) if isinstance(o, str)]
        kept += fine
        parts.append((len(fine), text))
        start += count
    row = (orjson.dumps(kept).decode(), orjson.dumps(parts).decode(), seq)
    catalog.db.execute("UPDATE triplet SET media = ?, parts = ? WHERE seq = ?", row)
