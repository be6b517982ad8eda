"""Whether a text is in the language that was asked for, as far as letters and the commonest words tell.

It says no only where it is sure: a text of letters of another script, or one whose common words are clearly those of
another language that it knows. A language that it does not know passes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
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
_WORDS: Final = {name: frozenset(words.split()) for name, words in _COMMON.items()}
_WORD: Final = re.compile(r"[^\W\d_]+")
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
    scripts = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    letters = scripts.total()
    known = _SCRIPTS.get(wanted, {"LATIN"} if wanted in _WORDS else None)
    if known and letters >= _LEAST_LETTERS and sum(scripts[name] for name in known) * 2 < letters:
        return f"{scripts.most_common(1)[0][0].lower()} letters"
    words = [word.casefold() for word in _WORD.findall(text)]
    if wanted not in _WORDS or len(words) < _LEAST_WORDS:
        return ""
    found = {name: sum(word in common for word in words) for name, common in _WORDS.items()}
    best = max(found, key=lambda name: (found[name], name))
    return best if best != wanted and found[best] >= _CLEARLY + 2 * found[wanted] else ""
