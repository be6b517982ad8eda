"""Make, empty and remove mimicit's own folders without ever following a link.

Work folders, caches and checkpoints are cleared without asking, because nothing in them belongs to anybody else. That
is not true of what a link of that name leads to. So each is opened as a folder, never through a link, and deletions
are relative to the opened folder: a link that is put there in the meantime is not followed either.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mimicit.errors import BuildError, LinkError

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_folder(path: Path) -> None:
    """Make the folder ``path`` if it is missing; `LinkError` if it is a link, `OSError` if it is a file."""
    path.mkdir(parents=True, exist_ok=True)
    refuse_link(path)


def remove_folder(path: Path, *, ignore_errors: bool = False) -> None:
    """Remove the folder ``path`` with all that is in it, if it exists; `LinkError` if it is a link.

    With ``ignore_errors``, what cannot be removed is left.
    """
    refuse_link(path)
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        shutil.rmtree(path.name, ignore_errors, dir_fd=parent)
    except FileNotFoundError:
        if path.exists():
            raise
    finally:
        os.close(parent)


def empty_folder(path: Path, *, keep: Collection[str] = ()) -> None:
    """Remove all that is in the folder ``path`` but the names in ``keep``; `LinkError` if it is a link."""
    refuse_link(path)
    folder = os.open(path, _FOLDER)
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries if entry.name not in keep]
        for name, is_folder in found:
            if is_folder:
                shutil.rmtree(name, dir_fd=folder)
            else:
                os.unlink(name, dir_fd=folder)  # removes a link, not what it leads to
    finally:
        os.close(folder)


def refuse_links(path: Path) -> None:
    """`LinkError` if the folder ``path``, or anything in it, is a link, FIFO or device; it need not exist."""
    refuse_link(path)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            refuse_link(Path(folder, name))
        for name in files:
            if not stat.S_ISREG(os.lstat(Path(folder, name)).st_mode):
                raise LinkError(f"{folder}/{name}: is no regular file, and nobody but a build writes there; remove it")


def refuse_link(path: Path) -> None:
    """`LinkError` if ``path`` is a link; it need not exist."""
    if path.is_symlink():
        raise LinkError(
            f"{path}: is a symbolic link, and what is in this place is deleted without asking; remove the link"
        )


@contextmanager
def held_folder(
    path: Path, writer: str, *, shared: bool = False, named: Path | None = None, required: bool = True
) -> Iterator[None]:
    """Lock the folder ``path`` for the length of the block; a lock ends with its process, and leaves no file.

    `BuildError` if another process holds it, which says that another ``writer`` is writing to ``named``, by default
    the folder. With ``shared``, others that lock it as shared may hold it at the same time. On a file system without
    locks it is a `BuildError`, too, if the lock is ``required``, and else not locked.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(f"{named or path}: another {writer} is writing there; wait for it to end") from None
        except OSError as error:
            if required:
                raise BuildError(
                    f"{named or path}: its file system has no locks ({error.strerror or error}), and two builds there "
                    "would mix; give a folder on another file system, and copy it when it is finished"
                ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def folders_beside(out: Path, suffix: str, names: Sequence[str], *, writer: str) -> Iterator[list[Path]]:
    """Empty folders of these ``names`` next to ``out``, removed when the block ends, or by the next call after a kill.

    `BuildError` if another ``writer`` holds them.
    """
    work = out.absolute().with_name(f".{out.absolute().name}{suffix}")
    make_folder(work)
    with held_folder(work, writer, named=out):
        try:
            for name in names:
                remove_folder(work / name)
                (work / name).mkdir()
            yield [work / name for name in names]
        finally:
            remove_folder(work)
