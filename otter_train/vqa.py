"""The accuracy of VQA (Antol et al., arXiv 1505.00468): an answer counts in full where three of ten people gave it.

Each person in turn is left out, the answer scores min(1, those of the others who gave it / 3), and the mean over the
people left out is the accuracy; so 2 of 10 make 0.6, and 3 make 0.9. Answers are compared after the clean-up that the
benchmark prescribes: case, articles, punctuation, numbers in words.
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
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d)")
_FINAL_STOP: Final = re.compile(r"\.(?!\d)")  # the point of 2.5 stays
_APOSTROPHE: Final = re.compile("['’]")  # people write dont as often as don't
_MARKS: Final = re.compile(r"[^\w\s.:]|_")


def vqa_accuracy(answer: str, humans: Sequence[str]) -> float:
    """Between 0 and 1; of a single human answer it is 1 where that is the answer, and else 0."""
    said = plain_answer(answer)
    agreeing = sum(plain_answer(human) == said for human in humans)
    if len(humans) < 2:
        return float(agreeing)
    least = min(3, len(humans) - 1)  # of fewer than ten people, all the others must agree
    with_one_left_out = agreeing * min(1, (agreeing - 1) / least) + (len(humans) - agreeing) * min(1, agreeing / least)
    return with_one_left_out / len(humans)


def human_answers(sample: Sample) -> list[str]:
    """The answers of all people in the ``answers`` of a sample's meta, as VQAv2 has them; often none."""
    answers: Any = sample.meta.get("answers")
    if not isinstance(answers, list):
        return []
    return [answer for answer in answers if isinstance(answer, str) and answer.strip()]


def plain_answer(text: str) -> str:
    """``text`` without what people write differently: ``"The two dogs."`` is ``"2 dogs"``."""
    text = _APOSTROPHE.sub("", text.casefold())
    text = _MARKS.sub(" ", _FINAL_STOP.sub(" ", _THOUSANDS.sub("", text)))
    words = (_NUMBERS.get(word, word) for word in text.split() if word not in _ARTICLES)
    return " ".join(words)
