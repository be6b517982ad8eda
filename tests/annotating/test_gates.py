"""The gates: what each stops, what it lets pass, and that neither depends on the order of answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.annotating.gates import PAIR_REASONS, Alike, fault_of_pair, repeats_in_record, wrong_language
from mimicit.annotating.recipe import parse_recipe
from mimicit.annotating.records import Record
from mimicit.annotating.wording import Pair
from mimicit.sources.items import InFile, MediaRef
from tests.factories.annotating import RECIPE

PLAIN = parse_recipe(RECIPE + "[gates]\nmin_words = 2\nmax_words = 30\n", "r")
PICTURE = MediaRef(kind="image", parts=(InFile("a.jpg"),), origin="a.jpg")
CAT = Record(id="a", source="s", place="s:1", media=(PICTURE,), captions=("A grey cat sleeps on a sofa.",))
CHOSEN = ("red", "green", "blue")


def reason(question: str, answer: str, *choices: str, language: str = "English") -> str:
    fault = fault_of_pair(Pair(question, answer, choices), CAT, PLAIN, language)
    assert fault is None or (fault[0] in PAIR_REASONS and fault[1])
    return "" if fault is None else fault[0]


@pytest.mark.parametrize(
    ("question", "answer", "stopped_by"),
    [
        ("Where does the cat sleep?", "It lies on a sofa.", ""),
        ("Where?", "", "empty"),
        ("?", "It lies there.", "empty"),
        ("Where?", "Sofa", "empty"),
        ("Where?", "on the sofa " * 20, "too_long"),
        ("Where?", "a\x00 b", "control_characters"),
        ("Where?", "a \x1b[1m b", "control_characters"),
        ("Where is <image>?", "It lies there.", "special_token"),
        ("Where is it?", "Well <|im_end|> there.", "special_token"),
        ("Where?", "I'm sorry, but I cannot help with that.", "refusal"),
        ("Where?", "I’m sorry, I can’t view pictures.", "refusal"),
        ("Where?", "As an AI, I have no eyes.", "gives_away"),
        ("What does the caption say?", "It tells of a cat.", "gives_away"),
        ("What is in picture 2?", "A dog lies there.", "picture_number"),
        ("What changed in the second image?", "The dog is gone.", "picture_number"),
        ("What is in image 1?", "A cat that sleeps.", ""),
        ("What does the cat do on the sofa?", "What does the cat do on the sofa", "repeats_question"),
        ("What is shown?", "a grey cat sleeps on a sofa", "repeats_caption"),
        ("Qué hace el gato en la casa?", "El gato está en el sofá de la casa y no se mueve.", "wrong_language"),
        ("Что делает кот?", "Он спит на диване.", "wrong_language"),
    ],
)
def test_what_a_gate_stops(question: str, answer: str, stopped_by: str) -> None:
    assert reason(question, answer) == stopped_by


def test_gates_of_choices() -> None:
    assert reason("Which colour?", "green", *CHOSEN) == ""
    assert reason("Which colour?", "grey", *CHOSEN) == "bad_choice"
    assert reason("Which colour?", "red", "red", "Red.", "blue") == "bad_choice"
    assert reason("Which colour?", "red", "red", "<image>") == "special_token"


def test_a_word_of_the_record_is_not_given_away() -> None:
    record = Record(id="a", source="s", place="s:1", media=(PICTURE,), captions=("a map with coordinates on it",))
    assert fault_of_pair(Pair("What is on the map?", "There are coordinates."), record, PLAIN, "English") is None


@pytest.mark.parametrize(
    ("text", "language", "wrong"),
    [
        ("Der Hund liegt auf dem Sofa und schläft mit der Katze.", "German", ""),
        ("Der Hund liegt auf dem Sofa und schläft mit der Katze.", "de", ""),
        ("Der Hund liegt auf dem Sofa und schläft mit der Katze.", "English", "german"),
        ("The dog lies on the sofa and sleeps with the cat.", "French", "english"),
        ("一只猫在沙发上睡觉。", "Chinese", ""),
        ("一只猫在沙发上睡觉。", "Japanese", ""),
        ("A cat sleeps on the sofa", "Chinese", "latin letters"),
        ("Paka analala juu ya kochi kubwa la bluu", "Swahili", ""),
        ("Bonjour Madame", "English", ""),
        ("1, 2, 3", "English", ""),
        ("A code like e3d9 e7e7 4a3c 1e99 73e9 3d1e is what one sees.", "English", ""),
    ],
)
def test_languages_are_told_apart_where_that_is_sure(text: str, language: str, wrong: str) -> None:
    assert wrong_language(text, language) == wrong


def test_a_pair_that_says_nearly_the_same_is_a_repeat() -> None:
    first = Pair("Where does the grey cat sleep now?", "It sleeps on the blue sofa near the window.")
    assert repeats_in_record(
        Pair("Where does the grey cat sleep now", "It sleeps on the blue sofa near the window!"), [first]
    )
    assert repeats_in_record(Pair("where does the GREY cat sleep now?", "On a sofa."), [first])
    assert not repeats_in_record(Pair("What colour is it?", "It sleeps on the blue sofa near the window."), [first])


def test_answers_that_many_records_share_are_too_alike() -> None:
    alike = Alike(2)
    told = "There is a cat that sleeps on a blue sofa in the sun."
    assert [alike.is_too_much(said) for said in (told, told.upper(), "short answer", told, "short answer", told)] == [
        False, False, False, True, False, True,
    ]  # fmt: skip
    assert not any(Alike(0).is_too_much(told) for _ in range(9))


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_breaks_a_gate(question: str, answer: str) -> None:
    reason(question, answer)
    repeats_in_record(Pair(question, answer), [Pair(answer, question)])
    Alike(1).is_too_much(answer)
