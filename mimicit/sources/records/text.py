"""The checks that every text, id and free field passes on its way in, whatever the format.

A checked text has no NUL, no lone surrogate and no white space at its ends. What looks like a special token of the
prompt is left as plain words (see `mimicit.prompt`); only a question may not hold ``<image>``, which says that
something is shown. All errors are `RejectedError`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from typing import Any, Final

from mimicit.errors import RejectedError, SchemaError
from mimicit.prompt import IMAGE
from mimicit.schema import canonical_json, null_for_nan

MAX_TEXT_CHARACTERS: Final = 1_000_000
_MAX_ID_CHARACTERS: Final = 4096
MAX_META_BYTES: Final = 1_000_000
_FIELDS: Final = frozenset({"id", "instruction", "answer", "related", "meta"})


def checked_text(value: object, field: str) -> str:
    """``value`` without white space at its ends.

    Reasons: ``malformed`` (not text, NUL, lone surrogates), ``too_long`` (more than `MAX_TEXT_CHARACTERS`).
    """
    if not isinstance(value, str):
        raise RejectedError("malformed", f"{field} must be text, not {shown(value)}")
    if len(value) > MAX_TEXT_CHARACTERS:
        raise RejectedError("too_long", f"{field} has {len(value)} characters, more than {MAX_TEXT_CHARACTERS}")
    if "\0" in value or not is_unicode(value):
        raise RejectedError("malformed", f"{field} holds a NUL or half a surrogate pair")
    return value.strip()


def checked_instruction(value: object) -> str:
    """``value`` as the text of an instruction. Reasons: those of `checked_text`, and ``placeholder_mismatch``.

    The latter is for ``<image>``: by now, the placeholders that show something are removed (see `placeholders`).
    """
    text = checked_text(value, "instruction")
    if IMAGE in text:
        raise RejectedError("placeholder_mismatch", f"the instruction holds {IMAGE}, which shows nothing")
    return text


def checked_answer(value: object) -> str:
    """``value`` as the text of an answer; numbers and booleans become the text that JSON writes for them.

    A whole float becomes an integer (``2.0`` is ``"2"``: tables turn a column of integers with a hole into floats).
    Reasons: those of `checked_text`, and ``empty_answer`` (null, or nothing but white space).
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if value is None or value != value:
        raise RejectedError("empty_answer", "there is no answer" if value is None else "the answer is NaN")
    text = checked_text(value, "answer")
    if not text:
        raise RejectedError("empty_answer", "the answer is empty")
    return text


def answer_of(record: Mapping[str, Any]) -> str:
    """The field ``answer`` of ``record`` through `checked_answer`; ``malformed`` if there is no such field."""
    if "answer" not in record:
        raise RejectedError("malformed", "the record has no field 'answer'")
    return checked_answer(record["answer"])


def checked_id(value: object, field: str = "id") -> str:
    """``value`` as an id: text of 1 to 4096 characters, or a whole number. Reason: ``malformed``."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_ID_CHARACTERS:
        limits = f"text of 1 to {_MAX_ID_CHARACTERS} characters or a whole number"
        raise RejectedError("malformed", f"{field} must be {limits}, not {shown(value)}")
    if "\0" in value or not is_unicode(value):
        raise RejectedError("malformed", f"{field} holds a NUL or half a surrogate pair")
    return value


def checked_ids(value: object, field: str) -> tuple[str, ...]:
    """``value`` as several ids: a list, one bare id, or nothing (absent, null, empty). Reason: ``malformed``."""
    if value is None or value == "":
        return ()
    if not isinstance(value, list):
        return (checked_id(value, field),)
    return tuple(checked_id(entry, f"{field}[{index}]") for index, entry in enumerate(value))


def checked_meta(value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` as free fields that JSON can hold, but for NaN and infinities, which the build makes null.

    Reasons: ``malformed``, ``too_long`` (a megabyte).
    """
    meta = dict(value)
    if meta and len(_canonical(meta, "meta")) > MAX_META_BYTES:
        raise RejectedError("too_long", f"the free fields take more than {MAX_META_BYTES} bytes")
    return meta


def free_fields(fields: Mapping[str, Any], used: Collection[str] = ()) -> dict[str, Any]:
    """The ``fields`` that are neither ``used`` nor a triplet's own, together with the entries of the field ``meta``.

    A field wins over an entry of ``meta`` with the same name. Raises `RejectedError`.
    """
    meta = fields.get("meta")
    free = dict(meta) if isinstance(meta, dict) else {"meta": meta} if meta is not None else {}
    for name, value in fields.items():
        is_flag = name == "query" and isinstance(value, bool)
        if name not in _FIELDS and name not in used and not is_flag and value is not None:
            free[name] = value
    return checked_meta(free)


def derived_id(record: Mapping[str, Any]) -> str:
    """The id of a record that has none: 96 bits of a hash of its content, so it does not depend on the order."""
    return hashlib.blake2b(_canonical(dict(record), "record"), digest_size=12).hexdigest()


def own_or_derived_id(record: Mapping[str, Any]) -> str:
    """The field ``id`` of ``record`` through `checked_id`; if it has none, `derived_id`."""
    return checked_id(record["id"]) if record.get("id") is not None else derived_id(record)


def shown(value: object) -> str:
    """``value`` for a message: its type and its beginning, printable whatever it holds."""
    if value is None:
        return "null"
    return f"{type(value).__name__} {value!a:.60}" if isinstance(value, str | int | float) else type(value).__name__


def is_unicode(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8: it holds no half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _canonical(value: dict[str, Any], field: str) -> bytes:
    try:
        return canonical_json(value)
    except SchemaError:
        try:
            return canonical_json(null_for_nan(value))
        except (SchemaError, RecursionError) as error:
            raise RejectedError("malformed", f"{field}: {error}") from None
