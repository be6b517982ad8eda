"""Prompts, labels and truncation: what the model reads, what it learns, and what is cut first."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from hypothesis import given, settings
from hypothesis import strategies as st

from mimicit.errors import TrainError
from mimicit.prompt import render
from mimicit.records import Sample, Triplet
from otter_train.encoding import IGNORED, Cut, PromptEncoder, drop_context, label_ids
from otter_train.tokenizer import SpecialIds, special_ids
from tests import strategies
from tests.factories.train import TOKENIZER, image, png, sample, triplet

SPECIAL = special_ids(TOKENIZER)
RED = png((255, 0, 0))


def kept(labels: list[int]) -> set[int]:
    return {position for position, label in enumerate(labels) if label != IGNORED}


def test_the_labels_of_the_published_example() -> None:
    special = SpecialIds(bos=1, eos=2, endofchunk=100, image=101, answer=102, pad=0)
    ids = [1, 101, 10, 11, 102, 12, 13, 100, 101, 14, 102, 15, 100, 2, 0]
    span = label_ids(ids, special, "span")
    assert kept(span) == {5, 6, 7, 11, 12, 13}
    assert kept(label_ids(ids, special, "paper")) == {5, 6, 7, 9, 11, 12, 13}
    assert all(span[position] == ids[position] for position in kept(span))


@pytest.mark.parametrize("mode", ["span", "paper"])
def test_all_text_of_a_document_is_learnt_but_not_its_pictures(mode: str) -> None:
    document = sample(
        triplet("", "yes red", media=[0], relation="document"),
        triplet("", "blue", relation="document"),
        media=[image(RED)],
    )
    encoded = PromptEncoder(TOKENIZER, label_mode=mode).encode(document)  # type: ignore[arg-type]
    learnt = [encoded.ids[position] for position in sorted(kept(encoded.labels))]
    assert TOKENIZER.decode(learnt) == "yes red<|endofchunk|>blue<|endofchunk|></s>"


@given(strategies.samples())
def test_a_prompt_is_the_rendered_sample_between_start_and_end(drawn: Sample) -> None:
    encoded = PromptEncoder(TOKENIZER, max_tokens=100_000).encode(drawn)
    assert encoded.ids[0] == SPECIAL.bos and encoded.ids[-1] == SPECIAL.eos
    assert TOKENIZER.decode(encoded.ids[1:-1]) == render(drawn)
    assert encoded.sample == drawn and encoded.cut == Cut()


@given(strategies.samples())
def test_span_labels_hold_every_answer_and_no_question(drawn: Sample) -> None:
    encoded = PromptEncoder(TOKENIZER, max_tokens=100_000).encode(drawn)
    learnt = TOKENIZER.decode([encoded.ids[position] for position in sorted(kept(encoded.labels))])
    assert learnt == "".join(f"{one.answer}<|endofchunk|>" for one in drawn.triplets) + "</s>"


@given(strategies.samples())
def test_a_question_ends_where_its_answer_would_begin(drawn: Sample) -> None:
    asked = PromptEncoder(TOKENIZER, max_tokens=100_000).encode(drawn, with_answer=False)
    assert TOKENIZER.decode(asked.ids[1:]) == render(drawn, with_answer=False)


@settings(deadline=None)
@given(strategies.samples(), st.integers(40, 200))
def test_a_cut_prompt_fits_and_keeps_its_answer_and_its_pictures_in_step(drawn: Sample, max_tokens: int) -> None:
    encoder = PromptEncoder(TOKENIZER, max_tokens=max_tokens)
    answer = TOKENIZER.encode(f"{drawn.query.answer}<|endofchunk|></s>", add_special_tokens=False)
    try:
        encoded = encoder.encode(drawn)
    except TrainError as error:
        assert "--max-tokens" in str(error)  # noqa: PT017 - whether it fits at all depends on the sample
        return
    assert len(encoded.ids) <= max_tokens
    assert encoded.ids.count(SPECIAL.image) == len(encoded.sample.media)
    assert len(encoded.sample.context) + encoded.cut.context_triplets == len(drawn.context)
    if not encoded.cut.answers:
        assert encoded.ids[-len(answer) :] == answer
    if encoded.cut.instructions:
        assert encoded.cut.context_triplets == len(drawn.context)
        assert drawn.query.instruction.endswith(encoded.sample.query.instruction)


@given(strategies.samples(), st.data())
def test_dropping_context_keeps_what_is_left_in_order(drawn: Sample, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(drawn.context)))
    left = drop_context(drawn, count)
    words = [(one.instruction, one.answer) for one in drawn.triplets]
    assert [(one.instruction, one.answer) for one in left.triplets] == words[count:]
    assert [index for one in left.triplets for index in one.media] == list(range(len(left.media)))
    for before, after in zip(drawn.triplets[count:], left.triplets, strict=True):
        if before.media:
            assert [drawn.media[i] for i in before.media] == [left.media[i] for i in after.media]


def conversation() -> Sample:
    """Turn 0 shows one picture, turn 1 another, turns 2 and 3 go on about the second."""
    return sample(
        triplet("first?", media=[0]),
        triplet("second?", media=[1], relation="conversation"),
        triplet("third?", relation="conversation"),
        triplet("fourth?"),
        media=[image(RED, origin="one"), image(RED, origin="two")],
    )


@pytest.mark.parametrize(("dropped", "origins"), [(0, ["one", "two"]), (1, ["two"]), (2, ["two"]), (3, ["two"])])
def test_the_picture_that_a_later_turn_is_about_stays(dropped: int, origins: list[str]) -> None:
    left = drop_context(conversation(), dropped)
    assert [medium.origin for medium in left.media] == origins
    assert left.triplets[0].media == (0,)


def test_the_farthest_context_goes_first_and_only_as_much_as_needed() -> None:
    encoder = PromptEncoder(TOKENIZER)
    whole = conversation()
    lengths = [len(encoder.encode(drop_context(whole, count)).ids) for count in range(4)]
    assert lengths == sorted(lengths, reverse=True)
    for count, length in enumerate(lengths):
        encoded = PromptEncoder(TOKENIZER, max_tokens=length).encode(whole)
        assert encoded.cut == Cut(context_triplets=count)
        assert encoded.sample == drop_context(whole, count)


def test_an_instruction_loses_its_beginning_before_any_answer_is_touched() -> None:
    long = sample(triplet("begin " + "many words " * 30 + "end", "a red answer", media=[0]), media=[image(RED)])
    encoded = PromptEncoder(TOKENIZER, max_tokens=40).encode(long)
    assert len(encoded.ids) <= 40 and encoded.cut == Cut(instructions=1)
    text = TOKENIZER.decode(encoded.ids)
    assert text.startswith("<s><image>User:") and text.endswith("end GPT:<answer>a red answer<|endofchunk|></s>")


def test_only_an_answer_too_long_by_itself_loses_its_end() -> None:
    long = sample(triplet("q", "red blue " * 60, media=[0]), media=[image(RED)])
    encoded = PromptEncoder(TOKENIZER, max_tokens=40).encode(long)
    assert len(encoded.ids) == 40 and encoded.cut == Cut(instructions=1, answers=1)
    assert SPECIAL.eos not in encoded.ids and SPECIAL.endofchunk not in encoded.ids  # it has not ended


def test_pictures_that_cannot_fit_are_an_error_with_the_sample_named() -> None:
    crowded = sample(triplet(media=range(30)), media=[image(RED)] * 30, id="crowded-7")
    with pytest.raises(TrainError, match=r"crowded-7.*--max-tokens"):
        PromptEncoder(TOKENIZER, max_tokens=16).encode(crowded)


@pytest.mark.parametrize("token", ["<image>", "<answer>", "<|endofchunk|>"])
def test_a_special_token_inside_a_text_is_an_error_with_the_sample_named(token: str) -> None:
    forged = sample(triplet(f"look: {token}", media=[0]), media=[image(RED)], id="forged-3")
    with pytest.raises(TrainError, match="forged-3"):
        PromptEncoder(TOKENIZER).encode(forged)


def test_pictures_and_image_tokens_are_counted_against_each_other() -> None:
    without: Triplet = triplet()
    with pytest.raises(TrainError, match="<image>"):
        PromptEncoder(TOKENIZER).encode(replace(sample(without), media=(image(RED),)))
