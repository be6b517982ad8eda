"""Whether a text is in the language that was asked for, as far as letters and the commonest words tell.

It says no only where it is sure: a text of letters of another script, or one whose common words are clearly those of
another language that it knows. A language that it does not know passes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from typing import Final

__all__ = ["wrong_language"]

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
_WORD: Final = re.compile(r"\b[^\W\d_]+\b")  # no part of a number or code
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
_CLEARLY: Final = 3  # common words more than those of the language asked for


def wrong_language(text: str, language: str) -> str:
    """What ``text`` seems to be in instead of ``language`` (a name in English, or a code); empty where it may be it."""
    wanted = language.strip().casefold()
    wanted = _CODES.get(wanted, wanted.partition(" ")[0])
    known = _SCRIPTS.get(wanted, {"LATIN"} if wanted in _COMMON else None)
    if known is not None and (script := _other_script(text, known)):
        return script
    words = _WORD.findall(text.casefold())
    if wanted not in _COMMON or len(words) < _LEAST_WORDS:
        return ""
    found = Counter(name for word in words for name in _LANGUAGES_OF.get(word, ()))
    best = max(_COMMON, key=lambda name: (found[name], name))
    return best if best != wanted and found[best] >= _CLEARLY + 2 * found[wanted] else ""


def _other_script(text: str, known: Collection[str]) -> str:
    """The script of most letters of ``text``, where most are of none that is ``known``."""
    if text.isascii() and "LATIN" in known:
        return ""
    scripts = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    letters = scripts.total()
    if letters < _LEAST_LETTERS or sum(scripts[name] for name in known) * 2 >= letters:
        return ""
    return f"{scripts.most_common(1)[0][0].lower()} letters"
