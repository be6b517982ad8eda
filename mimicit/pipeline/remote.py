"""Build from and to URLs: fetch the input to a folder of this machine, build there, and upload the result.

Both transfers resume after an interruption: a file that was fetched whole is not fetched again while its size and ETag
stay the same, and a file that was uploaded whole (it is read back) is not sent again. The manifest is removed before
anything else of a finished folder changes and sent after all else, so a remote folder is always finished or has no
manifest. The cost is one copy of the input and of the output on this machine, in the work folder, until a user removes
it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, TypeVar

from mimicit.errors import BuildError, ChangedInputError, SourceError, UsageError
from mimicit.loading.storage.index_columns import default_cache
from mimicit.pipeline.disk import reported
from mimicit.pipeline.parts import batched
from mimicit.pipeline.remote_files import RemoteFiles, RemoteObject, is_on_hub, is_remote, local_path, pinned
from mimicit.pipeline.stages.media_table import MEDIA_NAME
from mimicit.pipeline.stages.publish import BESIDE_SHARDS, REJECTS_NAME
from mimicit.progress import Progress
from mimicit.shards.files import sha256_of
from mimicit.shards.folders import held_folder, make_folder, refuse_link, remove_folder
from mimicit.shards.index import INDEX_NAME
from mimicit.shards.manifest import MANIFEST_NAME, read_manifest

T = TypeVar("T")

_FETCHES: Final = 16  # in parallel: most inputs are small files, and waiting is most of the work
_STORES: Final = 4
_ASKED: Final = (INDEX_NAME, MEDIA_NAME, REJECTS_NAME)  # what a build reads of a finished folder besides its shards
_FETCHED_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS fetched(name TEXT PRIMARY KEY, size INTEGER, token TEXT) WITHOUT ROWID"
)


def build_at(
    src: str,
    out: str,
    build: Callable[..., T],
    *,
    work: Path | None,
    overwrite: bool,
    progress: Progress,
) -> T:
    """Call ``build(src, out)`` with folders of this machine in place of URLs, and return its result.

    Either, both or neither may be a URL. ``work`` holds the copies; by default, a folder of the cache that belongs to
    ``src`` and ``out``. A ``src`` on the Hub is read at its current commit, which is passed to ``build`` as ``origin``.
    Raises what ``build`` does, and `BuildError` or `SourceError` if a transfer fails.
    """
    if is_on_hub(out):
        raise UsageError(f"--out {out}: build to a folder, and put that there with mimicit export --to hub")
    if not is_remote(src) and not is_remote(out):
        return build(local_path(src), local_path(out))
    work = (work or _default_work(src, out)).absolute()
    origin: dict[str, Any] = {}
    if is_on_hub(src):
        given, (src, commit) = src, pinned(src)
        origin = {"origin": {"url": given, "commit": commit}}
        progress.note(f"{given}: at commit {commit}")
    with reported(work, work), _held(work):
        target = RemoteFiles(out) if is_remote(out) else None
        local_out = local_path(out) if target is None else work / "output"
        if target is not None:
            _refuse_strangers(target)
        if is_remote(src):
            _fetch_input(RemoteFiles(src), target, work, progress)
        local_src = work / "input" if is_remote(src) else local_path(src)
        if target is None:
            return build(local_src, local_out, **origin)
        _recall(target, local_out)
        try:
            result = build(local_src, local_out, **origin)
        except ChangedInputError as error:
            raise ChangedInputError(str(error).replace(str(local_out), out)) from None
        _upload(local_out, target, overwrite=overwrite, progress=progress)
        return result


def _default_work(src: str, out: str) -> Path:
    return default_cache() / "build" / hashlib.sha256(f"{src}\0{out}".encode()).hexdigest()[:16]


@contextmanager
def _held(work: Path) -> Iterator[None]:
    """Make the work folder and lock it against other builds."""
    work.mkdir(parents=True, exist_ok=True)
    with held_folder(work, "mimicit build"):
        yield


def _fetch_input(source: RemoteFiles, target: RemoteFiles | None, work: Path, progress: Progress) -> None:
    """Make ``work/input`` a copy of the files of ``source``, except hidden files and those of ``target``."""
    inside = target and source.holds(target)
    wanted = {
        name: found
        for name, found in source.list().items()
        if not _is_hidden(name) and not (inside and name.startswith(f"{inside}/"))
    }
    if not wanted:
        raise SourceError(f"{source.url}: holds no file; give --src the folder that holds the raw data")
    folder = work / "input"
    make_folder(folder)
    with closing(sqlite3.connect(work / "input.sqlite", isolation_level=None)) as db:
        db.execute(_FETCHED_TABLE)
        _remove_gone(folder, wanted)
        todo = [name for name, found in wanted.items() if not _is_here(db, folder / name, name, found)]
        done = len(wanted) - len(todo)
        progress.update("fetch", done, len(wanted))

        def fetch(name: str) -> str:
            source.fetch(name, folder / name, wanted[name].size)
            return name

        with ThreadPoolExecutor(_FETCHES) as pool:
            for names in batched(todo, _FETCHES * 4):  # few at a time, so that a failure ends the rest soon
                for name in pool.map(fetch, names):
                    row = (name, wanted[name].size, wanted[name].token)
                    db.execute("INSERT OR REPLACE INTO fetched VALUES (?, ?, ?)", row)
                    done += 1
                    progress.update("fetch", done, len(wanted))


def _is_hidden(name: str) -> bool:
    return any(step.startswith(".") for step in name.split("/"))


def _is_here(db: sqlite3.Connection, path: Path, name: str, found: RemoteObject) -> bool:
    row = db.execute("SELECT size, token FROM fetched WHERE name = ?", (name,)).fetchone()
    return row == (found.size, found.token) and path.is_file() and path.stat().st_size == found.size


def _remove_gone(folder: Path, wanted: Mapping[str, RemoteObject]) -> None:
    """Remove files that are no longer wanted, and empty folders, so that a folder can replace a file and vice versa."""
    for path in sorted(folder.rglob("*"), reverse=True):  # the contents of a folder before the folder
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in wanted:
            path.unlink()


def _refuse_strangers(target: RemoteFiles) -> None:
    for name in sorted(target.list()):
        if not _is_shard(name) and name not in (*BESIDE_SHARDS, MANIFEST_NAME):
            raise BuildError(f"{target.url}: holds {name!r}, which no build wrote; give --out an empty folder")


def _is_shard(name: str) -> bool:
    return fnmatchcase(name, "shard-*.tar") and "/" not in name


def _recall(target: RemoteFiles, out: Path) -> None:
    """If this machine has no copy of the folder, fetch the files that tell from which input and options it was built.

    The build then treats these as it would the folder itself; the next call removes a folder with only these files.
    """
    refuse_link(out)
    if (out / MANIFEST_NAME).exists() and not all((out / name).exists() for name in _contents(out)):
        remove_folder(out)
    data = target.read(MANIFEST_NAME)
    if data is None or out.exists():
        return
    begun = out.with_name(f"{out.name}.tmp")
    remove_folder(begun)
    begun.mkdir()
    for name in _ASKED:
        (begun / name).write_bytes(target.read(name) or b"")
    (begun / MANIFEST_NAME).write_bytes(data)
    os.replace(begun, out)


def _contents(folder: Path) -> dict[str, str]:
    """All files of a finished folder except the manifest, with their SHA-256."""
    manifest: dict[str, Any] = read_manifest(folder)
    return {**{shard["name"]: shard["sha256"] for shard in manifest["shards"]}, **manifest["files"]}


def _upload(folder: Path, target: RemoteFiles, *, overwrite: bool, progress: Progress) -> None:
    """Make ``target`` a copy of the finished ``folder``; files that are there already are read, and kept if equal."""
    manifest, there = folder / MANIFEST_NAME, target.read(MANIFEST_NAME)
    if there == manifest.read_bytes():
        return
    if there is not None:
        if not overwrite:
            raise ChangedInputError(
                f"{target.url}: holds a folder from another input or other options; add --overwrite to replace it,"
                " or give another --out"
            )
        target.remove(MANIFEST_NAME)
    contents = _contents(folder)
    present = target.list()
    for name in present:
        if name not in contents:
            target.remove(name)

    def store(item: tuple[str, str]) -> None:
        name, sha256 = item
        path = folder / name
        if name in present and present[name].size == path.stat().st_size and target.sha256(name) == sha256:
            return
        target.store(path, name, sha256)

    with ThreadPoolExecutor(_STORES) as pool:
        done = 0
        progress.update("upload", 0, len(contents))
        for items in batched(sorted(contents.items()), _STORES):
            for _ in pool.map(store, items):
                done += 1
                progress.update("upload", done, len(contents))
    target.store(manifest, MANIFEST_NAME, sha256_of(manifest))
