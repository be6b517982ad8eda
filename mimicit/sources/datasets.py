"""Tables of `datasets`: folders written by ``save_to_disk`` (Arrow), and parquet files with pictures inside.

One row is one record:

- Pictures: every column of pictures (``{bytes, path}``, or a list of them), in the order of the columns. The bytes
  win; a picture with a path alone is looked for beside the table, then from ``--src``. None: the row is text only.
- ``texts`` (a list of ``{user, assistant}``, as in the Cauldron) or ``conversations`` (as in LLaVA): a talk about the
  pictures, which are shown first unless placeholders say where. Other fields of ``texts`` go to ``meta``.
- Otherwise the first of ``question``, ``query``, ``prompt``, ``instruction`` is the instruction, and the first of
  ``answer``, ``answers``, ``label``, ``text``, ``caption``, ``output``, ``response`` that holds text is the answer; of
  a list of answers, the most frequent one. Without an instruction, the answer is taken for a caption.
- ``related instructions`` (the MIMIC-IT tables of the Hub): the related ids. Rows there may show a clip by its frames.
- ``id``, else the name of the file and the row. All other columns of values that JSON can hold go to ``meta``.
- The numbers of a column of class labels become the names that the features of the table give them.

The parts of one split (``train-00000-of-00005.parquet``) are one source.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from mimicit.errors import RejectedError
from mimicit.sources.base import PICTURES, Item, MediaRef, Needs, RawTriplet, Reject, SourceFormat, SourceSpec
from mimicit.sources.captions import instruction_or_caption
from mimicit.sources.media_names import folder_of
from mimicit.sources.mimicit_ids import clip_of, conversation_of, names_clip
from mimicit.sources.root import Root
from mimicit.sources.sniff import Head, sniff
from mimicit.sources.table_rows import is_pictures, table_rows
from mimicit.sources.talk import TALK_KEYS, Turn, rejected_turns, system_text, talk_triplets, turns_of
from mimicit.sources.text import checked_answer, checked_id, checked_ids, checked_meta

__all__ = ["DATASETS"]

_TEXTS: Final = "texts"
_RELATED: Final = "related instructions"
_QUESTIONS: Final = ("question", "query", "prompt", "instruction")
_ANSWERS: Final = ("answer", "answers", "label", "text", "caption", "output", "response")
_PART: Final = re.compile(r"-\d{5}-of-\d{5}.*$", re.ASCII)
_OWN_FILES: Final = ("dataset_info.json", "state.json")
_LEFTOVERS: Final = ("cache-", "tmp")  # of `map` and `filter`, in the folder of the data they were made from


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    splits: dict[tuple[str, str, str], list[str]] = {}
    for path, head in sorted(heads.items()):
        if _is_table(path, head, force=force):
            stem = path.rpartition("/")[2].rpartition(".")[0]
            splits.setdefault((head.kind, folder_of(path), _PART.sub("", stem)), []).append(path)
    sources = []
    for (kind, folder, stem), paths in sorted(splits.items()):
        own = [path for name in _OWN_FILES if (path := f"{folder}/{name}".strip("/")) in heads] * (kind == "arrow")
        name = folder if kind == "arrow" and stem == "data" and folder else f"{folder}/{stem}".strip("/")
        why = f"{len(paths)} {kind} tables with {_shown_columns(heads[paths[0]])}"
        sources.append(SourceSpec(name=name, format="datasets", files=(*paths, *own), why=why))
    return sources


def _is_table(path: str, head: Head, *, force: bool) -> bool:
    if head.kind == "arrow":
        # No other format is kept in Arrow, so one that cannot be read or used is a fault to be named.
        return not path.rpartition("/")[2].startswith(_LEFTOVERS)
    if head.kind != "parquet":
        return False
    has_pictures = any(map(is_pictures, head.fields.values()))
    says = not head.fields.keys().isdisjoint(_ANSWERS) or _is_talk(head.fields)
    return force or (has_pictures and says) or _is_talk(head.fields)


def _is_talk(columns: Mapping[str, str]) -> bool:
    texts = columns.get(_TEXTS, "")
    talks = [columns.get(key, "") for key in TALK_KEYS]
    return ("user: " in texts and "assistant: " in texts) or any(
        ("from: " in talk and "value: " in talk) or ("role: " in talk and "content: " in talk) for talk in talks
    )


def _shown_columns(head: Head) -> str:
    pictures = [name for name, kind in head.fields.items() if is_pictures(kind)]
    texts = [name for name in (_TEXTS, *TALK_KEYS, *_QUESTIONS, *_ANSWERS) if name in head.fields]
    return f"pictures ({', '.join(pictures) or 'none'}) and texts ({', '.join(texts) or 'none'})"


def _read(spec: SourceSpec, root: Root) -> Iterator[Item]:
    for path in spec.files:
        kind = sniff(root, path).kind
        if kind not in ("arrow", "parquet"):
            continue  # what else lies in the folder of a saved data set
        stem = path.rpartition("/")[2].rpartition(".")[0]
        for number, found in enumerate(table_rows(root, path, is_arrow=kind == "arrow")):
            place, id = f"{path}[{number}]", ""
            try:
                if isinstance(found, RejectedError):
                    raise found
                row, pictures = found
                id = checked_id(row["id"]) if row.get("id") is not None else f"{stem}-{number}"
                yield from _items(spec, row, pictures, id=id, place=place)
            except RejectedError as error:
                yield spec.reject(error.reason, place=place, id=id, detail=error.detail)


DATASETS: Final = SourceFormat(
    claim=_claim,
    read=_read,
    needs=(Needs(("parquet", "arrow"), ((PICTURES,), (*_ANSWERS, *TALK_KEYS))),),
)


def _items(
    spec: SourceSpec, row: Mapping[str, Any], pictures: tuple[MediaRef, ...], *, id: str, place: str
) -> Iterator[RawTriplet | Reject]:
    if isinstance(row.get(_TEXTS), list):
        turns, used = [_turn(entry) for entry in row[_TEXTS]], {_TEXTS}
    elif any(isinstance(row.get(key), list) for key in TALK_KEYS):
        talk = {key: row[key] for key in TALK_KEYS if row.get(key) is not None}
        turns, used = turns_of(talk), set(TALK_KEYS)
        row = {**system_text(talk), **row}
    else:
        yield _triplet(row, pictures, id=id, place=place)
        return
    if not turns:
        raise RejectedError("malformed", f"{_TEXTS} is an empty list")
    try:
        meta = checked_meta(_free(row, used))
    except RejectedError as error:
        yield from rejected_turns(spec, turns, error, id=id, place=place)
    else:
        yield from talk_triplets(spec, turns, media=pictures, meta=meta, id=id, place=place, placeholders_needed=False)


def _turn(entry: object) -> Turn:
    return Turn(entry.get("user"), entry.get("assistant")) if isinstance(entry, dict) else Turn(None, None)


def _triplet(row: Mapping[str, Any], pictures: tuple[MediaRef, ...], *, id: str, place: str) -> RawTriplet:
    question = next((name for name in _QUESTIONS if row.get(name) is not None), "")
    named = [name for name in _ANSWERS if name in row]
    if not named:
        raise RejectedError("malformed", f"the table has none of the columns {', '.join((_TEXTS, *_ANSWERS))}")
    answer = next((name for name in named if _is_text(row[name])), named[0])
    is_hub_table = _RELATED in row
    if is_hub_table and len(pictures) > 1 and names_clip(id):
        pictures = (clip_of(pictures, origin=id),)
    talk = conversation_of(id) if is_hub_table else None
    return RawTriplet(
        id=id,
        place=place,
        media=pictures,
        instruction=instruction_or_caption(row.get(question), id, pictures),
        answer=checked_answer(_most_frequent(row[answer])),
        related=checked_ids(row.get(_RELATED), _RELATED),
        conversation=talk[0] if talk else None,
        turn=talk[1] if talk else 0,
        meta=checked_meta(_free(row, {question, _RELATED, *({answer} if isinstance(row[answer], str) else ())})),
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value) and all(map(_is_text, value)))


def _most_frequent(value: object) -> object:
    """The most frequent of several answers, of those the first; anything else as it is."""
    return Counter(value).most_common(1)[0][0] if isinstance(value, list) and _is_text(value) else value


def _free(row: Mapping[str, Any], used: Collection[str]) -> dict[str, Any]:
    """The other columns, and what the entries of ``texts`` say beside question and answer (their ``source``)."""
    free = {key: value for key, value in row.items() if key != "id" and key not in used and value is not None}
    texts = row.get(_TEXTS)
    if _TEXTS in used and isinstance(texts, list):
        entries = [entry for entry in texts if isinstance(entry, dict)]
        for key in dict.fromkeys(key for entry in entries for key in entry if key not in ("user", "assistant")):
            said = list(dict.fromkeys(entry[key] for entry in entries if isinstance(entry.get(key), str)))
            if said:
                free[key] = said[0] if len(said) == 1 else said
    return free
