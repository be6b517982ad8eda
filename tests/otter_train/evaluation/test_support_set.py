"""Context from another set: what is nearest by brute force, never the query's own picture, the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from click.testing import CliRunner

from mimicit.embedding.light import ClassicalPicture, HashedText
from mimicit.embedding.vectors import cosines, quantise
from mimicit.errors import UsageError
from mimicit.records import Sample
from otter_train.evaluate import _CONTEXTS, main
from otter_train.evaluation.scores import Attempt, evaluate
from otter_train.evaluation.support_set import Support, SupportContext
from tests.factories import raw
from tests.factories.train import image, sample, triplet

QUESTIONS = ("what colour is it?", "how many are there?", "is it day or night?", "where is the dog?")


def examples(count: int, *, first: int = 0, source: str = "test") -> list[Sample]:
    """Pictures of noise, each with a question, and one triplet of context that must not be shown."""
    found = []
    for number in range(first, first + count):
        picture = image(raw.picture(number), size=(48, 32), origin=f"{number}.jpg")
        other = image(raw.picture(number + 10_000), size=(48, 32), origin=f"{number}-context.jpg")
        question = f"{QUESTIONS[number % len(QUESTIONS)]} {number % 7}"
        turns = (triplet("context?", media=[0]), triplet(question, f"answer {number}", media=[1]))
        found.append(sample(*turns, media=[other, picture], id=f"{source}-{number}", source=source))
    return found


def context_of(shown: Sample) -> list[str]:
    """The numbers of the pictures before the query's, nearest to it first."""
    return [medium.origin.removesuffix(".jpg") for medium in reversed(shown.media[:-1])]


def test_the_command_line_offers_every_way() -> None:
    assert get_args(SupportContext) == _CONTEXTS


@pytest.mark.parametrize("by", ["image-similar", "text-similar"])
def test_the_nearest_are_those_of_brute_force(by: SupportContext) -> None:
    support, queries = examples(60), examples(9, first=500)
    chooser = Support(support, by)
    if by == "image-similar":
        embedder, items = ClassicalPicture(), lambda samples: [one.media[-1].data[0] for one in samples]
    else:
        texts = [one.query.instruction for one in support]
        embedder, items = HashedText(texts), lambda samples: [one.query.instruction for one in samples]  # type: ignore[assignment]
    scores = cosines(quantise(embedder.embed(items(queries))), quantise(embedder.embed(items(support))))
    for query, row in zip(queries, scores, strict=True):
        shown = chooser.with_context(query, 5)
        best = np.argsort(-row, kind="stable")[:5]
        assert context_of(shown) == [str(number) for number in best]
        assert [one.score for one in reversed(shown.context)] == pytest.approx(row[best].tolist())
        assert {one.relation for one in shown.context} == {by.replace("-", "_")}
        assert [one.answer for one in reversed(shown.context)] == [f"answer {number}" for number in best]


@pytest.mark.parametrize("by", get_args(SupportContext))
def test_no_query_sees_itself_or_its_own_picture(by: SupportContext) -> None:
    """The set holds every query, and a copy of it under another id with its answer."""
    queries = examples(12)
    copies = [replace(one, id=f"copy-{one.id}") for one in queries]
    again = [replace(one, media=(one.media[0], image(raw.picture(90 + place), size=(48, 32), origin=f"new-{place}")))
             for place, one in enumerate(queries)]  # fmt: skip
    chooser = Support([*queries, *copies, *again], by)
    for query in queries:
        shown = chooser.with_context(query, 100)
        own = set(query.media[-1].sha256)
        assert len(shown.context) == 2 * 12 - 2  # a query and its copy show the same
        assert all(own.isdisjoint(medium.sha256) for medium in shown.media[:-1])


@pytest.mark.parametrize("by", get_args(SupportContext))
def test_a_picture_with_several_captions_is_shown_once(by: SupportContext) -> None:
    pictures = examples(6)
    captions = [replace(one, id=f"{one.id}-{n}") for one in pictures for n in range(5)]
    query = examples(1, first=700)[0]
    shown = context_of(Support(captions, by).with_context(query, 100))
    assert sorted(shown) == [str(number) for number in range(6)]
    if by != "random":
        assert shown == context_of(Support(pictures, by).with_context(query, 6))


@pytest.mark.parametrize("by", get_args(SupportContext))
def test_samples_are_whole_and_fewer_shots_are_the_nearest_of_more(by: SupportContext) -> None:
    support, query = examples(30), examples(1, first=700)[0]
    many = Support(support, by).with_context(query, 8)
    assert many.query == replace(query.query, media=(8,)) and many.media[-1] == query.media[-1]
    assert [one.media for one in many.triplets] == [(place,) for place in range(9)]
    assert [one.role for one in many.triplets] == ["context"] * 8 + ["query"]
    few = Support(support, by).with_context(query, 3)
    assert context_of(few) == context_of(many)[:3]
    assert Support(support, by).with_context(query, 0).media == query.media[-1:]


def test_random_context_depends_on_the_seed_and_the_query_alone() -> None:
    support, queries = examples(40), examples(6, first=600)
    shown = [context_of(Support(support, "random").with_context(query, 4)) for query in queries]
    again = Support(support, "random")
    assert [context_of(again.with_context(query, 4)) for query in reversed(queries)] == shown[::-1]
    assert [context_of(Support(support, "random", seed=1).with_context(query, 4)) for query in queries] != shown
    assert len({number for numbers in shown for number in numbers}) > 10


def test_a_source_gets_examples_of_its_own_and_others_get_any() -> None:
    support = [
        *examples(10, source="vqa"),
        *examples(10, first=20, source="coco"),
        *examples(10, first=40, source="vqa"),
    ]
    chooser = Support(support, "random")
    own = chooser.with_context(examples(1, first=800, source="coco")[0], 100)
    assert sorted(map(int, context_of(own))) == list(range(20, 30))
    assert len(chooser.with_context(examples(1, first=800, source="new")[0], 100).context) == 30


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--context", "random"), "--context: says how to choose from --support; give that too"),
        (
            ("--support", "s", "--image-embedder", "open_clip:x"),
            "--image-embedder: compares only with",
        ),
        (
            ("--support", "s", "--context", "image-similar", "--text-embedder", "transformers:x"),
            "with --context text",
        ),
    ],
)
def test_options_that_would_do_nothing_are_refused(given: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(main, ["--checkpoint", "run", "--shards", "held-out", *given])
    assert result.exit_code == 2 and message in result.output


def test_what_shows_nothing_is_compared_by_nothing() -> None:
    text = sample(triplet("why?", "so"), id="text")
    shown = Support(examples(5), "image-similar").with_context(text, 2)
    assert len(shown.context) == 2 and all(one.score is None for one in shown.context)
    assert shown.query.media == ()
    document = sample(triplet("", "words", relation="document"), id="document")
    for by, wanted in (("image-similar", [text, document]), ("random", [document])):
        with pytest.raises(UsageError, match="--support: no query"):
            Support(wanted, by)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("relation", "shows"), [("random", 0), ("image_similar", 0), ("conversation", 1), ("same_media", 1), ("related", 1)]
)
def test_what_shows_nothing_is_about_pictures_of_its_own_context_alone(relation: str, shows: int) -> None:
    picture = image(raw.picture(5), size=(48, 32), origin="5.jpg")
    turns = (triplet("what is it?", "a cat", media=[0], relation=relation), triplet("why?", "so"))
    text = sample(*turns, media=[picture], id="text")
    assert len(Support(examples(3), "random").with_context(text, 0).media) == shows
    shown = Support([text], "random").with_context(examples(1, first=50)[0], 1)
    assert [len(one.media) for one in shown.triplets] == [shows, 1]


def test_an_evaluation_asks_with_that_context() -> None:
    queries = examples(8, first=300)
    chooser = Support(examples(20), "image-similar")
    seen: list[Sample] = []

    def attempt(samples: Sequence[Sample]) -> object:
        for one in samples:
            seen.append(one)
            yield Attempt(one, one.query.answer, 1.0, 2)

    report = evaluate(queries, attempt, shots=3, with_context=chooser.with_context, baselines=True)  # type: ignore[arg-type]
    assert [one.shots for one in report.answered] == [3] * 8
    assert seen[:8] == [chooser.with_context(query, 3) for query in queries]
    assert all(len(one.media) == 4 for one in seen)
