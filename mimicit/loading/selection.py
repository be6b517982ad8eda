"""Which samples of a folder take part: a filter on the columns of its index, decided before anything is ordered."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mimicit.errors import UsageError, hint, nearest
from mimicit.loading.storage.store import Store
from mimicit.shards.index import INDEX_SCHEMA, RELATIONS

_KINDS = ("image", "text", "video")
_COUNTED = ("triplets", "media", "frames", "characters")
_PLACES = ("shard", "offset", "size", "member_offsets", "member_sizes")  # change when a folder is only cut differently
_NAMED = 8  # sources in an error
_COLUMNS = [name for name in INDEX_SCHEMA.names if name not in _PLACES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Conditions that a sample must all meet; a field that is None sets no condition.

    ``source``, ``relation`` and ``kind`` take one name or several, of which one must fit: the source, a relation that
    one of its context triplets has, or what it shows (``image``: at least one picture, ``video``: at least one clip,
    ``text``: no media). The limits are inclusive, and count as the index does: ``frames`` are all pictures and video
    frames, ``characters`` those of all instructions and answers.
    """

    source: str | Collection[str] | None = None
    relation: str | Collection[str] | None = None
    kind: str | Collection[str] | None = None
    min_triplets: int | None = None
    max_triplets: int | None = None
    min_media: int | None = None
    max_media: int | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    min_characters: int | None = None
    max_characters: int | None = None

    def __post_init__(self) -> None:
        for name in _names(self.relation):  # strategies of other packages make relations of their own
            if nearest(name, RELATIONS):
                _check_names("relation", [name], RELATIONS)
        _check_names("kind", _names(self.kind), _KINDS)

    def expression(self, relations: Collection[str] = RELATIONS) -> Any | None:
        """The conditions as one `pyarrow.compute.Expression`; None if there are none.

        ``relations`` are those that the index counts; `UsageError` if a condition names another.
        """
        _check_names("relation", _names(self.relation), relations)
        tests = []
        if self.source is not None:
            tests.append(pc.field("source").isin(_names(self.source)))
        if self.relation is not None:
            tests.append(_any([pc.field("relations", name) > 0 for name in _names(self.relation)]))
        if self.kind is not None:
            tests.append(_any([_shows(name) for name in _names(self.kind)]))
        for name in _COUNTED:
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if least is not None:
                tests.append(pc.field(name) >= least)
            if most is not None:
                tests.append(pc.field(name) <= most)
        return reduce(and_, tests) if tests else None


Condition: TypeAlias = Where | Mapping[str, Any] | pc.Expression
"""`Where`, its fields as a mapping (from a configuration file, say), or any Arrow expression over the index."""


def select_rows(store: Store, condition: Condition | None) -> NDArray[np.int64] | None:
    """The rows that meet ``condition``, ascending; None for all of them.

    An Arrow expression may use the columns of ``mimicit.shards.index.INDEX_SCHEMA`` that do not say where a sample
    lies; a row for which it is null is left out. `UsageError` if it cannot be computed, or nothing is left.
    """
    if isinstance(condition, Mapping):
        _check_names("where", condition, [field.name for field in dataclasses.fields(Where)])
        condition = Where(**condition)
    if condition is None or (isinstance(condition, Where) and condition == Where()):
        return None
    table = store.columns(_COLUMNS)
    counted = [field.name for field in table.schema.field("relations").type]
    expression = condition.expression(counted) if isinstance(condition, Where) else condition
    numbered = table.append_column("_row", pa.array(np.arange(table.num_rows)))
    try:
        rows: NDArray[np.int64] = numbered.filter(expression)["_row"].to_numpy()
    except (pa.ArrowException, TypeError) as error:
        raise UsageError(f"where={expression}: {error}; the index has {', '.join(_COLUMNS)}") from None
    if not rows.size:
        sources = sorted(set(table["source"].unique().to_pylist()))
        there = f"its sources are {', '.join(sources[:_NAMED])}{', …' * (len(sources) > _NAMED)}"
        asked = f"where={_in_words(condition)}"
        raise UsageError(f"{store.location}: none of {table.num_rows:,} samples meets {asked}; {there}")
    return rows


def _in_words(condition: Condition) -> str:
    """Only what is set of a `Where`."""
    if not isinstance(condition, Where):
        return str(condition)
    return str({name: value for name, value in dataclasses.asdict(condition).items() if value is not None})


def _any(tests: list[Any]) -> Any:
    return reduce(or_, tests, pc.scalar(False))


def _shows(kind: str) -> Any:
    if kind == "text":
        return pc.field("media") == 0
    return pc.field("videos") > 0 if kind == "video" else pc.field("media") > pc.field("videos")


def _names(value: str | Collection[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else sorted(value or ())


def _check_names(what: str, names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"{what}: {name!r} is not known; {hint(name, known)}")
