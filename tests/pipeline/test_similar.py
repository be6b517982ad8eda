"""Context by similarity, end to end: nothing leaks, and workers, kills and the way of searching change no byte."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicit.errors import UsageError
from mimicit.media.image import distance, fingerprint
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.pipeline.similarity import SimilarOptions, search
from mimicit.pipeline.similarity.tables import plain_text
from mimicit.progress import Progress
from mimicit.records import Sample
from tests.factories import raw as make
from tests.factories.builds import add_rows, build, row
from tests.factories.engines import InProcess
from tests.factories.killing import KILLED_BY_ITSELF, forked
from tests.factories.media import recompressed

STRATEGIES = ("text-similar", "image-similar", "both")
NOUNS = ("cat", "dog", "tree", "boat", "house", "bird")


def config(context: str = "text-similar,image-similar,both", shots: int = 4, **options: Any) -> BuildConfig:
    return BuildConfig(context=context, shots=shots, similar=SimilarOptions(**options))


def add_planted(folder: Path, records: int = 12) -> None:
    """Questions about pictures, most of them there twice: as they are, recompressed, rephrased, under a new picture."""
    pictures: dict[str, bytes] = {}
    rows: list[dict[str, Any]] = []
    for number in range(records):
        pictures[f"{number}.jpg"] = make.picture(number, 96, 72)
        pictures[f"{number}-copy.jpg"] = pictures[f"{number}.jpg"]
        pictures[f"{number}-small.jpg"] = recompressed(pictures[f"{number}.jpg"])
        pictures[f"{number}-other.jpg"] = make.picture(1_000 + number, 96, 72)
        noun = NOUNS[number % len(NOUNS)]
        question, answer = f"Where is the {noun} of house {number // 2}?", f"beside door {number}"
        sentence = f"A {noun} sits beside the green door number {number}."
        rows.append(row(f"{number}", f"{number}.jpg", instruction=question, answer=answer))
        rows.append(row(f"{number}-copy", f"{number}-copy.jpg", instruction=question, answer=answer))
        rows.append(row(f"{number}-small", f"{number}-small.jpg", instruction=f"{noun}, where?", answer=answer))
        rows.append(row(f"{number}-loud", f"{number}-other.jpg", instruction=question.upper(), answer=f"{answer}!"))
        rows.append(row(f"{number}-yes", f"{number}.jpg", instruction="Is it there?", answer=("yes", "no")[number % 2]))
        rows.append(row(f"{number}-caption", f"{number}-copy.jpg", instruction="Describe it.", answer=sentence))
        rows.append(row(f"{number}-again", f"{number}-other.jpg", instruction="What is shown?", answer=sentence))
    rows.append(row("text", instruction="What is a cat?", answer="An animal."))
    add_rows(folder, pictures, rows)


def looks(sample: Sample, place: int, files: dict[str, bytes]) -> list[int]:
    found = (fingerprint(files[sample.media[n].origin.rpartition("/")[2]]) for n in sample.triplets[place].media)
    return [look for look in found if look is not None]


def pictures_at(sample: Sample, place: int) -> set[str]:
    return {digest for n in sample.triplets[place].media for digest in sample.media[n].sha256}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    add_planted(folder / "own")
    return folder


@pytest.mark.parametrize("context", [*STRATEGIES, "text-similar,image-similar,both"])
def test_no_planted_duplicate_leaks(planted: Path, tmp_path: Path, context: str) -> None:
    built = build(planted, tmp_path / "out", config(context, shots=6))
    files = {path.name: path.read_bytes() for path in (planted / "own").glob("*.jpg")}
    chosen = 0
    for sample in built.samples.values():
        query = sample.triplets[-1]
        said = plain_text(query.instruction), plain_text(query.answer)
        last = len(sample.triplets) - 1
        for place, triplet in enumerate(sample.triplets[:-1]):
            chosen += 1
            assert (plain_text(triplet.instruction), plain_text(triplet.answer)) != said
            assert triplet.score is not None
            assert pictures_at(sample, place).isdisjoint(pictures_at(sample, last))
            near = [distance(one, two) for one in looks(sample, place, files) for two in looks(sample, last, files)]
            assert all(bits > 3 for bits in near)
            if query.instruction in ("Describe it.", "What is shown?"):
                assert triplet.answer != query.answer
            if query.instruction == "Is it there?":  # most others answer as someone else does
                assert triplet.instruction != query.instruction
        seen = [digest for place in range(last) for digest in pictures_at(sample, place)]
        assert len(seen) == len(set(seen))
    assert chosen > 4 * len(built.samples)


def test_what_is_asked_for_is_shown(planted: Path, tmp_path: Path) -> None:
    lifted = config("image-similar", allow_same_media=True, allow_same_answer=True)
    samples = build(planted, tmp_path / "out", lifted).samples
    assert samples["3-copy"].triplets[-2].score == 1.0
    assert pictures_at(samples["3"], len(samples["3"].triplets) - 1) == pictures_at(samples["3-copy"], -1)


def test_the_nearest_comes_last_and_the_score_falls(tmp_path: Path) -> None:
    texts = ["the red bird sings", "the red bird sits", "a red bird", "two boats", "moonlight"]
    rows = [row(f"{n}", instruction=text, answer=f"answer {n}") for n, text in enumerate(texts)]
    add_rows(tmp_path / "raw" / "own", {}, rows)
    built = build(tmp_path / "raw", tmp_path / "out", config("text-similar", shots=3, min_score=0.05))
    context = built.samples["0"].triplets[:-1]
    assert [triplet.id for triplet in context] == ["2", "1"]
    assert [triplet.relation for triplet in context] == ["text_similar"] * 2
    scores = [triplet.score for triplet in context]
    assert scores[0] is not None and scores[1] is not None
    assert 0.05 <= scores[0] < scores[1] < 1
    assert built.samples["3"].triplets[-1].role == "query"


def test_both_multiplies_the_ranks(tmp_path: Path) -> None:
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    pictures = {f"{n}.jpg": make.picture(n, 96, 72) for n in range(8)}
    rows = [row(f"{n}", f"{n}.jpg", instruction=" ".join(words[: n + 1])) for n in range(8)]
    add_rows(tmp_path / "raw" / "own", pictures, rows)
    scores: dict[str, dict[str, float]] = {}
    for context in STRATEGIES:
        built = build(tmp_path / "raw", tmp_path / context, config(context, shots=7))
        nearest_first = reversed(built.samples["4"].triplets[:-1])
        scores[context] = {triplet.id: triplet.score or 0 for triplet in nearest_first}

    def rank(context: str, id: str) -> int:
        return sorted(set(scores[context].values()), reverse=True).index(scores[context][id]) + 1

    products = [rank("text-similar", id) * rank("image-similar", id) for id in scores["both"]]
    assert len(products) == 7
    assert products == sorted(products)
    for id, score in scores["both"].items():
        assert score == min(scores["text-similar"][id], scores["image-similar"][id])


def test_workers_and_the_way_of_searching_change_no_byte(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = build(planted, tmp_path / "one", config(), workers=1)
    build(planted, tmp_path / "two", config(), workers=2)
    assert make.hashes(tmp_path / "one") == make.hashes(tmp_path / "two")
    # So few vectors have few cells, of which all are probed: then an inverted file finds what a full search finds.
    monkeypatch.setattr(search, "_EXACT_ROWS", 20)
    monkeypatch.setattr(search, "cell_count", lambda rows: 8)
    cells = build(planted, tmp_path / "cells", config(), workers=1)
    assert cells.result.manifest["shards"] == one.result.manifest["shards"]
    assert cells.samples == one.samples


class Kill:
    """Ends this process at a moment of ``stage``."""

    def __init__(self, stage: str, done: int) -> None:
        self._stage, self._done = stage, done

    def update(self, stage: str, done: int, total: int | None) -> None:
        if stage == self._stage and done >= self._done:
            os.kill(os.getpid(), signal.SIGKILL)

    def note(self, message: str) -> None:
        pass


def built_in_a_fork(src: Path, out: Path, progress: Progress | None = None) -> int:
    """The exit code of a build of many tasks; negative: the signal that ended it."""

    def work() -> int:
        search._TEXTS_PER_TASK = search._PICTURES_PER_TASK = search._QUERIES_PER_TASK = 16  # type: ignore[misc]
        search._EXACT_ROWS = 20  # type: ignore[misc]
        build_shards(src, out, BuildConfig(context="both", shots=3), engine=InProcess(), progress=progress)
        return 0

    return forked(work)


@pytest.mark.parametrize(
    ("stage", "done"),
    [
        ("embed pictures", 2),
        ("compare pictures", 1),
        *(
            pytest.param(stage, done, marks=pytest.mark.slow)
            for stage, done in (("embed pictures", 0), ("place pictures", 1), ("embed texts", 1), ("choose", 0))
        ),
    ],
)
def test_a_killed_build_ends_as_if_it_were_not(
    whole: Path, planted: Path, tmp_path: Path, stage: str, done: int
) -> None:
    out = tmp_path / "out"
    assert built_in_a_fork(planted, out, Kill(stage, done)) == KILLED_BY_ITSELF
    assert (out / ".mimicit-work" / "similar").exists()
    assert built_in_a_fork(planted, out) == 0
    assert make.hashes(out) == make.hashes(whole)


@pytest.fixture(scope="module")
def whole(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What such a build makes where it is not killed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert built_in_a_fork(planted, out) == 0
    return out


@settings(deadline=None)
@given(st.text(max_size=30))
def test_case_punctuation_and_spacing_make_no_other_text(text: str) -> None:
    plain = plain_text(text)
    assert plain_text(f"  {text} ") == plain
    assert plain_text(plain) == plain or not any(character.isalnum() for character in plain)


def test_texts_that_are_only_signs_are_not_one_text() -> None:
    assert plain_text("?") != plain_text("!")
    assert plain_text("Is it  HERE?") == plain_text("is it here")


def test_sources_without_such_strategies_are_not_compared(planted: Path, tmp_path: Path) -> None:
    work = tmp_path / "out" / ".mimicit-work" / "similar"
    seen: list[bool] = []

    class Watch:
        def update(self, stage: str, done: int, total: int | None) -> None:
            seen.append(work.exists())

        def note(self, message: str) -> None:
            pass

    build(planted, tmp_path / "out", BuildConfig(context="random"), progress=Watch())
    assert seen and not any(seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_embedder": "word2vec"}, "no embedder 'word2vec'"),
        ({"image_embedder": "hashed"}, "no embedder 'hashed'; there are: classical"),
        ({"min_score": 1.5}, "--min-score 1.5: must be between -1 and 1"),
        ({"similar_text": "answer"}, "--similar-text answer: no such choice; there are: instruction, all"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SimilarOptions(**options)
