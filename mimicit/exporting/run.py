"""One export from start to end: shards in, a folder that appears under its name only when it is whole.

The formats stand here by name; a new one is a file of its own and a line here, or comes with a package.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mimicit import plugins
from mimicit.errors import BuildError, CorruptShardError, UsageError
from mimicit.exporting.base import Exporter
from mimicit.exporting.datasets import export_datasets
from mimicit.exporting.files import export_files
from mimicit.exporting.llava import export_llava
from mimicit.exporting.mimicit import export_mimicit
from mimicit.exporting.mmc4 import export_mmc4
from mimicit.inspecting.summary import iterate_samples
from mimicit.records import Sample
from mimicit.shards.files import sync_folder
from mimicit.shards.folders import folders_beside
from mimicit.shards.manifest import read_manifest
from mimicit.shards.soundness import checksum_faults, sample_faults


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export did: samples read, records and media written, and counts of what the format cannot hold."""

    path: str
    format: str
    samples: int
    records: int
    media: int
    lost: dict[str, int]


def export_shards(
    shards: Path, out: Path, to: str, *, on_progress: Callable[[int], None] = lambda samples: None
) -> ExportReport:
    """Write the samples of ``shards`` (a folder or one shard file) as the format ``to`` into the folder ``out``.

    The same shards give the same bytes. ``on_progress`` gets the number of samples read so far. Raises `UsageError`
    (no such format), `ShardError` (the shards), `BuildError` (``out`` is not empty, nothing to export, the disk).
    """
    if to not in EXPORTERS:
        raise UsageError(f"--to: no format {to!r}; there are: {', '.join(EXPORTERS)}")
    _refuse_occupied(out)
    counter = _Counter(on_progress)
    samples = counter.count(_sound_samples(shards))
    try:
        with folders_beside(out, ".tmp", ("folder", "scratch"), writer="mimicit export") as (folder, scratch):
            written = EXPORTERS[to](samples, folder, scratch)
            if not written.records:
                raise BuildError(f"{shards}: the format {to} can hold none of its {counter.samples} samples")
            _publish(folder, out)
    except OSError as error:
        raise BuildError(f"{error.filename or out}: {error.strerror}; fix this and export again") from error
    except sqlite3.Error as error:  # of the database in the scratch folder
        raise BuildError(f"{out.absolute().parent}: {error}; make room there and export again") from error
    return ExportReport(
        path=str(out),
        format=to,
        samples=counter.samples,
        records=written.records,
        media=written.media,
        lost=dict(sorted(written.lost.items())),
    )


def _sound_samples(shards: Path) -> Iterator[Sample]:
    """All samples in order; `CorruptShardError` at the first that breaks the shard format.

    The exporters rely on it: names of files are checksums, and media are shown in order.
    """
    is_foreign = shards.is_dir() and read_manifest(shards)["layout"] == "foreign"
    for key, sample in iterate_samples(shards):
        # Foreign tars keep their own keys.
        for fault in (*sample_faults(sample, None if is_foreign else key), *checksum_faults(sample)):
            raise CorruptShardError(f"{shards}: {key}: {fault}; mimicit verify tells all that is wrong")
        yield sample


class _Counter:
    """Counts the samples that pass, and reports the count."""

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self._on_progress = on_progress
        self.samples = 0

    def count(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        for sample in samples:
            self.samples += 1
            self._on_progress(self.samples)
            yield sample


def _refuse_occupied(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise BuildError(f"{out}: is no folder; give --out a new or an empty one")
    if out.exists() and any(out.iterdir()):
        raise BuildError(f"{out}: is not empty; give --out a new or an empty folder")


def _publish(folder: Path, out: Path) -> None:
    os.sync()  # one for all files: an export may hold millions of small ones
    os.replace(folder, out)  # fails if `out` has been filled meanwhile
    sync_folder(out.absolute().parent)


_OURS: Final[dict[str, Exporter]] = {
    "datasets": export_datasets,
    "files": export_files,
    "llava": export_llava,
    "mimicit": export_mimicit,
    "mmc4": export_mmc4,
}

EXPORTERS: Final[dict[str, Exporter]] = {**_OURS, **plugins.added(plugins.EXPORTERS, None, _OURS)}
"""The exporters by their names on the command line."""
