"""Ranges of files through `fsspec`, which knows S3, GCS, Azure, HDFS, SFTP and more, each with a package of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from mimicit.errors import ShardError
from mimicit.loading.storage.transfer import TransferError

__all__ = ["FsspecTransport"]

T = TypeVar("T")


class FsspecTransport:
    """Reads files beneath ``url``; a `Transport`. Credentials and endpoints come from where fsspec takes them."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            extra = "hub" if url.startswith("hf://") else "remote"
            raise ShardError(f"{url}: needs fsspec; pip install 'mimicit[{extra}]'") from None
        try:
            # Instances are shared within a process by default, and one that a fork has copied does not work.
            self._system, self._root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            more = "; pip install 'mimicit[hub]'" if isinstance(error, ImportError) and url.startswith("hf://") else ""
            raise ShardError(f"{url}: {error}{more}") from None
        self._url = url

    def size(self, name: str, deadline_s: float) -> int:
        """See `Transport`."""

        def ask() -> int:
            self._system.invalidate_cache()  # listings are cached; a retry must not see the old one
            return int(self._system.info(f"{self._root}/{name}")["size"])

        return self._attempt(name, ask, deadline_s)

    def read(self, name: str, start: int, length: int, deadline_s: float) -> bytes:
        """See `Transport`."""
        path = f"{self._root}/{name}"
        return self._attempt(
            name, lambda: bytes(self._system.cat_file(path, start=start, end=start + length)), deadline_s
        )

    def close(self) -> None:
        """See `Transport`; fsspec closes its connections with the instance."""

    def _attempt(self, name: str, work: Callable[[], T], deadline_s: float) -> T:
        try:
            return _within(work, deadline_s)
        except FileNotFoundError:
            raise ShardError(f"{self._url}/{name}: no such file") from None
        except PermissionError as error:
            raise ShardError(f"{self._url}/{name}: access denied ({error})") from None
        except Exception as error:  # every back end has errors of its own; what they mean is not for us to know
            raise TransferError(f"{type(error).__name__}: {error}"[:300]) from error


def _within(work: Callable[[], T], seconds: float) -> T:
    """What ``work`` returns or raises; `TransferError` after ``seconds``. Not every back end has a time-out."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:  # carried to the waiting thread
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True, name="mimicit-transfer")
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TransferError(f"nothing came for {seconds:.0f} s")
    value, error = outcome[0]
    if error is not None:
        raise error
    result: T = value
    return result
