"""Text without a model: order of work changes nothing, rare words count more, spelling is what it knows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.embedding.light import HashedText
from mimicit.embedding.vectors import cosines, quantise


def likeness(embedder: HashedText, one: str, other: str) -> float:
    vectors = quantise(embedder.embed([one, other]))
    return float(cosines(vectors[:1], vectors[1:])[0, 0])


@given(st.lists(st.text(), max_size=6), st.text())
def test_a_text_s_vector_does_not_depend_on_its_company(others: list[str], text: str) -> None:
    embedder = HashedText(["some sample", "some other"])
    alone = embedder.embed([text])
    assert np.array_equal(embedder.embed([*others, text])[-1:], alone)
    assert np.array_equal(embedder.embed([text, *others])[:1], alone)
    assert alone.dtype == np.int64


def test_nothing_but_signs_and_no_text_at_all() -> None:
    embedder = HashedText()
    assert not embedder.embed(["", " \n", "?!… ☺"]).any()
    assert embedder.embed([]).shape == (0, 512)


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("What is the colour of the cat?", "what is the COLOUR of the cats", "How many lorries are parked here?"),
        ("Ein roter Drache fliegt", "Der rote Drache", "Two boats on a lake"),
        ("ｆｕｌｌ ｗｉｄｔｈ", "full width", "half measure"),
        ("一只红色的鸟", "红色的鸟在树上", "三辆卡车"),
    ],
)
def test_like_spelling_is_nearer(text: str, near: str, far: str) -> None:
    embedder = HashedText()
    assert likeness(embedder, text, near) > likeness(embedder, text, far) + 0.1


def test_what_most_texts_say_counts_little() -> None:
    sample = [f"What is the name of thing {number}?" for number in range(500)]
    one, other = "What is the name of the zebra?", "What is the name of the accordion?"
    assert likeness(HashedText(sample), one, other) < likeness(HashedText(), one, other) - 0.2


def test_the_fingerprint_says_by_what_texts_are_weighed() -> None:
    assert HashedText(["a b"]).fingerprint == HashedText(["a b"]).fingerprint
    assert HashedText(["cat", "cat", "dog"]).fingerprint != HashedText(["cat", "dog", "dog"]).fingerprint


def test_a_million_characters_are_no_trouble() -> None:
    long = "word " * 200_000
    assert np.array_equal(HashedText().embed([long]), HashedText().embed([long[:2_000]]))
