"""``mimicit export --to hub``: a folder of shards as a data set of the Hugging Face Hub, in one commit.

The large files go first, and the commit that shows them last, so a reader sees either the old data set or the new one.
After an interruption, the same command sends nothing twice: a file that is in the data set already is known by its
checksum, and the Hub reports for any other whether its bytes have arrived. Tables are made one by one, so the disk
holds one of them at a time.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mimicit.errors import BuildError, MimicitError, UsageError
from mimicit.hub import needed
from mimicit.hub.card import DATA_FILES, Layout, Written, card_text, is_of_export
from mimicit.loading.samples import Samples, load
from mimicit.loading.storage.store import Store
from mimicit.pipeline.remote_files import hub_place
from mimicit.sample_table import embedded_pictures, row_of_sample, table_schema
from mimicit.schema import canonical_json
from mimicit.shards.manifest import MANIFEST_NAME

_CARD: Final = "README.md"
_SHEET: Final = "contact-sheet.jpg"
_PART_BYTES: Final = 512 << 20
_FILES_AT_ONCE: Final = 16
_CHUNK_BYTES: Final = 1 << 20
_ROW_GROUP_BYTES: Final = 8 << 20
_ROW_GROUP_ROWS: Final = 256
_OURS: Final = (*DATA_FILES.values(), "index.parquet", "media.parquet", "rejects.parquet", MANIFEST_NAME)
"""Files that an earlier export may have put there; they are deleted if they are not part of this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """What a push did: the ``commit`` that holds it, ``files`` and their ``bytes``, and how many of them were sent now.

    ``commit`` is the previous one if nothing has changed.
    """

    repo: str
    commit: str
    layout: Layout
    samples: int
    files: int
    bytes: int
    sent: int


def push_to_hub(
    shards: Path,
    location: str,
    *,
    layout: Layout = "parquet",
    private: bool = False,
    part_bytes: int = _PART_BYTES,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PushReport:
    """Put the samples of the finished folder ``shards`` at ``location``, ``hf://datasets/ORG/NAME[@BRANCH]``.

    The data set, ``private`` or public, and the branch are created if they do not exist. ``layout`` is ``"parquet"``
    (rows as those of `to_datasets`, in tables of about ``part_bytes``) or ``"shards"`` (the files of the folder as they
    are). A former export there is replaced; other files stay. ``on_progress`` gets (done, total), in samples or files.
    The token is the one that `huggingface_hub` finds (``hf auth login``, ``HF_TOKEN``).

    `UsageError` if ``location`` is not such a place, or the extra ``hub`` is missing; `ShardError` and its subclasses
    for the shards; `BuildError` if the Hub refuses or cannot be reached.
    """
    hub = needed("huggingface_hub", "export --to hub")
    repo, branch = _repository(location)
    samples = load(shards, check="sha256")
    with _failures(location):
        api = hub.HfApi()
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        if branch is not None and not branch.startswith("refs/"):
            api.create_branch(repo, branch=branch, repo_type="dataset", exist_ok=True)
        with ExitStack() as scratch:
            push = _Push(hub, api, repo, branch, scratch)
            if layout == "parquet":
                push.tables(samples, part_bytes, on_progress)
            else:
                push.files(samples.store, on_progress)
            commit = push.commit(samples.store, layout)
    return PushReport(
        repo=repo,
        commit=commit,
        layout=layout,
        samples=len(samples),
        files=push.written.files,
        bytes=push.written.bytes,
        sent=push.written.sent,
    )


def _repository(location: str) -> tuple[str, str | None]:
    """The name of the data set at ``location``, and the branch if one is given."""
    place = hub_place(location)
    if place.path:
        raise UsageError(f"--out {location}: give the data set alone, hf://datasets/{place.repo}")
    return place.repo, place.revision


class _Push:
    """One push under way: what is there, and the operations of the commit."""

    def __init__(self, hub: Any, api: Any, repo: str, branch: str | None, scratch: ExitStack) -> None:
        self._hub, self._api, self._scratch = hub, api, scratch
        self._where = {"repo_id": repo, "repo_type": "dataset", "revision": branch}
        self._repo = repo
        tree = api.list_repo_tree(recursive=True, **self._where)
        self._there = {entry.path: entry for entry in tree if hasattr(entry, "size")}  # no folder
        self._before = self._card()
        self._former = [name for name in self._there if any(fnmatchcase(name, ours) for ours in _OURS)]
        if self._former and not (self._before and is_of_export(self._before)):
            raise BuildError(
                f"{repo}: holds {self._former[0]}, which no mimicit export put there and which would be taken for its"
                " own; move it, or give another data set or branch"
            )
        self._additions: list[Any] = []
        self._kept: set[str] = set()
        self.written = Written()

    def tables(self, samples: Samples, part_bytes: int, on_progress: Callable[[int, int], None]) -> None:
        """Send the samples as parquet tables."""
        parts = _parts(samples.store, part_bytes)
        folder = Path(self._scratch.enter_context(tempfile.TemporaryDirectory(prefix="mimicit-hub-")))
        for number, part in enumerate(parts):
            path = folder / f"{number}.parquet"
            self.written.table_bytes += _write_table(samples, part, path, on_progress)
            self._send({f"data/train-{number:05d}-of-{len(parts):05d}.parquet": path})
            if all(addition.path_or_fileobj != str(path) for addition in self._additions):
                path.unlink()  # it has arrived, or was there

    def files(self, store: Store, on_progress: Callable[[int, int], None]) -> None:
        """Send the files of a folder of shards, but its card and manifest, which `commit` makes."""
        names = [*(shard["name"] for shard in store.manifest["shards"]), *sorted(store.manifest["files"])]
        names = [name for name in names if name != _CARD]
        for first in range(0, len(names), _FILES_AT_ONCE):
            self._send({name: store.folder / name for name in names[first : first + _FILES_AT_ONCE]})
            on_progress(min(first + _FILES_AT_ONCE, len(names)), len(names))

    def _send(self, files: Mapping[str, Path]) -> None:
        """Send the ``files``, by their names in the data set, that are not there with the same bytes."""
        additions = []
        for name, path in files.items():
            self.written.files += 1
            self.written.bytes += path.stat().st_size
            self._kept.add(name)
            if not _is_same(path, self._there.get(name)):
                additions.append(self._hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)))
        if additions:
            # Additions drop their files when these have arrived; files too small for that go with the commit.
            self._api.preupload_lfs_files(additions=additions, **self._where)
        self._additions += additions
        self.written.sent += len(additions)

    def commit(self, store: Store, layout: Layout) -> str:
        """Commit what was sent and the card, and delete what former exports left; return the SHA of the commit."""
        videos = bool(pc.any(pc.greater(store.columns(["videos"]).column("videos"), 0)).as_py())
        card = card_text(self._repo, store.manifest, layout, self.written, videos=videos, before=self._before).encode()
        beside = {_CARD: card}
        if layout == "shards":
            files = {**store.manifest["files"], _CARD: hashlib.sha256(card).hexdigest()}
            beside[MANIFEST_NAME] = canonical_json({**store.manifest, "files": files}) + b"\n"
        elif _SHEET in store.manifest["files"]:
            beside[_SHEET] = (store.folder / _SHEET).read_bytes()
        add = [self._hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in beside.items()]
        gone = [
            self._hub.CommitOperationDelete(path_in_repo=name)
            for name in self._former
            if name not in self._kept and name not in beside
        ]
        title = f"mimicit export: {store.manifest['totals']['samples']:,} samples as {layout}"
        done = self._api.create_commit(operations=[*self._additions, *add, *gone], commit_message=title, **self._where)
        return str(done.oid)

    def _card(self) -> str | None:
        if _CARD not in self._there:
            return None
        path = self._api.hf_hub_download(filename=_CARD, **self._where)
        return Path(path).read_text("utf-8")


def _is_same(path: Path, there: Any) -> bool:
    """Whether the entry ``there`` of a tree has the bytes of the file ``path``."""
    size = path.stat().st_size
    if there is None or there.size != size:
        return False
    digest = hashlib.sha256() if there.lfs is not None else hashlib.sha1(b"blob %d\0" % size)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    known: str = there.lfs.sha256 if there.lfs is not None else there.blob_id
    return digest.hexdigest() == known


def _parts(store: Store, part_bytes: int) -> list[range]:
    """The rows of each table, cut by their size in the shards: the same for the same folder."""
    sizes = _sizes(store)
    numbers = np.maximum(np.cumsum(sizes) - 1, 0) // part_bytes
    starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(sizes)]
    return [range(start, end) for start, end in pairwise(starts)]


def _sizes(store: Store) -> NDArray[np.int64]:
    """The bytes of each sample with its pictures, which may lie in the shard once for many samples."""
    members = store.columns(["member_sizes"]).column("member_sizes").combine_chunks()
    sums = np.concatenate(([0], np.cumsum(members.values.to_numpy())))
    sizes: NDArray[np.int64] = np.diff(sums[members.offsets.to_numpy()])
    return sizes


def _write_table(samples: Samples, part: range, path: Path, on_progress: Callable[[int, int], None]) -> int:
    """Write the samples at ``part`` as the parquet file ``path``; return the bytes of the table before compression."""
    schema, size = table_schema(), 0
    # Pictures neither repeat nor shrink: no dictionary. The Hub's storage recognises pages cut by content.
    with pq.ParquetWriter(path, schema, use_dictionary=False, use_content_defined_chunking=True) as writer:
        for rows in _row_groups(samples, part, on_progress):
            table = pa.Table.from_pylist(rows, schema=schema)
            size += table.nbytes
            writer.write_table(table, row_group_size=len(rows))
    return size


def _row_groups(
    samples: Samples, part: Sequence[int], on_progress: Callable[[int, int], None]
) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    taken = 0
    for place in part:
        sample = samples[place]
        rows.append(row_of_sample(sample, embedded_pictures(sample)))
        taken += sum(len(data) for medium in sample.media for data in medium.data)
        if len(rows) == _ROW_GROUP_ROWS or taken >= _ROW_GROUP_BYTES:
            yield rows
            on_progress(place + 1, len(samples))
            rows, taken = [], 0
    if rows:
        yield rows
        on_progress(part[-1] + 1, len(samples))


def quiet() -> None:
    """Turn off the progress bars and messages of `huggingface_hub`, for a program that has a bar itself."""
    utils = needed("huggingface_hub.utils", "export --to hub")
    utils.disable_progress_bars()
    utils.logging.set_verbosity_error()


@contextmanager
def _failures(location: str) -> Iterator[None]:
    """Turn whatever `huggingface_hub` raises into one line that says how to continue."""
    try:
        yield
    except MimicitError:
        raise
    except Exception as error:  # of requests, of the operating system and of its own, with no class in common
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        status = getattr(getattr(error, "response", None), "status_code", None)
        fix = "log in with hf auth login, or set HF_TOKEN" if status in (401, 403) else "fix this"
        raise BuildError(f"{location}: {said}; {fix}, and run the same command again to go on") from error
