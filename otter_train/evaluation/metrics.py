"""How answers are scored: VQA accuracy, ANLS, ROC AUC and CIDEr, and the interval of an estimate.

**VQA accuracy** (Antol et al., arXiv 1505.00468): an answer counts in full if three of ten people gave it. Each person
in turn is left out, the answer scores min(1, number of the others who gave it / 3), and the mean over the people left
out is the accuracy; so 2 of 10 make 0.6, and 3 make 0.9. Answers are compared after the clean-up of the benchmark's
own scorer, with its oddities, so that numbers compare with those of papers: ``"c#"`` is not ``"c"``, and if all people
wrote the same, answers are compared as they were written.

**ANLS** (Biten et al., arXiv 1905.13648), for questions about text in pictures: an answer that is spelled nearly like a
true one counts nearly in full: 1 minus their edit distance as a share of the longer of both. Less than a half counts
nothing. Case and extra spaces do not matter.

**ROC AUC**, the metric of HatefulMemes: how often a query whose answer is yes gets a higher score than one with no.

Intervals hold 95% of the estimates of 1,000 resamples of the queries. The resamples depend on a seed and the number of
samples alone, so that two models on the same samples are compared fairly.

**CIDEr-D** (Vedantam et al., arXiv 1411.5726), the score that papers on captions quote, without Java: a caption is as
good as the n-grams (n = 1 to 4) that it shares with what people wrote of the same picture, each weighed by how few
pictures' references have it. Words are those of the Penn Treebank, as the benchmark's own tokenizer cuts them. Papers
print a hundred times the mean.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mimicit.records import Sample

_ARTICLES: Final = frozenset(("a", "an", "the"))
_NUMBERS: Final = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_MARKS: Final = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS: Final = re.compile(r"\d,\d", re.ASCII)
_STOP: Final = re.compile(r"\.(?!\d)", re.ASCII)  # the point of 2.5 stays
_MOST_STOPS: Final = 32  # the scorer passes a flag where `re.sub` expects a count
_CONTRACTIONS: Final = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've"
    " he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't"
    " not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll"
    " somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd"
    " there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll"
    " what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's"
    " won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)
_APOSTROPHES: Final = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}
"""What people write with an apostrophe too few, and how it is spelt; the last one is the scorer's own."""

_LEAST: Final = 0.5
RESAMPLES: Final = 1000
"""How often the queries are resampled for an interval."""

_PERCENTILES: Final = (2.5, 97.5)

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


def vqa_accuracy(answer: str, humans: Sequence[str]) -> float:
    """The VQA accuracy, 0 to 1; with a single human answer it is 1 if ``answer`` equals that, else 0."""
    said, *people = (_one_line(text) for text in (answer, *humans))
    if len(people) < 2 or len(set(people)) > 1:
        said, *people = (plain_answer(text) for text in (said, *people))
    agreeing = people.count(said)
    if len(people) < 2:
        return float(agreeing)
    least = min(3, len(people) - 1)  # with fewer than four people, all the others must agree
    with_one_left_out = agreeing * min(1, (agreeing - 1) / least) + (len(people) - agreeing) * min(1, agreeing / least)
    return with_one_left_out / len(people)


def human_answers(sample: Sample) -> list[str]:
    """The answers of all people in the ``answers`` of a sample's meta, as VQAv2 has them; often none.

    An empty answer counts as that of a person, too.
    """
    answers: Any = sample.meta.get("answers")
    if not isinstance(answers, list):
        return []
    texts = [answer for answer in answers if isinstance(answer, str)]
    return texts if any(text.strip() for text in texts) else []


def plain_answer(text: str) -> str:
    """``text`` without what people write differently: ``"The two dogs."`` is ``"2 dogs"``."""
    text = _one_line(text)
    plain = text
    thousands = _THOUSANDS.search(text) is not None
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if beside_space or thousands else " ")
    plain = _STOP.sub("", plain, count=_MOST_STOPS)
    words = (_NUMBERS.get(word, word) for word in plain.lower().split())
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def anls(answer: str, truths: Sequence[str]) -> float:
    """0 to 1: how near ``answer`` is to the nearest of ``truths``; time grows with the product of their lengths."""
    said = _plain(answer)
    best = max((_similarity(said, _plain(truth)) for truth in truths), default=0.0)
    return best if best >= _LEAST else 0.0


def roc_auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The share of pairs of a ``positive`` and another in which the positive has the higher of ``scores``; ties: half.

    0.5 if all are of one kind, which tells nothing. By the sum of the ranks (Mann and Whitney), in O(n log n).
    """
    yes = int(positive.sum())
    no = len(positive) - yes
    if not yes or not no:
        return 0.5
    _, kind, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[kind]  # from 1; equal scores share the mean of their places
    return float((ranks[positive].sum() - yes * (yes + 1) / 2) / (yes * no))


class Estimate(NamedTuple):
    """A value and the interval that holds 95% of the resampled values; all 0, not NaN, without samples."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        """The same in a unit of 1 / ``factor``."""
        return Estimate(factor * self.value, factor * self.low, factor * self.high)


def ratio(totals: NDArray[np.float64], counts: NDArray[np.float64], *, seed: int) -> Estimate:
    """``totals.sum() / counts.sum()`` with its interval, one number each per sample; ``counts`` of 1 make a mean."""
    if not counts.sum():
        return Estimate(0.0, 0.0, 0.0)
    return resampled(len(counts), lambda drawn: float(totals[drawn].sum() / max(1e-12, counts[drawn].sum())), seed=seed)


def resampled(count: int, value: Callable[[NDArray[np.int64]], float], *, seed: int) -> Estimate:
    """The `Estimate` of ``value`` over ``count`` samples, which it gets as indices: all, and draws with replacement."""
    generator = np.random.default_rng(seed)
    drawn = [value(generator.integers(count, size=count)) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, _PERCENTILES)
    return Estimate(value(np.arange(count)), float(low), float(high))


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
    picture. `ValueError` if there are not as many ``references`` as ``captions``.
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


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _similarity(one: str, other: str) -> float:
    longer = max(len(one), len(other))
    if not longer:
        return 1.0
    if abs(len(one) - len(other)) > longer * (1 - _LEAST):  # it takes at least as many edits
        return 0.0
    return 1 - _edits(one, other) / longer


def _edits(one: str, other: str) -> int:
    """The Levenshtein distance: the fewest characters to insert, delete or replace."""
    row = list(range(len(other) + 1))
    for place, character in enumerate(one, 1):
        diagonal, row[0] = row[0], place
        for column, wanted in enumerate(other, 1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (character != wanted)),
            )
    return row[-1]


def _is_symbol(character: str) -> bool:
    return ord(character) > 0x2000 and not character.isalnum()  # an emoji is no word


def _ngrams(caption: str) -> list[_Ngrams]:
    """For each n, how often the caption has each of its n-grams."""
    words = caption_words(caption)
    return [Counter(zip(*(words[start:] for start in range(n)), strict=False)) for n in range(1, _LONGEST + 1)]


def _likeness(
    mine: Sequence[_Ngrams], other: Sequence[_Ngrams], rarity: Mapping[tuple[str, ...], float], highest: float
) -> float:
    """0 to 1: the mean over n of the cosines, in which no n-gram counts more often than ``other`` has it."""
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
