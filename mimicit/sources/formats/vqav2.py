"""VQAv2: a file of questions, and a file with their answers, joined by ``question_id``.

The file of answers has the same ``data_subtype``; one in the folder of the questions is preferred, then the one with
the most similar name. A test split has none, and each of its questions is a reject. The answer of a triplet is
``multiple_choice_answer`` or, if that is absent as in OK-VQA, the most frequent of ``answers``; ``answers`` (those of
all ten people), ``question_type`` and ``answer_type`` go to ``meta``.

Pictures are ``COCO_{data_subtype}_{image_id:012d}.jpg``, or without the prefix as in COCO 2017, looked for first in a
folder ``{data_subtype}``, then where all formats look (see `finding`). The answers are kept on disk until their
questions are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import takewhile
from typing import Any, Final

import orjson

from mimicit.errors import RejectedError, SchemaError
from mimicit.placeholders import question_about
from mimicit.schema import canonical_json, null_for_nan
from mimicit.sources.containers.disk_table import read_joined, repeated_answer, unused_answer
from mimicit.sources.containers.json_members import blocks_of_member, first_of_members, member_rows
from mimicit.sources.files.finding import media_ref
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.format import Join, Lookup, Needs, SourceFormat, SourceSpec
from mimicit.sources.items import Entry, Item, MediaRef, Note, Piece, RawTriplet, Reject, Row
from mimicit.sources.records.each_row import triplets_of_rows
from mimicit.sources.records.pieces import cut_list, joined_pieces
from mimicit.sources.records.text import (
    MAX_META_BYTES,
    checked_answer,
    checked_id,
    checked_instruction,
    checked_meta,
    shown,
)
from mimicit.sources.sniff import Head

_OBJECTS: Final = frozenset({"object", "lines"})  # a small object fits on one line
_KNOWN_KEYS: Final = frozenset({"question_id", "image_id", "question"})
_SUBTYPE: Final = "data_subtype"


def _claim(root: Root, heads: Mapping[str, Head], *, force: bool = False) -> list[SourceSpec]:
    answers = [path for path, head in sorted(heads.items()) if _is_about(head, "annotations")]
    subtypes = {path: _subtype(root, path) for path in answers}
    sources = []
    for path, head in sorted(heads.items()):
        if _is_about(head, "questions") or (force and head.kind in _OBJECTS and path not in answers):
            found = _answers_of(path, _subtype(root, path), subtypes)
            why = f"questions by question_id; {len(found)} file with their answers"
            name = path.rpartition(".")[0] or path
            sources.append(SourceSpec(name=name, format="vqav2", files=(path, *found), why=why))
    return sources


def _is_about(head: Head, name: str) -> bool:
    needed = {f"{name}[].question_id", f"{name}[].image_id"}
    return head.kind in _OBJECTS and head.any(lambda fields: needed <= fields.keys())


def _subtype(root: Root, path: str) -> str:
    value = first_of_members(root, path, until=_SUBTYPE).get(_SUBTYPE)
    return value if isinstance(value, str) else ""


def _answers_of(path: str, subtype: str, subtypes: Mapping[str, str]) -> list[str]:
    """The file with the answers to the questions at ``path``, if there is one."""
    fitting = [other for other, known in subtypes.items() if known == subtype]
    if not fitting:
        return []
    return [min(fitting, key=lambda other: (folder_of(other) != folder_of(path), -_alike(path, other), other))]


def _alike(path: str, other: str) -> int:
    """How many characters the names of two files have in common at their beginning."""
    names = zip(path.rpartition("/")[2], other.rpartition("/")[2], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], names))


def _questions(spec: SourceSpec, root: Root, answers: Lookup) -> Iterator[Item]:
    path = spec.files[0]
    subtype = root.kept((_SUBTYPE, path), lambda: _subtype(root, path))  # may be a pass over the file
    for rows in blocks_of_member(root, path, "questions", spec.piece):
        found = answers.use_all(list(_ids(rows)))

        def answered(row: Mapping[str, Any], id: str, place: str, found: Mapping[str, str] = found) -> RawTriplet:
            if id not in found:
                raise RejectedError("empty_answer", "no annotation answers this question, as in a test split")
            picture = _picture(root, row.get("image_id"), subtype, folder_of(path))
            return _triplet(row, orjson.loads(found[id]), picture, id=id, place=place)

        yield from triplets_of_rows(spec, rows, answered, _question_id)


def _answers(spec: SourceSpec, root: Root) -> Iterator[Entry | Reject | Note]:
    for path in spec.paths:
        if path == spec.files[0]:
            continue
        for place, row, *_ in member_rows(root, path, "annotations", spec.piece):
            id = ""
            try:
                if isinstance(row, RejectedError):
                    raise row
                id = _question_id(row)
                text, holds_nan = _answer_json(row)
            except RejectedError as error:
                yield spec.reject(error.reason, place=place, id=id, detail=error.detail, scope="reference")
                continue
            if holds_nan:
                yield Note("nan_as_null", place)
            yield Entry(id, text, place)


def _split(spec: SourceSpec, root: Root) -> list[Piece]:
    questions, *annotations = spec.files
    answers = [piece for path in annotations for piece in cut_list("annotations")(root, path)]
    return joined_pieces(answers, cut_list("questions")(root, questions))


_JOIN: Final = Join(entries=_answers, records=_questions, repeated=repeated_answer, unused=unused_answer)
VQAV2: Final = SourceFormat(
    claim=_claim,
    read=partial(read_joined, _JOIN),
    split=_split,
    join=_JOIN,
    needs=(Needs(("object", "lines"), (("questions[].question_id",), ("questions[].image_id",))),),
)


def _ids(rows: Iterable[Row]) -> Iterator[str]:
    """The ids of the questions, skipping those without a valid one."""
    for row in rows:
        if isinstance(row.fields, dict):
            with suppress(RejectedError):
                yield _question_id(row.fields)


def _question_id(row: Mapping[str, Any]) -> str:
    return checked_id(row.get("question_id"), "question_id")


def _answer_json(row: Mapping[str, Any]) -> tuple[str, bool]:
    """The JSON kept of an annotation, and whether it has null in place of NaN."""
    people = row.get("answers", [])
    if not isinstance(people, list) or set(map(type, people)) - {dict}:
        raise RejectedError("malformed", f"answers must be a list of objects, not {shown(people)}")
    kept = {key: row[key] for key in ("question_type", "answer_type") if key in row}
    meta = {"answers": [person.get("answer") for person in people], **kept}
    answer = row.get("multiple_choice_answer")
    if "multiple_choice_answer" not in row:  # as in OK-VQA
        texts = Counter(text for text in meta["answers"] if isinstance(text, str) and text.strip())
        answer = texts.most_common(1)[0][0] if texts else None
    said = {"image_id": row.get("image_id"), "answer": answer}
    try:
        text = canonical_json({**said, "meta": meta})
        if len(text) <= MAX_META_BYTES:
            return text.decode(), False
    except SchemaError:
        pass
    try:
        text = canonical_json(null_for_nan({**said, "meta": checked_meta(meta)}))
    except SchemaError as error:
        raise RejectedError("malformed", str(error)) from None
    return text.decode(), len(text) <= MAX_META_BYTES


def _triplet(
    question: Mapping[str, Any], answer: Mapping[str, Any], picture: MediaRef, *, id: str, place: str
) -> RawTriplet:
    if answer["image_id"] != question.get("image_id"):
        pictures = f"{shown(question.get('image_id'))}, but the annotation about {shown(answer['image_id'])}"
        raise RejectedError("malformed", f"the question is about picture {pictures}")
    text = checked_instruction(question_about(question.get("question"), [picture.kind]))
    if not text:
        raise RejectedError("malformed", "the question is empty")
    others = {key: value for key, value in question.items() if key not in _KNOWN_KEYS}
    return RawTriplet(
        id=id,
        place=place,
        media=(picture,),
        instruction=text,
        answer=checked_answer(answer["answer"]),
        meta=checked_meta({**others, **answer["meta"]}) if others else answer["meta"],
    )


def _picture(root: Root, image_id: object, subtype: str, beside: str) -> MediaRef:
    if not isinstance(image_id, int) or isinstance(image_id, bool):
        raise RejectedError("malformed", f"image_id must be a whole number, not {shown(image_id)}")
    names = (f"COCO_{subtype}_{image_id:012d}.jpg", f"{image_id:012d}.jpg")
    return media_ref(root, names, beside=beside, kind="image", hints=(subtype,) if subtype else ())
