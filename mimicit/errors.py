"""Every error that mimicit raises on purpose, and the hint about a name that does not exist.

::

    MimicitError                 one line that names the file, the record and the fix
    ├── UsageError               options that contradict each other or name nothing (exit 2)
    ├── SourceError              an input file that cannot be read as a whole
    ├── RejectedError            one record, picture or clip that is left out; carries the reason code
    ├── SchemaError              a JSON value that does not match its schema
    ├── BuildError               a build that cannot start or continue
    │   └── ChangedInputError    the output folder belongs to another input or configuration
    ├── AnnotateError            asking a model for pairs cannot start or continue
    │   └── DamagedStoreError    bytes of the kept answers do not match their checksum
    ├── LinkError                a symbolic link in place of a folder that is to be cleared
    ├── ShardError               a shard folder that cannot be read
    │   ├── UnfinishedError      no manifest.json: the build was interrupted
    │   └── CorruptShardError    bytes that do not match the index or the checksum
    │       └── ChangedShardError  a whole shard that is missing, cut or not the one in the manifest
    └── TrainError               raised by otter_train: data, model and checkpoint disagree
"""

from __future__ import annotations

from collections.abc import Iterable


class MimicitError(Exception):
    """Base of all errors raised on purpose; ``str(error)`` is one line fit for a terminal."""

    def __init__(self, message: str = "") -> None:
        super().__init__(" ".join(message.splitlines()))  # a library's message may have several lines


class UsageError(MimicitError):
    """The options contradict each other, or name something that does not exist."""


class SourceError(MimicitError):
    """An input file is unreadable as a whole (damaged parquet, no JSON at all, ...)."""


class RejectedError(MimicitError):
    """One record, picture or clip cannot be used.

    ``reason`` is one of the codes in ``schemas/reject.json``; ``detail`` says what was found, in words.
    The build turns it into a row of ``rejects.parquet``.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[RejectedError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)  # two arguments: crosses process borders whole


class SchemaError(MimicitError):
    """A JSON value does not match its schema; the message names the place inside the value."""


class BuildError(MimicitError):
    """A build cannot start or continue (output folder in use, disk full, no usable input, ...)."""


class ChangedInputError(BuildError):
    """The output folder was begun from another input or configuration."""


class AnnotateError(MimicitError):
    """Asking a model for pairs cannot start or continue (store in use, disk full, the server refuses everything)."""


class DamagedStoreError(AnnotateError):
    """A kept answer of a model does not match its checksum; the message names the line."""


class LinkError(MimicitError):
    """A folder that is cleared without asking (work, cache, checkpoint) is a symbolic link, which is never followed."""


class ShardError(MimicitError):
    """A shard folder cannot be read."""


class UnfinishedError(ShardError):
    """The folder has no manifest.json, so its build was interrupted."""


class CorruptShardError(ShardError):
    """The bytes of a shard do not match the index or a checksum."""


class ChangedShardError(CorruptShardError):
    """A whole shard is missing, cut, or not the one that the manifest lists."""


class LostWorkerError(MimicitError):
    """A process that prepares batches was killed, so the next batch does not come."""


class TrainError(MimicitError):
    """Raised by ``otter_train``: data, model and checkpoint disagree."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name in ``known`` that ``name`` most likely misspells; None if none is close."""
    import difflib  # rarely needed, and every module imports this one

    close = difflib.get_close_matches(name, list(known), n=1)
    return close[0] if close else None


def hint(name: str, known: Iterable[str]) -> str:
    """The hint for a ``name`` that is not in ``known``: the closest known name, or all of them if none is close."""
    known = list(known)
    close = nearest(name, known)
    return f"did you mean {close}?" if close else f"there are: {', '.join(known)}"
