"""Which field of a triplet a column means, by its name: ``Question`` is the instruction.

The names are those that people and spreadsheets use, and that published tables have, whether they are CSV, JSON,
parquet or Arrow. The names of the manifest itself come first: if a row has one, another name for the same field is a
free field. Case, and spaces or hyphens for ``_``, make no difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from string import ascii_uppercase
from typing import Final

from mimicit.records import MediaKind

MEDIA_FIELDS: Final[Mapping[str, MediaKind | None]] = {
    "media": None,
    "image": None,
    "images": None,
    "video": "video",
    "videos": "video",
}
"""The names of the field that lists media, and the kind that the name implies."""

_FIELDS: Final = ("id", "instruction", "answer", "related", "query", "meta", "document", *MEDIA_FIELDS)
ANSWERS: Final = (
    *("answer", "multiple_choice_answer", "answers", "response", "output", "completion", "text_output", "target"),
    *("ground_truth", "solution", "outputs"),
)
CAPTIONS: Final = (
    *("caption", "captions", "text", "txt", "texts", "sentences", "description", "alt_text", "label", "caption_str"),
)
_CHOICES: Final = (
    "choices",
    "options",
    "option",
    "answer_choices",
    "multiple_choices",
    "candidates",
    "multi_choice_options",
)
_CHOICE_PLACES: Final = (
    *("correct_choice_idx", "correct_choice_index", "correct_answer_idx", "correct_answer_index", "correct_idx"),
    *("correct_index", "answer_idx", "answer_index", "answer_label"),
)
_CHOSEN: Final = ("answer", "answerkey", "answer_key", "correct_answer", "correct_option", "correct_choice", "label")
_LETTER: Final = re.compile(r"(?:choice|option|opt|op)_?([A-RU-Za-ru-z])|([A-Z])\)?|([a-z])\)?")  # not "options", "opt"
_PLACE: Final = re.compile(r"(?:choice|option|opt|ending|(a))_?([0-9]{1,2})")
_NUMBERED: Final = re.compile(r"(?:image|img|picture|video)_?([0-9]{1,4})")
_BY_ID: Final = re.compile(
    r"(?:(image|img|picture|pic|photo|figure|screenshot)|(video|vid|clip)|gif)_?(?:(?:file_?)?(name|path|key|id|idx|index)|file)"
)
_MAX_NAMES: Final = 200
_OTHER_NAMES: Final = {
    "instruction": ("question", "prompt", "problem", "text_input", "input", "question_string"),
    "answer": (*ANSWERS[1:], *CAPTIONS),
    "media": (
        *(
            "file_name",
            "file_names",
            "filename",
            "image_path",
            "image_file",
            "image_name",
            "video_path",
            "video_file",
            "media_path",
        ),
        *("path", "file", "picture", "photo", "img", "img_path", "filepath", "file_path", "image_filename"),
        *("image_base64", "image_b64", "image_base64_str", "image_str"),
        *("image_paths", "image_files", "image_names", "img_paths", "img_file", "imgs", "pictures", "photos"),
        *("video_paths", "video_files", "clip", "clips", "local_path", "screenshot", "figure", "gif"),
        *("image_local_name", "image_local_path", "local_image_path"),
    ),
}


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a row mean, as they are written; the first of several that holds something counts.

    ``answers`` answer an instruction, ``captions`` say what the media show. Of a list in one of ``answers_of_many``,
    the most frequent entry counts, in another column each entry; in the columns ``of_several``, a list may be written
    as a text. ``media`` come with the kind that the name implies, numbered columns in the order of their numbers; media
    in the columns ``by_id`` are mostly named without the extension of the file. Choices stand in one of ``choices``, or
    in ``lettered`` columns (letter, column), whose names may have numbers from ``first_number`` on instead; the right
    choice is in ``chosen``, or in ``places`` by its number from 0. Choices that are ``doubtful`` are free fields unless
    one of these names one of them.
    """

    instructions: tuple[str, ...]
    answers: tuple[str, ...]
    captions: tuple[str, ...]
    answers_of_many: tuple[str, ...]
    of_several: tuple[str, ...]
    media: tuple[tuple[str, MediaKind | None], ...]
    by_id: frozenset[str]
    choices: tuple[str, ...]
    lettered: tuple[tuple[str, str], ...]
    first_number: int | None
    doubtful: bool
    places: tuple[str, ...]
    chosen: tuple[str, ...]


def columns_of(names: Iterable[str]) -> Columns:
    """What the columns called ``names`` mean."""
    written = tuple(names)
    if len(written) > _MAX_NAMES:  # a dictionary, not a row; it is not worth caching
        return _columns_of.__wrapped__(written)
    return _columns_of(written)


@lru_cache(maxsize=256)
def _columns_of(written: tuple[str, ...]) -> Columns:
    plain: dict[str, str] = {}
    for column in written:
        plain.setdefault(_normalized(column), column)
    plain.update((column, column) for column in written if _normalized(column) == column)

    def named(*names: str) -> tuple[str, ...]:
        return tuple(plain[name] for name in names if name in plain)

    own = [(plain[name], kind) for name, kind in MEDIA_FIELDS.items() if name in plain]
    numbered = in_order([column for column in written if _NUMBERED.fullmatch(_normalized(column))])
    own += [(column, "video" if _normalized(column).startswith("video") else None) for column in numbered]
    answers, captions = named(*ANSWERS), named(*CAPTIONS)
    plural = ("questions",) if answers else ()  # beside a caption alone, they are notes
    instructions = named("instruction", "question", "prompt", "query", *_OTHER_NAMES["instruction"][2:], *plural)
    if "comment_number" in plain:  # as in Flickr30k; elsewhere comments are notes
        captions += named("comment")
    if not instructions and "question_id" in plain and "text" in plain:  # as in POPE, and in LLaVA's files of questions
        instructions = named("text")
        captions = named(*(name for name in CAPTIONS if name != "text"))
    media = tuple(own) or tuple((column, None) for column in named(*_OTHER_NAMES["media"])[:1])
    by_id = () if media else _by_id(plain)
    lettered, first_number, doubtful = _of_choices(written)
    if not media and not by_id and lettered and {"data_id", "data_type"} <= plain.keys():  # as in SEED-Bench
        by_id = ((plain["data_id"], None),)
    return Columns(
        instructions=instructions,
        answers=answers or captions,
        captions=(*named("answer", "response", "output", "completion", "text_output"), *captions, *answers),
        answers_of_many=answers,
        of_several=(*captions, *named("answers")),
        media=media or by_id,
        by_id=frozenset(column for column, _ in by_id),
        choices=named(*_CHOICES),
        lettered=lettered,
        first_number=first_number,
        doubtful=doubtful,
        places=named(*_CHOICE_PLACES),
        chosen=named(*_CHOSEN),
    )


def _by_id(columns: Mapping[str, str]) -> tuple[tuple[str, MediaKind | None], ...]:
    """The column, if any, that names the medium without saying where it lies; of several, an id comes last."""
    found = [(match, column) for name, column in columns.items() if (match := _BY_ID.fullmatch(name))]
    kinds: list[MediaKind | None] = ["image" if match[1] else "video" if match[2] else None for match, _ in found]
    ids = [match[3] in ("id", "idx", "index") for match, _ in found]
    ranked = sorted(range(len(found)), key=lambda place: (ids[place], place))
    return tuple((found[place][1], kinds[place]) for place in ranked[:1])


def _of_choices(columns: Sequence[str]) -> tuple[tuple[tuple[str, str], ...], int | None, bool]:
    """The (letter, column) of each choice that has a column, the first number of numbered ones, and whether in doubt.

    A single ``B`` or ``a7`` is no choice. Letters are choices only if all before them are there, lone lower-case ones
    only if ``a`` to ``d`` are all there, and numbers only if they count up from 0 or 1. ``A`` and ``B`` alone, or
    ``a1`` and ``a2``, are in doubt.
    """
    names = [(_spelled_choice(column), column) for column in columns]
    matches = [(match, column) for name, column in names if (match := _LETTER.fullmatch(name))]
    if not {"a", "b", "c", "d"} <= {match[3] for match, _ in matches}:
        matches = [(match, column) for match, column in matches if not match[3]]
    found = {(match[1] or match[2] or match[3]).upper(): (column, not match[1]) for match, column in matches}
    lettered = [(letter, *found[letter]) for letter in takewhile(found.__contains__, ascii_uppercase)]
    if len(lettered) > 1:
        doubtful = len(lettered) == 2 and any(is_bare for *_, is_bare in lettered)
        return tuple((letter, column) for letter, column, _ in lettered), None, doubtful
    numbered = {int(match[2]): (column, bool(match[1])) for name, column in names if (match := _PLACE.fullmatch(name))}
    first = min(numbered, default=0)
    if not (1 < len(numbered) <= len(ascii_uppercase) and first < 2 and max(numbered) == first + len(numbered) - 1):
        return (), None, False
    in_turn = [numbered[number] for number in sorted(numbered)]
    doubtful = len(in_turn) == 2 and any(is_bare for _, is_bare in in_turn)
    return tuple(zip(ascii_uppercase, (column for column, _ in in_turn), strict=False)), first, doubtful


def _spelled_choice(column: str) -> str:
    """``column`` as `_normalized` gives it, but with the case of its last letter, or of a lone letter, kept."""
    name = re.sub("[ -]", "_", column.strip())
    return name if len(name.rstrip(")")) < 2 else name[:-1].casefold() + name[-1]


def in_order(columns: Iterable[str]) -> list[str]:
    """``columns``, those that differ only in a number in the order of the numbers (``image_2``, ``image_10``)."""
    written = list(columns)
    stems = [re.sub(r"[0-9]{1,9}\Z", "", column) for column in written]
    first = {stem: place for place, stem in reversed(list(enumerate(stems)))}
    numbers = [int(column[len(stem) :] or 0) for column, stem in zip(written, stems, strict=True)]
    return [column for *_, column in sorted(zip(map(first.__getitem__, stems), numbers, written, strict=True))]


def field_names(columns: Iterable[str]) -> dict[str, str]:
    """The field that each of ``columns`` stands for, by its name; a free field keeps its own.

    Case, and spaces or hyphens for ``_``, make no difference. No two columns stand for one field.
    """
    written = list(columns)
    fields = {column: column for column in written if column in _FIELDS}
    for field in _FIELDS:
        _name(field, (field,), written, fields)
    asking = columns_of(written).instructions[:1]
    fields.update((column, "instruction") for column in asking if _normalized(column) == "text")
    if "questions" in map(_normalized, asking):  # these may be lists, one of answers to the other
        for field in ("questions", "answers"):
            _name(field, (field,), written, fields)
    for field, others in _OTHER_NAMES.items():
        if field != "media" or MEDIA_FIELDS.keys().isdisjoint(fields.values()):
            _name(field, others, written, fields)
    return {column: fields.get(column, column) for column in written}


def _name(field: str, names: Iterable[str], columns: Iterable[str], fields: dict[str, str]) -> None:
    """Note in ``fields`` the column with the first of ``names`` that is there, unless ``field`` has a column."""
    free = {_normalized(column): column for column in columns if column not in fields}
    found = next((free[name] for name in names if name in free), None)
    if found is not None and field not in fields.values():
        fields[found] = field


def _normalized(column: str) -> str:
    return column.strip().casefold().replace(" ", "_").replace("-", "_")
