"""Prompts, labels and truncation: what the model reads, what it learns, and what is cut first."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from mimicit.errors import TrainError
from mimicit.prompt import TEMPLATES, Piece, drop_context, pieces, render, template_named
from mimicit.records import Sample, Triplet
from otter_train.data.encoding import Cut, PromptEncoder, label_ids
from otter_train.data.tokenizer import SpecialIds, special_ids
from otter_train.model.packing import IGNORED
from tests.factories import strategies
from tests.factories.train import TOKENIZER, conversation, image, png, sample, triplet

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
    learned = [encoded.ids[position] for position in sorted(kept(encoded.labels))]
    assert TOKENIZER.decode(learned) == "yes red<|endofchunk|>blue<|endofchunk|></s>"


@given(strategies.samples())
def test_a_prompt_is_the_rendered_sample_between_start_and_end(drawn: Sample) -> None:
    encoded = PromptEncoder(TOKENIZER, max_tokens=100_000).encode(drawn)
    assert encoded.ids[0] == SPECIAL.bos and encoded.ids[-1] == SPECIAL.eos
    assert TOKENIZER.decode(encoded.ids[1:-1]) == render(drawn)
    assert encoded.sample == drawn and encoded.cut == Cut()


@given(strategies.samples())
def test_span_labels_hold_every_answer_and_no_question(drawn: Sample) -> None:
    encoded = PromptEncoder(TOKENIZER, max_tokens=100_000).encode(drawn)
    learned = TOKENIZER.decode([encoded.ids[position] for position in sorted(kept(encoded.labels))])
    assert learned == "".join(f"{one.answer}<|endofchunk|>" for one in drawn.triplets) + "</s>"


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@given(drawn=strategies.samples())
def test_every_template_has_one_image_token_per_medium_and_learns_the_answers(template: str, drawn: Sample) -> None:
    encoded = PromptEncoder(TOKENIZER, max_tokens=100_000, template=template).encode(drawn)
    assert encoded.ids.count(SPECIAL.image) == len(drawn.media) == render(drawn, template).count("<image>")
    assert encoded.ids.count(SPECIAL.endofchunk) == len(drawn.triplets)
    learned = TOKENIZER.decode([encoded.ids[place] for place in sorted(kept(encoded.labels))])
    assert learned == "".join(f"{one.answer}<|endofchunk|>" for one in drawn.triplets) + "</s>"
    unlearnt = TOKENIZER.decode([id for id, label in zip(encoded.ids, encoded.labels, strict=True) if label == IGNORED])
    words = template_named(template)
    assert unlearnt == "<s>" + "".join(
        "<image>" * len(one.media)
        + ("" if one.relation == "document" else f"{words.before}{one.instruction}{words.between}<answer>")
        for one in drawn.triplets
    )


@given(strategies.samples())
def test_the_papers_labels_are_those_of_the_spans_and_the_later_instructions(drawn: Sample) -> None:
    span = PromptEncoder(TOKENIZER, max_tokens=100_000).encode(drawn)
    paper = PromptEncoder(TOKENIZER, max_tokens=100_000, label_mode="paper").encode(drawn)
    first = span.ids.index(SPECIAL.answer) if SPECIAL.answer in span.ids else 0
    assert {place for place in kept(span.labels) if place > first} <= kept(paper.labels)
    unlearnt = {SPECIAL.answer, SPECIAL.image}
    if SPECIAL.answer in span.ids:
        assert kept(paper.labels) == {
            place for place, id in enumerate(span.ids) if place > first and id not in unlearnt
        }


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


@pytest.mark.parametrize("mode", ["span", "paper"])
def test_nothing_is_learnt_from_an_answer_too_long_by_itself(mode: str) -> None:
    long = sample(triplet("q", "red blue " * 60, media=[0]), media=[image(RED)])
    encoded = PromptEncoder(TOKENIZER, max_tokens=40, label_mode=mode).encode(long)  # type: ignore[arg-type]
    assert len(encoded.ids) == 40 and encoded.cut == Cut(instructions=1, answers=1)
    assert kept(encoded.labels) == set()


def test_a_document_too_long_by_itself_loses_its_end() -> None:
    long = sample(triplet("", "red blue " * 60, media=[0], relation="document"), media=[image(RED)])
    encoded = PromptEncoder(TOKENIZER, max_tokens=40).encode(long)
    assert len(encoded.ids) == 40 and encoded.cut == Cut(answers=1)
    assert SPECIAL.eos not in encoded.ids and SPECIAL.endofchunk not in encoded.ids  # it has not ended
    assert kept(encoded.labels) == set(range(2, 40))


def without_bounds(encoder: PromptEncoder) -> PromptEncoder:
    encoder.most_characters = sys.maxsize
    return encoder


@pytest.mark.parametrize(
    ("place", "relation"),
    [
        *(("instruction", None), ("answer", None), ("context", None), ("context answer", None)),
        *(("answer", "document"), ("context answer", "document")),
    ],
)
def test_of_a_text_without_end_the_tokenizer_sees_no_more_than_could_fit(
    place: str, relation: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of 900,000 characters costs what one of some thousand does, and is cut where it would be anyway."""
    texts = dict.fromkeys(("context", "context answer", "instruction", "answer"), "short red")
    if relation:
        texts |= {"instruction": "", "context": ""}
    texts[place] = "a" * 30_000 if place == "answer" else "".join(f"x{number % 97}y" for number in range(8000))
    whole = sample(
        triplet(texts["context"], texts["context answer"], media=[0], relation=relation),
        triplet(texts["instruction"], texts["answer"], media=[1], relation=relation),
        media=[image(RED), image(RED)],
    )
    expected = without_bounds(PromptEncoder(TOKENIZER, max_tokens=60)).encode(whole)
    encoder, lengths = PromptEncoder(TOKENIZER, max_tokens=60), []
    tokens = encoder._prompt_tokenizer.encode

    def noted(pieces: Iterable[Piece]) -> list[int] | None:
        told = list(pieces)
        lengths.append(sum(len(piece.text) for piece in told))
        return tokens(told)

    monkeypatch.setattr(encoder._prompt_tokenizer, "encode", noted)
    found = encoder.encode(whole)
    assert (found.ids, found.labels, found.cut) == (expected.ids, expected.labels, expected.cut) and any(found.cut)
    if place == "answer":
        query = replace(whole.query, answer="a" * 900_000)
        assert encoder.encode(replace(whole, triplets=(*whole.context, query))).ids == expected.ids
    assert max(lengths) < 5000 and len(lengths) < 30
    assert encoder.encode(whole, with_answer=False).ids[-1] == SPECIAL.answer or relation


def test_a_text_that_becomes_few_tokens_is_not_cut_for_its_characters() -> None:
    spaces = Tokenizer.from_str(TOKENIZER.backend_tokenizer.to_str())
    spaces.normalizer = normalizers.Replace(Regex(" +"), " ")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=spaces, eos_token="</s>", pad_token="<PAD>")
    wide = sample(triplet("red" + " " * 5000 + "blue", "yes" + " " * 5000 + "no", media=[0]), media=[image(RED)])
    encoded = PromptEncoder(tokenizer, max_tokens=60).encode(wide)
    assert encoded.cut == Cut() and encoded.sample == wide


def test_pictures_that_cannot_fit_are_an_error_with_the_sample_named() -> None:
    crowded = sample(triplet(media=range(30)), media=[image(RED)] * 30, id="crowded-7")
    with pytest.raises(TrainError, match=r"crowded-7.*--max-tokens"):
        PromptEncoder(TOKENIZER, max_tokens=16).encode(crowded)


@pytest.mark.parametrize("token", ["<image>", "<answer>", "<|endofchunk|>", "<s>", "</s>", "<PAD>", "</s></s>"])
@pytest.mark.parametrize("label_mode", ["span", "paper"])
def test_the_name_of_a_special_token_in_a_text_is_no_special_token(token: str, label_mode: str) -> None:
    forged = sample(triplet(f"look: {token}"), triplet(f"{token} is", f"red{token}red", media=[0]), media=[image(RED)])
    encoder = PromptEncoder(TOKENIZER, label_mode=label_mode)  # type: ignore[arg-type]
    encoded = encoder.encode(forged)
    plain = encoder.encode(sample(triplet("look: "), triplet(" is", "redred", media=[0]), media=[image(RED)]))
    steering = set(SPECIAL.by_name().values())
    assert [id for id in encoded.ids if id in steering] == [id for id in plain.ids if id in steering]
    assert TOKENIZER.decode(encoded.ids[1:-1]) == "".join(piece.text for piece in pieces(forged))
    end = len(encoded.ids) - encoded.ids[::-1].index(SPECIAL.answer)
    assert TOKENIZER.decode(encoded.labels[end:]) == f"red{token}red<|endofchunk|></s>"


def test_pictures_and_image_tokens_are_counted_against_each_other() -> None:
    without: Triplet = triplet()
    with pytest.raises(TrainError, match=r"sample 'lost-1' .* 0 <image> where .* call for 1"):
        PromptEncoder(TOKENIZER).encode(replace(sample(without, id="lost-1"), media=(image(RED),)))
