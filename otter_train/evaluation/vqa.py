"""The accuracy of VQA (Antol et al., arXiv 1505.00468): an answer counts in full where three of ten people gave it.

Each person in turn is left out, the answer scores min(1, those of the others who gave it / 3), and the mean over the
people left out is the accuracy; so 2 of 10 make 0.6, and 3 make 0.9. Answers are compared after the clean-up of the
benchmark's own scorer, with its oddities, so that numbers compare with those of papers: ``"c#"`` is not ``"c"``, and
where all people wrote the same, answers are compared as they were written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from mimicit.records import Sample

__all__ = ["human_answers", "plain_answer", "vqa_accuracy"]

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


def vqa_accuracy(answer: str, humans: Sequence[str]) -> float:
    """Between 0 and 1; of a single human answer it is 1 where that is the answer, and else 0."""
    said, *people = (_one_line(text) for text in (answer, *humans))
    if len(people) < 2 or len(set(people)) > 1:
        said, *people = (plain_answer(text) for text in (said, *people))
    agreeing = people.count(said)
    if len(people) < 2:
        return float(agreeing)
    least = min(3, len(people) - 1)  # of fewer than four people, all the others must agree
    with_one_left_out = agreeing * min(1, (agreeing - 1) / least) + (len(people) - agreeing) * min(1, agreeing / least)
    return with_one_left_out / len(people)


def human_answers(sample: Sample) -> list[str]:
    """The answers of all people in the ``answers`` of a sample's meta, as VQAv2 has them; often none.

    Someone who answered nothing is one of the people too.
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


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
