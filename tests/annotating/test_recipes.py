"""Recipes: those that come along, answers in both forms, and what a record looks like in words."""

from __future__ import annotations

import orjson
import pytest

from mimicit.annotating.facts import Box, Moment
from mimicit.annotating.gates import fault_of_pair
from mimicit.annotating.recipe import built_in_recipes, parse_recipe, read_recipe
from mimicit.annotating.records import Record
from mimicit.annotating.wording import (
    Job,
    Pair,
    UnreadableError,
    pairs_of,
    record_in_words,
    request_of,
    unfit,
    written_out,
)
from mimicit.errors import UsageError
from mimicit.sources.items import InFile, MediaRef
from tests.factories.annotating import RECIPE

NAMES = sorted(built_in_recipes())
KINDS = {"detail", "reasoning", "conversation", "difference", "dense-captions", "story", "egocentric", "translation"}


def record(*, media: int = 1, kind: str = "image", **known: object) -> Record:
    refs = tuple(MediaRef(kind=kind, parts=(InFile(f"{n}.jpg"),), origin="") for n in range(media))  # type: ignore[arg-type]
    return Record(id="s/a", source="s", place="s:1", media=refs, **known)  # type: ignore[arg-type]


WHOLE = record(
    media=2,
    captions=("a cat sits", "the cat on a mat"),
    pairs=(("Which animal?", "A cat."),),
    boxes=(Box("cat", (0.1, 0.7, 0.2, 0.2)), Box("mat")),
    moments=(Moment(0.0, 1.5, "it wakes up"),),
)


def test_there_is_one_for_each_kind() -> None:
    assert {*KINDS, "multiple-choice"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["json", "text"])
def test_its_examples_pass_its_own_gates_in_both_forms(name: str, form: str) -> None:
    recipe = read_recipe(name, answers=form)  # type: ignore[arg-type]
    assert recipe.about and recipe.name == name
    about = record(media=max(1, recipe.media[0]))
    for example in recipe.example:
        pairs = pairs_of(written_out(example.pairs, recipe), recipe)
        plain = [Pair(one["instruction"], one["answer"], tuple(one.get("choices", ()))) for one in example.pairs]
        assert pairs == plain and (len(pairs) == recipe.pairs or recipe.pairs == 0)
        assert [fault_of_pair(pair, about, recipe, "English") for pair in pairs] == [None] * len(pairs)


@pytest.mark.parametrize("name", NAMES)
def test_its_template_tells_all_that_it_needs(name: str) -> None:
    recipe = read_recipe(name)
    job = Job(number=0, record=WHOLE, language="French", beside=("- a dog",))
    words = record_in_words(job, recipe)
    told = {"pairs": "Which animal?", "moments": "it wakes up", "text": "cat", "media": "", "captions": "the cat on"}
    for need in recipe.needs:
        assert told[need] in words
    assert "\n\n\n" not in words and "  " not in words
    body = orjson.loads(request_of(job, recipe, "m"))
    assert "French" in body["messages"][0]["content"] and body["messages"][-1]["content"] == words


def test_words_of_boxes_and_their_places() -> None:
    words = record_in_words(Job(number=0, record=WHOLE, language="English"), read_recipe("detail"))
    assert "- there is: cat (lower left)" in words and words.endswith("- there is: mat")


def test_a_record_that_does_not_fit_is_told_why() -> None:
    assert "needs captions" in unfit(record(), parse_recipe(RECIPE.replace('"text"', '"captions"'), "r"))
    assert "1 pictures or clips; the recipe asks about 2 to 2" in unfit(
        record(captions=("a",)), read_recipe("difference")
    )
    assert "shows a picture" in unfit(record(moments=(Moment(0, 1, "a"),)), read_recipe("dense-captions"))
    assert unfit(record(kind="video", moments=(Moment(0, 1, "a"),)), read_recipe("dense-captions")) == ""
    assert "sends no pictures" in unfit(record(), parse_recipe(RECIPE.replace('needs = ["text"]', ""), "r"))
    assert unfit(record(), read_recipe("look")) == ""


TEXT = parse_recipe(RECIPE.replace("pairs = 2", 'pairs = 2\nanswers = "text"'), "r")
CHOICES = parse_recipe(RECIPE.replace("pairs = 2", 'pairs = 1\nanswers = "text"\nform = "choices"'), "r")
JSON = parse_recipe(RECIPE, "r")


def test_lines_are_read_strictly() -> None:
    said = "<think>hm\nQuestion: no</think>\nQuestion: What?\nAnswer: This\nand that.\n\n"
    said += "**Question 2:** Why?\n**Answer:** So."
    assert pairs_of(said, TEXT) == [Pair("What?", "This\nand that."), Pair("Why?", "So.")]
    for wrong, why in (
        ("Sure! Question: What?", "does not begin with Question:"),
        ("Question: What?\nQuestion: Why?\nAnswer: So.", "do not take turns"),
        ("Question: What?", "do not take turns"),
        ("Answer: So.\nQuestion: Why?", "do not take turns"),
        ("", "empty"),
        ("<think>only thoughts</think>", "empty"),
    ):
        with pytest.raises(UnreadableError, match=why):
            pairs_of(wrong, TEXT)


def test_choices_are_read_by_letter_or_by_words() -> None:
    said = "Question: Which?\nA) red\n(B) green\nC. blue\nAnswer: {}"
    for answer in ("B", "(B)", "B) green", "green"):
        assert pairs_of(said.format(answer), CHOICES) == [Pair("Which?", "green", ("red", "green", "blue"))]
    with pytest.raises(UnreadableError, match="needs choices"):
        pairs_of("Question: Which?\nAnswer: B", CHOICES)


@pytest.mark.parametrize(
    "wrong",
    [
        "{",
        "[]",
        '{"pairs": [{"instruction": "a"}]}',
        '{"pairs": [], "more": 1}',
        '{"pairs": []}',
        "null",
        "[" * 100_000,
    ],
)
def test_json_is_read_by_the_schema(wrong: str) -> None:
    with pytest.raises(UnreadableError):
        pairs_of(wrong, JSON)


def test_json_in_a_fence_is_json() -> None:
    text = '```json\n{"pairs": [{"instruction": "a", "answer": " b "}]}\n```'
    assert pairs_of(text, JSON) == [Pair("a", "b")]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (("pairs = 2", "pairs = 99"), "pairs: 99"),
        (("pairs = 2", "pair = 2"), "no key 'pair'; did you mean pairs?"),
        (("pairs = 2", "media = [3, 2]"), "the least is more than the most"),
        (("{% endfor %}", ""), "recipe test: template"),
        (("{{ caption }}", "{{ caption.__class__.__mro__ }}"), "unsafe"),
        (("[request]", "[request]\nmodel = 'x'"), "request"),
        (("pairs = 2", "pairs = "), "Invalid value"),
        (
            (
                "pairs = 2",
                "[[example]]\nrecord = 'a'\npairs = [{instruction = 'a', answer = 'b', choices = ['b', 'c']}]",
            ),
            "",
        ),
    ],
)
def test_a_recipe_that_is_wrong_is_named(spoil: tuple[str, str], says: str) -> None:
    def use() -> None:
        recipe = parse_recipe(RECIPE.replace(*spoil), "r")
        record_in_words(Job(number=0, record=WHOLE, language="English"), recipe)

    with pytest.raises(UsageError, match=r"r(ecipe test)?: ") as error:
        use()
    assert says in str(error.value)
