"""CIDEr-D (Vedantam et al., arXiv 1411.5726), the score that papers on captions quote, without Java.

A caption is as good as the n-grams (n = 1 to 4) that it shares with what people wrote of the same picture, each weighed
by how few pictures' references have it. Words are those of the Penn Treebank, as the benchmark's own tokenizer cuts
them. Papers print a hundred times the mean.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

__all__ = ["caption_words", "cider"]

_Ngrams: TypeAlias = Counter[tuple[str, ...]]

_LONGEST: Final = 4
_SIGMA: Final = 6.0  # how fast another length costs, in bigrams
_SCALE: Final = 10.0

_TYPED: Final = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": " -- ", "—": " -- ", "…": " ... ", "£": "#"}  # a pound becomes #
)
_END_OF_HALF: Final = re.compile(
    r"""
      \b (?: can(?=not\b) | gim(?=me\b) | gon(?=na\b) | got(?=ta\b) | lem(?=me\b) | wan(?=na\b) | y'(?=all\b) )
    | (?<!\w) 't(?=(?:is|was)\b)
    | \w (?=(?:n't | '(?:s|m|d|re|ve|ll)) (?!\w))
    """,
    re.VERBOSE,
)
_WORD: Final = re.compile(
    r"""
      \w+://[^\s"<>]+ | [\w.+-]+@[\w-]+(?:\.\w+)+                   # addresses
    | </?[a-z][^<>]*>                                               # tags
    | (?:[a-z]\.){2,}                                               # u.s.
    | (?:ave|blvd|capt|co|col|corp|dept|dr|etc|ft|gen|gov|inc|jr|lt|ltd|mr|mrs|ms|mt|prof|rev|sen|sgt|sr|st|vs)\.
    | (?<!\S)[a-z]\.(?=\ \w) | no\.(?=\ ?\d)                        # john f. kennedy, no. 5
    | n't(?!\w) | 't(?!\w) | y'(?!\w) | 'n'(?!\w) | '(?:s|m|d|re|ve|ll|em)(?!\w) | '\d\ds?(?!\w)
    | o'clock | ma'am
    | \d+(?:[.,:/]\d+)+ (?![\w-]) | \.\d+
    | \w+(?:[-/&.]\w+)*(?:\+\+|\#(?!\w))?                           # t-shirt, and/or, at&t, c++
    | \.\.\. | --+ | [?!]+ | \S
    """,
    re.VERBOSE,
)
_PUNCTUATION: Final = frozenset(["''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_BRACKETS: Final = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


def caption_words(caption: str) -> list[str]:
    """The words of a caption in lower case, without punctuation: ``"A dog's can't bark."`` is ``a dog 's ca n't bark``.

    Brackets stay, as the benchmark keeps them.
    """
    text = _END_OF_HALF.sub(r"\g<0> ", caption.translate(_TYPED).lower())
    words = (_BRACKETS.get(word, word) for word in _WORD.findall(text))
    return [word for word in words if word not in _PUNCTUATION and (len(word) > 1 or not _is_symbol(word))]


def cider(captions: Sequence[str], references: Sequence[Iterable[str]]) -> list[float]:
    """The score of each caption, 0 to 10, against the ``references`` for the same picture.

    All references together tell how rare an n-gram is: scores depend on the whole set, and are 0 in a set of one
    picture. `ValueError` where there are not as many ``references`` as ``captions``.
    """
    written = [[_ngrams(reference) for reference in group] for group in references]
    pictures = Counter(
        ngram for group in written for ngram in {ngram for counts in group for n in counts for ngram in n}
    )
    highest = math.log(max(1, len(written)))
    rarity = {ngram: highest - math.log(count) for ngram, count in pictures.items()}
    scores = []
    for caption, group in zip(captions, written, strict=True):
        mine = _ngrams(caption)
        alike = [_likeness(mine, other, rarity, highest) for other in group]
        scores.append(_SCALE * sum(alike) / max(1, len(alike)))
    return scores


def _is_symbol(character: str) -> bool:
    return ord(character) > 0x2000 and not character.isalnum()  # an emoji is no word


def _ngrams(caption: str) -> list[_Ngrams]:
    """For each n, how often the caption has each of its n-grams."""
    words = caption_words(caption)
    return [Counter(zip(*(words[start:] for start in range(n)), strict=False)) for n in range(1, _LONGEST + 1)]


def _likeness(
    mine: Sequence[_Ngrams], other: Sequence[_Ngrams], rarity: Mapping[tuple[str, ...], float], highest: float
) -> float:
    """0 to 1: the mean over n of the cosines, where no n-gram counts more often than ``other`` has it."""
    longer = mine[1].total() - other[1].total()
    cosines = 0.0
    for ours, theirs in zip(mine, other, strict=True):
        weighed = [
            {ngram: count * rarity.get(ngram, highest) for ngram, count in counts.items()} for counts in (ours, theirs)
        ]
        lengths = math.prod(math.sqrt(sum(weight * weight for weight in weights.values())) for weights in weighed)
        if lengths:
            shared = sum(min(weight, weighed[1].get(ngram, 0.0)) * weighed[1].get(ngram, 0.0)
                         for ngram, weight in weighed[0].items())  # fmt: skip
            cosines += shared / lengths
    return cosines / _LONGEST * math.exp(-(longer**2) / (2 * _SIGMA**2))
