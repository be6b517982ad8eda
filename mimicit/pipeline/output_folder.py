"""The output folder of a build: lock it, see what it holds, and begin a build, continue one, or begin anew."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb
import orjson
import pyarrow as pa

from mimicit.errors import BuildError, ChangedInputError, CorruptShardError
from mimicit.pipeline.config import BuildConfig, without_limits
from mimicit.pipeline.disk import remove_scratch
from mimicit.pipeline.mixture import MIXTURE_NAME
from mimicit.pipeline.previous import GIVEN_UP, PREVIOUS_NAME, has_reason, set_aside
from mimicit.pipeline.stages.media_table import own_version
from mimicit.pipeline.stages.publish import BESIDE_SHARDS, REJECTS_NAME
from mimicit.progress import Progress
from mimicit.shards.files import read_regular, sync_folder, write_atomically
from mimicit.shards.folders import empty_folder, held_folder, make_folder, refuse_links, remove_folder
from mimicit.shards.manifest import MANIFEST_NAME, WORK_NAME, read_manifest
from mimicit.sources.files.root import Root

SCAN_NAME: Final = ".scan.tmp"
"""The table of the input's files, which is made before it is known whether there is anything to build."""

_UNPACKED_NAME: Final = "unpacked"

_EARLIER_NAME: Final = "catalog.sqlite"
"""A file that only earlier versions leave in the work folder, whose other files then have another format."""

_STATE_NAME: Final = "build.json"
_OF_DAMAGE: Final = (pa.ArrowException, duckdb.Error, ValueError, LookupError, TypeError, EOFError)


@contextmanager
def held(out: Path, *, shared: bool = False) -> Iterator[None]:
    """Make the output folder and lock it against other builds for the length of the block.

    With ``shared``, others that lock it as shared may hold it at the same time, such as the tasks of one build.
    """
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise BuildError(_unwritable(os.fsencode(out))) from None
    if out.exists() and not out.is_dir():
        raise BuildError(f"{out}: is a file; give --out a folder")
    out.mkdir(parents=True, exist_ok=True)
    _refuse_strangers(out)
    refuse_links(out / WORK_NAME)
    with held_folder(out, "mimicit build", shared=shared):
        yield


def _unwritable(path: bytes) -> str:
    """Why the libraries that write tables cannot take ``path``, and what to do."""
    try:
        shown = path.decode()
    except UnicodeDecodeError:
        return f"{path.decode('utf-8', 'backslashreplace')}: is not UTF-8; give --out a folder whose path is"
    reading = sys.getfilesystemencoding()
    return f"{shown}: the locale has names of files read as {reading}; set PYTHONUTF8=1, or give --out a path in ASCII"


def _refuse_strangers(out: Path) -> None:
    """`BuildError` if the folder holds anything that no build wrote."""
    ours = {WORK_NAME, MANIFEST_NAME, *BESIDE_SHARDS}
    names = sorted(path.name for path in out.iterdir())
    strangers = [name for name in names if name not in ours and not _is_ours(name)]
    known = [name for name in names if name != SCAN_NAME]  # the only file left by a build that ended while it scanned
    if strangers or (known and WORK_NAME not in names and MANIFEST_NAME not in names):
        raise BuildError(f"{out}: holds {(strangers or known)[0]!r}, which no build wrote; give --out an empty folder")


def _is_ours(name: str) -> bool:
    return (name.startswith("shard-") and name.endswith(".tar")) or (name.startswith(".") and name.endswith(".tmp"))


def finished_manifest(out: Path, state: dict[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
    """The manifest if the folder is finished and is what this build would make, else None.

    If it is finished and differs, ``overwrite`` sets it aside; without that, `ChangedInputError`.
    """
    if not (out / MANIFEST_NAME).exists():
        return None
    try:
        manifest = read_manifest(out)
    except CorruptShardError:
        if not overwrite:
            raise
        _clear(out)
        return None
    then = {
        "config": manifest["config"],
        "input": manifest["input"]["fingerprint"],
        "mimicit_version": manifest["mimicit_version"],
    }
    if _same(then, state):
        return manifest
    if not overwrite:
        raise _changed(out, then, state)
    _clear(out)
    return None


def previous_rejects(out: Path, state: dict[str, Any]) -> bytes | None:
    """The table of rejects of a finished folder of this configuration, if a build may reject less now, else ``None``.

    It may if the input has changed, or if a medium was rejected for the time or memory that it took, or because its
    decoder crashed: another machine, or higher limits, may do better.
    """
    if not (out / MANIFEST_NAME).exists():
        return None
    then = read_manifest(out)
    same = _same(without_limits(then["config"]), without_limits(state["config"]))
    if then["mimicit_version"] != state["mimicit_version"] or not same:
        return None
    table = read_regular(out / REJECTS_NAME)
    return table if then["input"]["fingerprint"] != state["input"] or has_reason(table, GIVEN_UP) else None


def input_root(src: Path, out: Path, config: BuildConfig) -> Root:
    """The input of a build of ``config``; its unpacked copies lie in the work folder of ``out``.

    The mixture's content is part of the options, so its file is not part of the input.
    """
    return Root(
        src,
        exclude=[out, src / MIXTURE_NAME],
        follow_links=config.follow_links,
        allow=[Path(folder) for folder in config.allow_root],
        media_roots=config.media_root,
        scratch=out.absolute() / WORK_NAME / _UNPACKED_NAME,
    )


def begin_or_continue(work: Path, state: dict[str, Any], progress: Progress, *, overwrite: bool) -> bool:
    """Continue the build in ``work`` if it is the same (returns True), or begin one (False).

    `ChangedInputError` if it differs and ``overwrite`` was not given.
    """
    path = work / _STATE_NAME
    if path.exists():
        then = _read_state(path) if not overwrite or _is_state(path) else None
        if then is None:
            progress.note(f"{path}: is damaged; the build begins anew")
        elif (work / _EARLIER_NAME).exists():
            progress.note(f"{work}: was left by an earlier version; the build begins anew")
        elif _same(then, state):
            progress.note("continuing an interrupted build")
            remove_scratch(work, work / "media", work / "index")
            return True
        elif not overwrite:
            raise _changed(work.parent, then, state)
    _clear(work.parent)  # what is left of a changed build, or of one that was killed while clearing
    write_atomically(path, [orjson.dumps(state)])
    sync_folder(work.parent)
    return False


@contextmanager
def damage_named(work: Path, *, is_continued: bool) -> Iterator[None]:
    """Raise `BuildError` if a continued build finds the files in ``work`` damaged; the next build then begins anew.

    A build only reads there what a build wrote. So what a library cannot parse was damaged since, unless this very
    build has written it.
    """
    try:
        yield
    except (*_OF_DAMAGE, OSError) as error:
        if not is_continued or isinstance(error, MemoryError) or not _is_damage(error, work):
            raise
        (work / _STATE_NAME).unlink(missing_ok=True)
        raise BuildError(
            f"{work}: what an interrupted build has left there is damaged ({type(error).__name__}: {error}); run the"
            " same command again to begin the build anew"
        ) from error


def _is_damage(error: Exception, work: Path) -> bool:
    """Whether an `OSError` says that a file in ``work`` is gone, or is pyarrow's for one that it cannot parse."""
    if not isinstance(error, OSError):
        return True
    is_ours = Path(os.fsdecode(error.filename or "")).is_relative_to(work)
    return error.errno is None or (error.errno == errno.ENOENT and is_ours)


def check_options(work: Path, config: BuildConfig) -> None:
    """`ChangedInputError` if the build in ``work`` was begun with another version or other options."""
    then = _read_state(work / _STATE_NAME)
    now = {**then, "config": config.to_json(), "mimicit_version": own_version()}
    if not _same(then, now):
        raise _changed(work.parent, then, now)


def _read_state(path: Path) -> dict[str, Any]:
    """The input, options and version of the unfinished build; `BuildError` if the file is damaged."""
    try:
        state = orjson.loads(read_regular(path))
    except (OSError, orjson.JSONDecodeError) as error:
        raise _damaged(path, getattr(error, "strerror", None) or str(error)) from None
    is_state = isinstance(state, dict) and state.keys() == {"config", "input", "mimicit_version"}
    if not (is_state and isinstance(state["config"], dict)):
        raise _damaged(path, "it is not what a build has written")
    return dict(state)


def _is_state(path: Path) -> bool:
    try:
        _read_state(path)
    except BuildError:
        return False
    return True


def _damaged(path: Path, why: str) -> BuildError:
    return BuildError(f"{path}: is damaged ({why}); add --overwrite to begin the build anew")


def _same(then: dict[str, Any], now: dict[str, Any]) -> bool:
    return bool(orjson.loads(orjson.dumps(then)) == orjson.loads(orjson.dumps(now)))


def _changed(out: Path, then: dict[str, Any], now: dict[str, Any]) -> ChangedInputError:
    changes = []
    if then["input"] != now["input"]:
        changes.append("another input")
    if then["mimicit_version"] != now["mimicit_version"]:
        changes.append(f"mimicit {then['mimicit_version']}")
    config = orjson.loads(orjson.dumps(now["config"]))
    if names := [name for name in config if then["config"].get(name) != config[name]]:
        changes.append(f"another value of {', '.join(names)}")
    what = " and ".join(changes)
    return ChangedInputError(
        f"{out}: was built from {what}; add --overwrite to build it anew (what is still the same is used"
        " again), or give another --out"
    )


def _clear(out: Path) -> None:
    """Set a finished build aside, and remove what an unfinished one wrote; may be killed and called again.

    The manifest goes first, so from then on the folder is an unfinished build.
    """
    work = out / WORK_NAME
    make_folder(work)
    (work / _STATE_NAME).unlink(missing_ok=True)
    set_aside(out, work)
    temporary = [path for path in out.glob(".*.tmp") if path.name != SCAN_NAME]
    for path in [*out.glob("shard-*.tar"), *(out / name for name in BESIDE_SHARDS), *temporary]:
        path.unlink(missing_ok=True)
    empty_folder(work, keep=(PREVIOUS_NAME,))


def remove_work(work: Path) -> None:
    """Remove the state of a build that has ended."""
    remove_folder(work)
