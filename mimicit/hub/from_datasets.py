"""Shards from a data set of `datasets` in memory: its rows are written to disk once, and built from there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from mimicit.errors import BuildError, SourceError, UsageError
from mimicit.hub import needed
from mimicit.pipeline.config import BuildConfig
from mimicit.pipeline.run import BuildResult, build_shards
from mimicit.shards.folders import folders_beside

if TYPE_CHECKING:
    import datasets

_ROWS_AT_ONCE: Final = 64  # some MiB of pictures
_NOT_IN_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_DEFAULT_NAME: Final = "rows"


def from_datasets(
    rows: datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict,
    out: str | Path,
    config: BuildConfig | None = None,
    *,
    name: str | None = None,
    **options: Any,
) -> BuildResult:
    """Build shards at ``out`` from the rows of a `datasets.Dataset`, a stream, or a dictionary of splits.

    The columns mean what they mean in a file (docs/formats.md): a question and its answer, a conversation, a caption,
    or what `to_datasets` made, which becomes the same samples again. Each split is a source by its name; a data set
    that is not a split is called ``name`` (or ``rows``). ``config`` and ``options`` are those of `build_shards`.

    The rows, after ``filter``, ``select`` and ``map``, are written to a folder next to ``out`` and removed after the
    build: the bytes of their pictures are copied once, and never decoded for it. Run again with the same rows after an
    interruption, it continues where it stopped.

    `UsageError` if it is not a data set or the extra ``hub`` is missing; `SourceError` if a picture cannot be read, or
    there is no row; otherwise errors as those of `build_shards`.
    """
    library = needed("datasets", "from_datasets")
    splits = _splits(library, rows, name)
    from mimicit.hub.in_shards import register  # needs fsspec, which comes with the extra

    register()  # of a table that `to_datasets` made
    out = Path(out)
    with folders_beside(out, ".rows", ("rows",), writer="from_datasets") as (folder,):
        try:
            for split, part in splits.items():
                _write(library, part, folder / f"{split}.arrow")
        except OSError as error:
            if error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(folder):
                raise BuildError(f"{folder}: {error.strerror or error}; make room there and build again") from error
            raise SourceError(f"{error.filename}: a row names this picture, and it cannot be read: {error}") from error
        return build_shards(folder, out, config or BuildConfig(), **options)


def _splits(library: Any, rows: Any, name: str | None) -> dict[str, Any]:
    """The data sets in ``rows``, by names that can be names of files."""
    if isinstance(rows, Mapping):
        found = {str(split): part for split, part in rows.items()}
    else:
        found = {name or str(getattr(rows, "split", None) or _DEFAULT_NAME): rows}
    kinds = (library.Dataset, library.IterableDataset)
    if not found or not all(isinstance(part, kinds) for part in found.values()):
        raise UsageError(f"from_datasets takes a data set of datasets, or a dictionary of such, not {rows!r:.80}")
    return {_NOT_IN_NAME.sub("-", split).strip("-.") or _DEFAULT_NAME: part for split, part in found.items()}


def _write(library: Any, rows: Any, path: Path) -> None:
    """``rows`` as an Arrow stream at ``path``, with the pictures that they name inside."""
    tables = rows.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE)
    first = next(tables, None)
    if first is None:
        raise SourceError(f"{path.stem}: the data set has no row")
    features = rows.features or library.Features.from_arrow_schema(first.schema)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, features.arrow_schema) as writer:
        for table in chain([first], tables):
            whole = library.table.embed_table_storage(library.table.cast_table_to_features(table, features))
            writer.write_table(whole)
