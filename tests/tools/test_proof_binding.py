"""The episodes of the binding proof: the name stands in the context alone, and only the pictures tell which it is."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mimicit.pipeline import BuildConfig
from tests.factories.builds import build
from tools.proof.binding import ASKED, FIRST, SECOND, SETS, SIZES, Lessons, name_of, table, write_manifest
from tools.proof.episodes import NAMES, alike, dealt_anew, draw, named, word_of
from tools.proof.examples import chosen
from tools.proof.examples import draw as show
from tools.proof.pictures import HELD_OUT, kinds_of, squares

KINDS = {kind: [f"{kind}/{number}.png" for number in range(6)] for kind in "abcdef"}


@given(st.integers(0, 1 << 32), st.integers(2, 5), st.integers(1, 4), st.sampled_from([0.0, 1.0]))
def test_the_name_asked_for_is_that_of_the_same_kind(seed: int, ways: int, shots: int, again: float) -> None:
    episode = draw(KINDS, random.Random(seed), ways=ways, shots=shots, again=again)
    named = {picture[0]: name for picture, name in episode.context}
    assert len(named) == len(set(named.values())) == len(episode.choices) == ways
    assert len({name[0] for name in episode.choices}) == ways  # another first token in any tokenizer
    assert Counter(name for _, name in episode.context) == dict.fromkeys(episode.choices, shots)
    assert all(named[picture[0]] == name for picture, name in episode.context)
    assert episode.name == named[episode.query[0]]
    assert (episode.query in dict(episode.context)) is (again == 1.0)
    assert len(dict(episode.context)) == ways * shots


def test_neither_place_nor_choice_tells_the_answer() -> None:
    rng = random.Random(0)
    drawn = [draw(KINDS, rng) for _ in range(1000)]
    last = sum(episode.context[-1][1] == episode.name for episode in drawn)
    first = sum(episode.choices[0] == episode.name for episode in drawn)
    assert all(430 < count < 570 for count in (first, last))  # 4.4 standard deviations


def test_names_dealt_anew_say_nothing_about_the_pictures() -> None:
    rng = random.Random(0)
    right = 0
    for _ in range(500):
        episode = draw(KINDS, rng)
        dealt = dealt_anew(episode, rng)
        assert [picture for picture, _ in dealt.context] == [picture for picture, _ in episode.context]
        assert Counter(name for _, name in dealt.context) == Counter(name for _, name in episode.context)
        assert (dealt.query, dealt.name, dealt.choices) == (episode.query, episode.name, episode.choices)
        alike = [name for picture, name in dealt.context if picture[0] == dealt.query[0]]
        right += alike.count(dealt.name)
    assert 430 < right < 570


def test_a_built_sample_is_the_episode(tmp_path: Path) -> None:
    for number, path in enumerate(path for paths in KINDS.values() for path in paths):
        (tmp_path / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 2 * number, 99)).save(tmp_path / "raw" / path)
    rng = random.Random(0)
    episodes = [draw(KINDS, rng) for _ in range(12)]
    write_manifest(tmp_path / "raw", episodes)
    built = build(tmp_path / "raw", tmp_path / "shards", BuildConfig(context="related", shots=4))
    assert len(built.samples) == len(episodes)
    for number, episode in enumerate(episodes):
        sample = built.samples[f"e{number:05d}"]
        shown = [sample.media[triplet.media[0]].origin for triplet in sample.triplets]
        assert shown == [*dict(episode.context), episode.query]
        assert [triplet.answer for triplet in sample.triplets] == [*(name for _, name in episode.context), episode.name]
        assert sample.meta["choices"] == list(episode.choices)


def test_examples_are_the_first_that_may_be_shown(tmp_path: Path) -> None:
    families = ("noto", "twemoji", "openmoji", "fxemoji")
    kinds = {kind: [f"{kind}/{family}.png" for family in families] for kind in "ab"}
    for number, path in enumerate(path for paths in kinds.values() for path in paths):
        (tmp_path / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (30 * number, 99, 99)).save(tmp_path / "raw" / path)
    rng = random.Random(0)
    write_manifest(tmp_path / "raw", [draw(kinds, rng, shots=1) for _ in range(60)])
    samples = build(tmp_path / "raw", tmp_path / "shards", BuildConfig(context="related", shots=2)).samples
    answers = {
        id: {"truth": sample.query.answer, "chosen": sample.query.answer if number % 2 else "none"}
        for number, (id, sample) in enumerate(samples.items())
    }
    right = list(chosen(answers, samples, is_right=True, count=3))
    may = [id for id in answers if not any("openmoji" in media.origin for media in samples[id].media)]
    assert right == [id for id in may if answers[id]["chosen"] != "none"][:3] and len(right) == 3
    show([(samples[right[0]], answers[right[0]]["chosen"]), (samples[right[1]], "none")], tmp_path / "shown.png")
    with Image.open(tmp_path / "shown.png") as picture:
        assert picture.width > picture.height > 100


def test_kinds_are_folders_and_none_is_on_both_sides(tmp_path: Path) -> None:
    held = min(HELD_OUT)
    for folder, count in {held: 7, "openclipart-png/animals/birds": 7, "openclipart-png/tents": 7, "x": 9}.items():
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            Image.new("RGBA", (30, 10), (number, 0, 0, 255)).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "openclipart-png" / "tents" / "9.png").write_bytes(b"no picture")
    kinds, held_out = kinds_of(tmp_path)
    assert (list(kinds), list(held_out)) == (["openclipart-png/tents"], [held])
    ((kind, names),) = squares(kinds, tmp_path / "raw")
    assert (kind, len(names)) == ("openclipart-png/tents", 7)
    with Image.open(tmp_path / "raw" / names[0]) as square:
        assert (square.size, square.mode) == ((224, 224), "RGB")
        assert (square.getpixel((0, 0)), square.getpixel((112, 112))) == ((255, 255, 255), (0, 0, 0))


def test_the_table_has_a_line_for_each_question() -> None:
    def found(value: float) -> dict[str, object]:
        choice = {"value": value, "low": value - 0.04, "high": value + 0.03}
        return {name_of(question): {"results": [{"all": {"choice": choice}}]} for question in ASKED}

    assert len({name_of(question) for question in ASKED}) == len(ASKED) and len(ASKED) == len(SETS) * (len(SIZES) + 4)
    lines = list(table({1: found(0.83), 0: found(0.81)}))
    assert len(lines) == 2 + len(ASKED)
    assert lines[0] == "| kinds | asked | ways | shots | mean ± 95% | seed 0 [95%] | seed 1 [95%] |"
    scores = "82.0% ± 12.7% | 81.0% [77.0%, 84.0%] | 83.0% [79.0%, 86.0%] |"
    assert lines[2] == f"| emoji | with its context | 2 | 1 | {scores}"
    assert list(table({0: found(0.81)}))[2].endswith("| 2 | 1 | 81.0% | 81.0% [77.0%, 84.0%] |")
    with pytest.raises(KeyError):
        list(table({0: {}}))


@given(st.integers(0, 1 << 32), st.integers(2, 4), st.integers(1, 3))
def test_true_words_are_those_of_the_kinds(seed: int, ways: int, shots: int) -> None:
    episode = named(KINDS, random.Random(seed), ways=ways, shots=shots)
    assert all(name == picture[0] for picture, name in (*episode.context, (episode.query, episode.name)))
    assert episode.query not in dict(episode.context) and len(dict(episode.context)) == ways * shots


@given(st.integers(0, 1 << 32), st.integers(2, 4), st.integers(1, 3))
def test_single_pictures_are_shown_as_they_are(seed: int, ways: int, shots: int) -> None:
    episode = alike(KINDS, random.Random(seed), ways=ways, shots=shots)
    called = dict(episode.context)
    assert len(called) == ways and Counter(episode.context) == dict.fromkeys(called.items(), shots)
    assert called[episode.query] == episode.name and {*called.values()} == {*episode.choices} <= {*NAMES}


@pytest.mark.parametrize("lessons", [FIRST, SECOND])
def test_lessons_are_of_all_three_sorts_and_of_all_sets(lessons: Lessons) -> None:
    rng = random.Random(0)
    others = {f"x/{kind}": [f"x/{picture}" for picture in pictures] for kind, pictures in KINDS.items()}
    drawn = [lessons.draw([KINDS, others], rng) for _ in range(4000)]
    with_words = sum(episode.name in KINDS for episode in drawn)
    of_others = sum(episode.query.startswith("x/") for episode in drawn)
    repeated = sum(len(dict(episode.context)) < len(episode.context) for episode in drawn)
    more_than_one_shot = sum(shots > 1 for _, shots in lessons.sizes) / len(lessons.sizes)
    assert abs(with_words / 4000 - lessons.named) < 0.03
    assert abs(of_others / 4000 - (1 - lessons.named) / 2) < 0.03
    assert abs(repeated / 4000 - lessons.alike * more_than_one_shot) < 0.03
    assert {(len(one.choices), len(one.context) // len(one.choices)) for one in drawn} == {*lessons.sizes}


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("tuxpaint-stamps-default/animals/birds", "bird"),
        ("openclipart-png/vehicles/locomotive/cartoon", "locomotive"),
        ("tuxpaint-stamps-default/hobbies/music/string", "violin"),
        ("x/fire_engines", "fire engine"),
    ],
)
def test_a_kind_is_called_after_its_folder(kind: str, word: str) -> None:
    assert word_of(kind) == word
