"""The gates that a pair must pass to be kept; each has a reason code, and the first that stops a pair is its reason.

Gates of one pair look at its text, its record and the recipe. Two look across pairs: one that nearly repeats a pair of
the same record, and answers that many records share. Both take pairs in the order of the records, so the result does
not depend on the order of answers. A hostile text is only ever a text: nothing here interprets it.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Final

from mimicit.annotating.recipe import GateOptions, Recipe
from mimicit.annotating.records import Record
from mimicit.annotating.wording import Pair
from mimicit.errors import RejectedError
from mimicit.prompt import SPECIAL_TOKENS
from mimicit.sources.records.text import checked_text

PAIR_REASONS: Final = {
    "empty": "no instruction, no answer, or fewer words than asked for",
    "control_characters": "characters that no text has",
    "special_token": "a token of the prompt, such as <image>",
    "too_long": "an answer of more words than asked for",
    "refusal": "the model declines",
    "gives_away": "speaks of captions, notes or itself",
    "picture_number": "speaks of a picture that is not there",
    "repeats_question": "the answer says the question again",
    "repeats_caption": "the answer is a caption again",
    "wrong_language": "another language than asked for",
    "bad_choice": "the answer is none of the choices, or a choice stands twice",
    "duplicate": "nearly another pair of the same record",
    "too_alike": "an answer that too many records share",
    "too_many": "more pairs than asked for",
    "judged": "a score of the judge below the least",
}
_REFUSAL: Final = re.compile(
    r"^\W*(?:i'?m sorry|sorry,|i am sorry|i apologi[sz]e|i can(?:no|')t (?:help|assist|answer|see|view|provide|comply)"
    r"|i can not|i am unable|i'?m unable|unfortunately, i)",
    re.IGNORECASE,
)
_ORDINALS: Final = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_NUMBERED: Final = re.compile(r"\b(?:picture|image|photo)s?\s+(?:no\.?\s*|number\s+|#\s*)?(\d{1,3})\b", re.IGNORECASE)
_ORDINAL: Final = re.compile(rf"\b({'|'.join(_ORDINALS)})\s+(?:picture|image|photo)\b", re.IGNORECASE)
_TOKEN: Final = re.compile(r"<\|[^|<>\n]{1,40}\|>|<(?:image|img|video)\b[^<>\n]{0,20}>", re.IGNORECASE)
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_WORD: Final = re.compile(r"\w+")
_SAME: Final = 0.9  # the share of runs of words that two texts have in common
_SAME_PAIR: Final = 0.8
_RUN: Final = 3  # words
_SKETCH: Final = 4  # least hashes that two nearly equal answers share
_LEAST_SHARED: Final = 6  # words; many records may well share a shorter answer


def fault_of_pair(pair: Pair, record: Record, recipe: Recipe, language: str) -> tuple[str, str] | None:
    """(reason, detail) if ``pair`` must be dropped for what it says itself, else None."""
    gates = recipe.gates
    try:
        named = [("instruction", pair.instruction), ("answer", pair.answer)]
        for name, text in [*named, *(("choice", choice) for choice in pair.choices)]:
            if _CONTROL.search(text):
                return "control_characters", f"the {name} holds a control character"
            checked_text(text, name)
            if any(token in text for token in SPECIAL_TOKENS) or _TOKEN.search(text):
                return "special_token", f"the {name} holds a token of a prompt"
    except RejectedError as error:
        return "too_long" if error.reason == "too_long" else "control_characters", error.detail
    words = len(_WORD.findall(pair.answer))
    if not _WORD.search(pair.instruction) or words < (1 if pair.choices else gates.min_words):
        return "empty", f"an answer of {words} words; the least is {gates.min_words}"
    if words > gates.max_words:
        return "too_long", f"an answer of {words:,} words; the most is {gates.max_words:,}"
    if is_refusal(pair.answer):
        return "refusal", pair.answer[:100]
    return _gives_away(pair, record, gates) or _repeats(pair, record, gates) or _of_form(pair, language, gates)


def is_refusal(text: str) -> bool:
    """Whether ``text`` begins as a model that declines does."""
    return bool(_REFUSAL.match(text.replace("’", "'")))


def repeats_in_record(pair: Pair, before: Sequence[Pair]) -> bool:
    """Whether ``pair`` nearly repeats one of the pairs ``before`` it of the same record."""
    return any(
        _likeness(pair.instruction, other.instruction) >= _SAME_PAIR
        and _likeness(pair.answer, other.answer) >= _SAME_PAIR
        for other in before
    ) or any(_words_of(pair.instruction) == _words_of(other.instruction) for other in before)


class Alike:
    """Counts answers of the set that are nearly the same. Memory: some 100 bytes for each different answer."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[int] = Counter()

    def is_too_much(self, answer: str) -> bool:
        """Count ``answer``; whether more than the allowed number of answers are now nearly the same as it."""
        words = _words_of(answer)
        if not self._most or len(words) < _LEAST_SHARED:
            return False
        least = sorted(zlib.crc32(" ".join(run).encode()) for run in set(_runs(words)))[:_SKETCH]
        sketch = hash(tuple(least))  # of numbers: the same in every process
        self._counts[sketch] += 1
        return self._counts[sketch] > self._most


def _gives_away(pair: Pair, record: Record, gates: GateOptions) -> tuple[str, str] | None:
    said = f"{pair.instruction}\n{pair.answer}".casefold()
    known = "\n".join((*record.captions, *(text for both in record.pairs for text in both))).casefold()
    for found in _any_of(gates.forbidden).findall(said):
        if found not in known:
            return "gives_away", f"says {found!r}"
    named = [int(number) for number in _NUMBERED.findall(said)]
    named += [_ORDINALS.index(word.lower()) + 1 for word in _ORDINAL.findall(said)]
    pictures = len(record.media)
    if record.media and all(ref.kind == "image" for ref in record.media) and max(named, default=0) > pictures:
        return "picture_number", f"speaks of picture {max(named)} of {pictures}"
    return None


@lru_cache(maxsize=8)
def _any_of(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """Finds any of ``phrases`` as words of their own in a text without capitals."""
    words = "|".join(re.escape(phrase.casefold()) for phrase in phrases) or r"\Z\A."
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)")


def _repeats(pair: Pair, record: Record, gates: GateOptions) -> tuple[str, str] | None:
    if _likeness(pair.answer, pair.instruction) >= _SAME:
        return "repeats_question", pair.answer[:100]
    if not gates.may_repeat and not pair.choices:
        for caption in record.captions:
            if len(_WORD.findall(caption)) > 1 and _likeness(pair.answer, caption) >= _SAME:
                return "repeats_caption", caption[:100]
    return None


def _of_form(pair: Pair, language: str, gates: GateOptions) -> tuple[str, str] | None:
    if pair.choices:
        plain = [" ".join(_words_of(choice)) or choice for choice in pair.choices]
        if pair.answer not in pair.choices:
            return "bad_choice", f"the answer {pair.answer[:80]!r} is none of the choices"
        if len(pair.choices) < 2 or len(set(plain)) < len(plain):
            return "bad_choice", "there are fewer than two choices" if len(plain) < 2 else "a choice stands twice"
    if gates.check_language and (seems := wrong_language(f"{pair.instruction} {pair.answer}", language)):
        return "wrong_language", f"{seems}, not {language}"
    return None


def _words_of(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    run = min(_RUN, len(words))
    return (tuple(words[place : place + run]) for place in range(len(words) - run + 1))


def _likeness(one: str, other: str) -> float:
    """How much of the runs of words of both texts they share, 0 to 1 (Jaccard)."""
    first, second = (set(_runs(_words_of(text))) for text in (one, other))
    return len(first & second) / len(first | second) if first and second else 0.0


_SCRIPTS: Final = {
    "arabic": {"ARABIC"},
    "bulgarian": {"CYRILLIC"},
    "chinese": {"CJK"},
    "greek": {"GREEK"},
    "hebrew": {"HEBREW"},
    "hindi": {"DEVANAGARI"},
    "japanese": {"CJK", "HIRAGANA", "KATAKANA"},
    "korean": {"HANGUL"},
    "persian": {"ARABIC"},
    "russian": {"CYRILLIC"},
    "thai": {"THAI"},
    "ukrainian": {"CYRILLIC"},
}
_COMMON: Final = {
    "dutch": "de het een en van is op met niet aan zijn dat die voor er ze te",
    "english": "the a an and of is are in on with it there to that at this",
    "french": "le la les un une et de des est dans avec il elle du sur qui au",
    "german": "der die das ein eine und ist im mit auf den dem es zu sind nicht von",
    "italian": "il la lo gli un una e di è in con che del sono su per della",
    "polish": "i w na z jest to nie się do że o jak po są przy dla",
    "portuguese": "o a os as um uma e de é em com que do da no na são",
    "spanish": "el la los las un una y de es en con que del se por está",
    "swedish": "en ett och är på med det som av den i till har inte för",
    "turkish": "bir ve bu da de ile için var çok olan gibi daha ne o",
}
_LANGUAGES_OF: Final[dict[str, list[str]]] = {}
for _name, _words in _COMMON.items():
    for _word in sorted(set(_words.split())):
        _LANGUAGES_OF.setdefault(_word, []).append(_name)
_LETTERS: Final = re.compile(r"\b[^\W\d_]+\b")  # no part of a number or code
_CODES: Final = {
    "en": "english",
    "fr": "french",
    "de": "german",
    "es": "spanish",
    "it": "italian",
    "pt": "portuguese",
    "nl": "dutch",
    "pl": "polish",
    "sv": "swedish",
    "tr": "turkish",
    "zh": "chinese",
    "ja": "japanese",
    "ko": "korean",
    "ru": "russian",
    "uk": "ukrainian",
    "ar": "arabic",
    "hi": "hindi",
    "he": "hebrew",
}
_LEAST_LETTERS: Final = 8
_LEAST_WORDS: Final = 6
_CLEARLY: Final = 3  # common words beyond twice those of the language asked for


def wrong_language(text: str, language: str) -> str:
    """The language or script that ``text`` seems to be in instead of ``language``; empty if it may be in ``language``.

    ``language`` is a name in English, or a code; an unknown one passes. Only clear cases count: letters of another
    script, or clearly more of the commonest words of another known language.
    """
    wanted = language.strip().casefold()
    wanted = _CODES.get(wanted, wanted.partition(" ")[0])
    known = _SCRIPTS.get(wanted, {"LATIN"} if wanted in _COMMON else None)
    if known is not None and (script := _other_script(text, known)):
        return script
    words = _LETTERS.findall(text.casefold())
    if wanted not in _COMMON or len(words) < _LEAST_WORDS:
        return ""
    found = Counter(name for word in words for name in _LANGUAGES_OF.get(word, ()))
    best = max(_COMMON, key=lambda name: (found[name], name))
    return best if best != wanted and found[best] >= _CLEARLY + 2 * found[wanted] else ""


def _other_script(text: str, known: Collection[str]) -> str:
    """The commonest script of ``text``, if most of its letters are of no ``known`` script."""
    if text.isascii() and "LATIN" in known:
        return ""
    scripts = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    letters = scripts.total()
    if letters < _LEAST_LETTERS or sum(scripts[name] for name in known) * 2 >= letters:
        return ""
    return f"{scripts.most_common(1)[0][0].lower()} letters"
