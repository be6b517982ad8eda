"""The files beneath a URL such as ``s3://bucket/folder``, through `fsspec`: list, fetch, store, compare, remove.

What a bucket holds is as untrusted as any input: an object's name becomes a path on this machine only if it stays
beneath the folder that it is fetched to. The back end finds credentials and endpoints itself (in the environment, in
its files); they are not handled here.

``hf://datasets/ORG/NAME[@REVISION][/FOLDER]`` is a data set of the Hugging Face Hub, at a commit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

from mimicit.errors import BuildError, MimicitError, SourceError, UsageError
from mimicit.shards.files import publish

_CHUNK_BYTES: Final = 8 * 1024**2
_MAX_NAME_BYTES: Final = 255  # of one component, on the usual file systems
_LOCAL: Final = "file://"
# What tells one content of an object from another, best first, by the names that back ends use.
_TOKENS: Final = ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "LastModified", "updated", "mtime", "created")

_SCHEME: Final = "hf://"
_PLACE: Final = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(?P<path>.*))?",
    re.ASCII,
)


def is_remote(location: str) -> bool:
    """Whether ``location`` is a URL, other than a ``file://`` URL."""
    return "://" in location and not location.startswith(_LOCAL)


def local_path(location: str) -> Path:
    """The path of ``location``, which is a path or a ``file://`` URL."""
    return Path(location.removeprefix(_LOCAL))


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteObject:
    """``size`` is in bytes; ``token`` changes with the content (an ETag, or else a time)."""

    size: int
    token: str


class RemoteFiles:
    """The files beneath ``url``; names are relative to it. `BuildError` if the back end fails."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            import fsspec
        except ImportError:
            raise UsageError(f"{url}: needs fsspec; pip install 'mimicit[s3]', or fsspec and its back end") from None
        try:
            self._system, root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:  # a back end that is not installed, or an unknown scheme
            raise UsageError(f"{url}: {error}") from None
        self._root: str = root.rstrip("/")

    def holds(self, other: RemoteFiles) -> str | None:
        """The name of the folder ``other`` relative to this one, or None if it is not inside it."""
        if type(self._system) is not type(other._system) or not other._root.startswith(f"{self._root}/"):
            return None
        return other._root[len(self._root) + 1 :]

    def list(self) -> dict[str, RemoteObject]:
        """All files, by name; `SourceError` if a name cannot be a path beneath a folder."""
        with self._failures(""):
            self._system.invalidate_cache()
            found: Mapping[str, dict[str, Any]] = self._system.find(self._root, detail=True)
        objects = {}
        for path, info in found.items():
            name = path[len(self._root) + 1 :]
            if not path.startswith(f"{self._root}/"):
                raise SourceError(f"{self.url}: is a file; give a folder")
            if name.endswith("/") and not info["size"]:
                continue  # stands for a folder
            self._check_name(name)
            token = next((str(info[key]) for key in _TOKENS if info.get(key)), "")
            objects[name] = RemoteObject(size=int(info["size"]), token=token)
        self._check_folders(objects)
        return objects

    def read(self, name: str) -> bytes | None:
        """The content of a small file; ``None`` if it does not exist."""
        with self._failures(name):
            self._system.invalidate_cache()
            try:
                return bytes(self._system.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def fetch(self, name: str, path: Path, size: int) -> None:
        """Copy a file of ``size`` bytes to ``path``, which is absent or complete."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{hashlib.sha256(path.name.encode()).hexdigest()[:16]}.tmp")
        with self._failures(name), publish(path, temporary) as file:
            for chunk in self._chunks(name):
                file.write(chunk)
            if file.tell() != size:
                raise BuildError(
                    f"{self.url}/{name}: {file.tell():,} bytes came where the listing says {size:,}; did it change?"
                    " run the same command again to go on"
                )

    def store(self, path: Path, name: str, sha256: str) -> None:
        """Upload the file ``path`` as ``name``, and read it back to check its ``sha256``; else `BuildError`."""
        with self._failures(name):
            self._system.put_file(str(path), self._path(name))
            self._system.invalidate_cache()
        if self.sha256(name) != sha256:
            raise BuildError(f"{self.url}/{name}: is not what was sent there; run the same command again to go on")

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file, in hexadecimal; reads all of it."""
        digest = hashlib.sha256()
        with self._failures(name):
            for chunk in self._chunks(name):
                digest.update(chunk)
        return digest.hexdigest()

    def remove(self, name: str) -> None:
        """Remove a file."""
        with self._failures(name):
            self._system.rm_file(self._path(name))
            self._system.invalidate_cache()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _chunks(self, name: str) -> Iterator[bytes]:
        with self._system.open(self._path(name), "rb", block_size=_CHUNK_BYTES) as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    def _check_name(self, name: str) -> None:
        steps = name.split("/")
        if (
            any(step in ("", ".", "..") or len(step.encode("utf-8", "replace")) > _MAX_NAME_BYTES for step in steps)
            or "\0" in name
        ):
            raise SourceError(
                f"{self.url}: holds {name[:200]!r}, which is no path beneath a folder; rename or remove it"
            )

    def _check_folders(self, objects: Mapping[str, RemoteObject]) -> None:
        """`SourceError` if ``a`` and ``a/b`` are both files, which a bucket allows and a disk does not."""
        for name in objects:
            folder = name
            while folder := folder.rpartition("/")[0]:
                if folder in objects:
                    raise SourceError(f"{self.url}: holds {folder!r} and {name!r}: a file and a folder of one name")

    @contextmanager
    def _failures(self, name: str) -> Iterator[None]:
        place = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except MimicitError:
            raise
        except Exception as error:  # every back end has errors of its own; all mean that it failed
            what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise BuildError(f"{place}: {what}; fix this and run the same command again to go on") from error


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A data set ``repo`` (``ORG/NAME``), its branch, tag or commit if one is named, and a folder in it or ``""``."""

    repo: str
    revision: str | None
    path: str

    def at(self, commit: str) -> str:
        """The URL of the same place at ``commit``."""
        return f"{_SCHEME}datasets/{self.repo}@{quote(commit, safe='')}{f'/{self.path}' if self.path else ''}"


def is_on_hub(location: str) -> bool:
    """Whether ``location`` is a URL of the Hub."""
    return location.startswith(_SCHEME)


def hub_place(location: str) -> HubPlace:
    """The data set that ``location`` names; `UsageError` if it is not the URL of one."""
    found = _PLACE.fullmatch(location)
    if found is None:
        raise UsageError(f"{location}: is no data set of the Hub; hf://datasets/ORG/NAME[@REVISION] is one")
    revision = found["revision"]
    return HubPlace(found["repo"], unquote(revision) if revision else None, (found["path"] or "").strip("/"))


def pinned(location: str) -> tuple[str, str]:
    """(the same URL at a commit, that commit), as a branch may move while it is read.

    `UsageError` if the extra is missing or there is no such place; `BuildError` if the Hub does not answer.
    """
    place = hub_place(location)
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    except ModuleNotFoundError:
        raise UsageError(f"{location}: needs huggingface_hub: pip install 'mimicit[hub]'") from None
    try:
        commit = HfApi().dataset_info(place.repo, revision=place.revision).sha
    except RevisionNotFoundError:
        raise UsageError(f"{location}: {place.repo} has no revision {place.revision!r}") from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"{location}: no such data set, or a private one; log in with hf auth login, or set HF_TOKEN"
        ) from None
    except Exception as error:  # the libraries below have errors of their own; all mean that the Hub did not answer
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise BuildError(f"{location}: {said}; fix this and run the same command again") from error
    if commit is None:
        raise BuildError(f"{location}: the Hub does not say at which commit it is")
    return place.at(commit), commit
