"""Where the texts of a record show its media: placeholders, and the words that take their place inside a sentence.

Data sets spell a placeholder in many ways: ``<image>`` and ``<video>``, ``<image 1>``, ``<|image_1|>``,
``<ImageHere>``, ``<image/>``. What the questions of a record hold decides which of these are placeholders there (see
`place_media`); the others are words. In the prompt, media stand before the text of their turn. So a placeholder before
or after the words only says that something is shown, and is removed; one inside a sentence becomes words ("image 1").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final, get_args

from mimicit.errors import RejectedError
from mimicit.prompt import IMAGE
from mimicit.records import MediaKind

_VIDEO: Final = "<video>"
# A path may stand inside (``<img>1.jpg</img>``), and marks of the beginning and end of a picture around it.
_ANY: Final = re.compile(
    r"(?:<\|vision_start\|>)?"
    r"<\|?[ ]?(?P<kind>image|img|video)(?:[ _-]?(?P<number>[0-9]{1,4}))?[ ]?(?:/|here|_placeholder|_pad)?\|?>"
    r"(?:[^<>\s]{1,4096}\.[a-z0-9]{2,5}</(?P=kind)>)?"
    r"(?:<\|vision_end\|>)?",
    re.IGNORECASE | re.ASCII,
)
# Tags of HTML and the like: they are placeholders only if there is one for each medium and all of them stand apart.
_WORD: Final = re.compile(r"<[ ]?(?:image|img|video)[ ]?/?>", re.IGNORECASE | re.ASCII)
_UNFINISHED: Final = re.compile(
    r"(?:[\w,'\"(]|\b(?:image|picture|photo|figure|option|choice|video)(?:[ -][a-z]|[ -]?[0-9]{1,2}):)\Z",
    re.IGNORECASE,
)
_JOINED: Final = re.compile(r"[ ]*(?:[,;&]|(?:and|or|vs|versus)\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Mark:
    """A placeholder in a text, from ``start`` to ``end``, for the medium with the index ``medium``.

    It shows the medium if ``is_new``, else it only mentions it. ``is_numbered``: it names the medium by number.
    """

    start: int
    end: int
    medium: int
    is_numbered: bool
    is_new: bool


@dataclass(frozen=True, slots=True)
class Placed:
    """``texts`` without placeholders, and for each the indices of the media that it is the first to show.

    Values that are not text are passed on as they are. ``is_marked`` is false if no text holds a placeholder, so that
    all media are shown before the first; ``is_repeated`` is true if every question holds placeholders of all media.
    """

    texts: tuple[object, ...]
    shown: tuple[tuple[int, ...], ...]
    is_marked: bool
    is_repeated: bool = False


def place_media(questions: Sequence[object], kinds: Sequence[MediaKind]) -> Placed:
    """Which media of a record each of its ``questions`` shows; ``kinds`` are the kinds of all its media.

    ``<image>`` counts, and ``<video>`` if there is a clip: there must be one for each medium, either in all questions
    together or in each of several, which are then all about the same media. Without any of them, numbers count
    (``<image 2>``), else the other spellings. `RejectedError` ``placeholder_mismatch`` if they do not match the media.
    """
    texts = [text if isinstance(text, str) else "" for text in questions]
    everything = tuple(range(len(kinds)))
    first_shows_all = Placed(tuple(questions), (everything, *((),) * (len(questions) - 1)), is_marked=not kinds)
    if not any("<" in text for text in texts):
        return first_shows_all
    found = [list(_ANY.finditer(text)) if "<" in text else [] for text in texts]
    plain = [[match for match in matches if _is_plain(match[0], kinds)] for matches in found]
    numbered = [[match for match in matches if match["number"]] for matches in found]
    others = [[match for match in matches if not match["number"] and match[0] != _VIDEO] for matches in found]
    meant = plain if any(plain) else others
    if any(numbered) and not any(plain):
        return _placed(questions, _by_number(numbered, kinds), kinds, by_number=True)
    if any(meant) and (meant is plain or _are_meant(meant, kinds)):
        marks = _in_order(meant, kinds)
    else:
        return first_shows_all
    mentioned = [[mark for mark in line if mark] for line in _mentions(numbered, kinds)]
    merged = [sorted((*a, *b), key=lambda mark: mark.start) for a, b in zip(marks, mentioned, strict=True)]
    return _placed(questions, merged, kinds, by_number=False)


def question_about(question: object, kinds: Sequence[MediaKind]) -> object:
    """The only ``question`` of a record about media of these ``kinds``, as `place_media` changes it."""
    if not isinstance(question, str) or "<" not in question:
        return question
    (text,) = place_media([question], kinds).texts
    return text


def questions_as_asked(questions: Sequence[str], shown: Sequence[Sequence[MediaKind]]) -> list[str]:
    """``questions`` for a model, with placeholders treated as a build treats them, so that it reads what it learned.

    ``shown`` are the kinds of the media shown with each question. If the placeholders do not match them, that is no
    error: they are words, and the questions stay as they are.
    """
    ends = [*accumulate(map(len, shown))]
    own = tuple(tuple(range(end - len(kinds), end)) for kinds, end in zip(shown, ends, strict=True))
    try:
        placed = place_media(questions, [kind for kinds in shown for kind in kinds])
    except RejectedError:
        return list(questions)
    return [str(text) for text in placed.texts] if placed.shown == own else list(questions)


def with_words(text: object, kinds: Sequence[MediaKind]) -> object:
    """``text``, such as an answer, with numbered placeholders (``<image 2>``) in words."""
    if not isinstance(text, str) or not kinds or "<" not in text:
        return text
    (marks,) = _mentions([list(_ANY.finditer(text))], kinds)
    return _worded(text, [mark for mark in marks if mark], kinds)


def _is_plain(token: str, kinds: Sequence[MediaKind]) -> bool:
    return token == IMAGE or (token == _VIDEO and "video" in kinds)


def _are_meant(others: Sequence[Sequence[re.Match[str]]], kinds: Sequence[MediaKind]) -> bool:
    """Whether spellings that may be words are placeholders here."""
    matches = [match for line in others for match in line]
    if not all(_WORD.fullmatch(match[0]) for match in matches):
        return True
    return (len(matches) == len(kinds) or _is_repeated(others, kinds)) and all(map(_stands_apart, matches))


def _stands_apart(match: re.Match[str]) -> bool:
    """Whether nothing but white space stands before it, or on its line."""
    before, after = match.string[: match.start()], match.string[match.end() :]
    return not before.strip() or not (before.rpartition("\n")[2] + after.partition("\n")[0]).strip()


def _in_order(found: Sequence[Sequence[re.Match[str]]], kinds: Sequence[MediaKind]) -> list[list[_Mark]]:
    """Each placeholder with the next medium, or the next of its kind if clips have placeholders of their own."""
    tokens = [_kind_of(match) for matches in found for match in matches]
    if _is_repeated(found, kinds):
        lines = [_in_order([matches], kinds)[0] for matches in found]
        return [lines[0], *([replace(mark, is_new=False) for mark in line] for line in lines[1:])]
    if len(tokens) != len(kinds):
        raise RejectedError("placeholder_mismatch", f"{len(tokens)} placeholders for {len(kinds)} pictures or clips")
    order: Iterator[int] = iter(range(len(kinds)))
    if "video" in tokens and "image" in kinds:
        if Counter(tokens) != Counter(kinds):
            counts = f"{tokens.count('video')} placeholders of clips for {list(kinds).count('video')}"
            raise RejectedError("placeholder_mismatch", counts)
        of_kind = {kind: iter([i for i, other in enumerate(kinds) if other == kind]) for kind in kinds}
        order = iter([next(of_kind[token]) for token in tokens])
    return [
        [_Mark(match.start(), match.end(), next(order), is_numbered=False, is_new=True) for match in matches]
        for matches in found
    ]


def _is_repeated(found: Sequence[Sequence[re.Match[str]]], kinds: Sequence[MediaKind]) -> bool:
    """Whether each of several questions holds the placeholders of all media."""
    return len(found) > 1 and bool(kinds) and all(len(matches) == len(kinds) for matches in found)


def _by_number(found: Sequence[Sequence[re.Match[str]]], kinds: Sequence[MediaKind]) -> list[list[_Mark]]:
    marks = _mentions(found, kinds)
    for matches, line in zip(found, marks, strict=True):
        for match, mark in zip(matches, line, strict=True):
            if mark is None:
                raise RejectedError(
                    "placeholder_mismatch", f"{match[0]!a:.40} is none of {len(kinds)} pictures or clips"
                )
    return [[mark for mark in line if mark] for line in marks]


def _mentions(found: Sequence[Sequence[re.Match[str]]], kinds: Sequence[MediaKind]) -> list[list[_Mark | None]]:
    """For each match the mark of the medium that it names by number; None if it names none."""
    first = 0 if any(int(match["number"] or 1) == 0 for matches in found for match in matches) else 1
    of_kind: dict[MediaKind, list[int]] = {
        kind: [index for index, other in enumerate(kinds) if other == kind or kind not in kinds]
        for kind in get_args(MediaKind)
    }
    return [[_mention(match, of_kind[_kind_of(match)], first) for match in matches] for matches in found]


def _mention(match: re.Match[str], of_kind: Sequence[int], first: int) -> _Mark | None:
    """The mark of a numbered placeholder, if it names a medium; numbers count from ``first``."""
    index = int(match["number"]) - first if match["number"] else -1
    if not 0 <= index < len(of_kind):
        return None
    return _Mark(match.start(), match.end(), of_kind[index], is_numbered=True, is_new=False)


def _kind_of(match: re.Match[str]) -> MediaKind:
    return "video" if match["kind"].lower() == "video" else "image"


def _placed(
    questions: Sequence[object], marks: Sequence[Sequence[_Mark]], kinds: Sequence[MediaKind], *, by_number: bool
) -> Placed:
    texts = tuple(
        _without_marks(text, line, kinds) if isinstance(text, str) else text
        for text, line in zip(questions, marks, strict=True)
    )
    if not by_number:
        shown = tuple(tuple(mark.medium for mark in line if mark.is_new) for line in marks)
        is_repeated = any(not mark.is_new and not mark.is_numbered for line in marks for mark in line)
        return Placed(texts, shown, is_marked=True, is_repeated=is_repeated)
    # Media keep their order, so that their numbers are right: a text that names one also shows all that come before it.
    last = list(accumulate((max((mark.medium + 1 for mark in line), default=0) for line in marks), max))
    if len(questions) == 1:
        last = [len(kinds)]
    if last[-1] != len(kinds):
        raise RejectedError("placeholder_mismatch", f"{last[-1]} of {len(kinds)} pictures or clips are named by number")
    return Placed(texts, tuple(tuple(range(a, b)) for a, b in zip((0, *last), last, strict=False)), is_marked=True)


def _without_marks(text: str, marks: Sequence[_Mark], kinds: Sequence[MediaKind]) -> str:
    """``text`` without the placeholders at its ends, and with words for those inside."""
    first, last, start, end = 0, len(marks), 0, len(text)
    while first < last and not text[start : marks[first].start].strip():
        if first + 1 < last and _JOINED.match(text, marks[first].end):
            start = marks[first].start
            break  # the sentence begins with it: "<image> or <image>"
        start = marks[first].end
        first += 1
    while last > first and not text[marks[last - 1].end : end].strip():
        end = marks[last - 1].start
        last -= 1
    between = text[start:end]
    if last < len(marks) and _goes_on(between, marks[last], has_words=last > first):
        last, end = len(marks), len(text)
    inner = [replace(mark, start=mark.start - start, end=mark.end - start) for mark in marks[first:last]]
    return _worded(text[start:end], inner, kinds).strip()


def _goes_on(before: str, mark: _Mark, *, has_words: bool) -> bool:
    """Whether the sentence ``before`` a placeholder at the end ends with it: "Compare <image> with <image>"."""
    line = before.rstrip(" ")
    return (has_words or mark.is_numbered) and _UNFINISHED.search(line) is not None


def _worded(text: str, marks: Sequence[_Mark], kinds: Sequence[MediaKind]) -> str:
    """``text`` with words for ``marks``, separated from the words next to them."""
    pieces: list[str] = []
    end = 0
    for mark in marks:
        pieces.append(text[end : mark.start])
        before = (pieces[-1] or (pieces[-2] if end else ""))[-1:]
        kind = kinds[mark.medium]
        words = f"{kind} {kinds[: mark.medium + 1].count(kind)}"
        space = " " if text[mark.end : mark.end + 1].isalnum() else ""
        pieces.append(f"{' ' if before.isalnum() else ''}{words}{space}")
        end = mark.end
    return "".join((*pieces, text[end:]))
