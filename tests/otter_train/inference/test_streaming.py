"""Answers token by token: the same as of whole forward passes, whatever is answered beside them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch

from otter_train.data.batches import Batch, collate, normalise
from otter_train.data.encoding import PromptEncoder
from otter_train.data.tokenizer import special_ids
from otter_train.inference import AnswerOptions
from otter_train.inference.beam_search import search_beams
from otter_train.inference.streaming import stream_tokens
from otter_train.model import Otter, TokenIds, build_model
from tests.factories.train import COLOURS, MINUTE_MODEL, TOKENIZER, conversation, image, png, sample, triplet

SPECIAL = special_ids(TOKENIZER)
GREEDY = AnswerOptions(max_new_tokens=12)
RED, GREEN, BLUE, WHITE = (image(png(colour)) for colour in COLOURS.values())
SAMPLES = [
    sample(triplet(media=[0]), media=[RED]),
    sample(triplet("no picture at all, but a longer question?")),
    sample(triplet("is it green?", "yes", media=[0, 1]), triplet("and?", media=[2]), media=[GREEN, BLUE, WHITE]),
    conversation(),
]


@pytest.fixture(scope="module")
def model() -> Otter:
    return _model()


def _model() -> Otter:
    torch.manual_seed(0)
    ids = TokenIds(image=SPECIAL.image, endofchunk=SPECIAL.endofchunk, answer=SPECIAL.answer, pad=SPECIAL.pad)
    built = build_model(MINUTE_MODEL, vocab_size=len(TOKENIZER), token_ids=ids).eval()
    with torch.no_grad():  # so that a random model looks, and does not repeat itself
        for block in built.language.blocks:
            block.attn.to_out.weight.mul_(8)
    return built


def prompts(chosen: Sequence[int] = range(4), *, pictures: Sequence[object] = ()) -> Batch:
    samples = [SAMPLES[index] for index in chosen]
    if pictures:
        samples = [replace(one, media=(picture,)) for one, picture in zip(samples, pictures, strict=True)]
    encoder = PromptEncoder(TOKENIZER)
    return collate(
        [encoder.encode(one, with_answer=False) for one in samples], pad=SPECIAL.pad, image_size=16, pad_left=True
    )


def rows(
    model: Otter, batch: Batch, options: AnswerOptions | Sequence[AnswerOptions], stop: Sequence[int] = ()
) -> list[list[int]]:
    each = [options] * len(batch.ids) if isinstance(options, AnswerOptions) else options
    steps = list(stream_tokens(model, batch, each, stop=stop))
    return [[step[row] for step in steps if step[row] is not None] for row in range(len(batch.ids))]  # type: ignore[misc]


def forward(model: Otter, batch: Batch, row: int, more: Sequence[int]) -> torch.Tensor:
    """The logits after row ``row`` and ``more``, by one forward pass over all of it alone, without a cache."""
    real = batch.attention_mask[row]
    media = batch.vision_mask[row].any(-1)
    ids = torch.cat([batch.lang_x[row][real], torch.tensor(list(more), dtype=torch.long)])[None]
    vision_x = normalise(batch.vision_x, model.vision.mean, model.vision.std)[row : row + 1, media]
    with torch.no_grad():
        logits = model(vision_x, ids, vision_mask=batch.vision_mask[row : row + 1, media]).logits[0, -1]
    logits[SPECIAL.image] = -math.inf
    return logits


def test_a_batch_of_unlike_rows_gets_the_greedy_tokens_of_each_alone(model: Otter) -> None:
    batch = prompts()
    answers = rows(model, batch, GREEDY)
    for row, answer in enumerate(answers):
        assert len(answer) == GREEDY.max_new_tokens
        for place, token in enumerate(answer):
            assert int(forward(model, batch, row, answer[:place]).argmax()) == token


def test_a_picture_is_never_an_answer() -> None:
    model = _model()
    head = model.language.lm.get_output_embeddings()
    batch = prompts([0])
    state: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, args: state.append(args[0]))
    rows(model, batch, AnswerOptions(max_new_tokens=1))
    handle.remove()
    with torch.no_grad():  # a head that always wants <image>
        head.weight.zero_()
        head.weight[SPECIAL.image] = state[0].flatten(0, -2)[-1]
    for temperature in (0.0, 1.0):
        (answer,) = rows(model, batch, AnswerOptions(max_new_tokens=12, temperature=temperature))
        assert len(answer) == 12 and SPECIAL.image not in answer


def test_after_200_tokens_the_answer_still_depends_on_the_picture(model: Otter) -> None:
    long = AnswerOptions(max_new_tokens=201)
    batch = prompts([0])
    (answer,) = rows(model, batch, long)
    assert len(answer) == 201
    at_the_end = forward(model, batch, 0, answer[:200])
    assert int(at_the_end.argmax()) == answer[200]  # cached, it sees what a full forward pass sees
    other = forward(model, prompts([0], pictures=[BLUE]), 0, answer[:200])
    assert (at_the_end - other)[at_the_end.isfinite()].abs().max() > 1e-2
    # And it is looking itself, not only reading what earlier tokens saw: with the last token blinded, it changes.
    block = model.language.blocks[-1]
    handle = block.register_forward_pre_hook(
        lambda module, args: (args[0], args[1], args[2]._replace(seeing=_but_the_last(args[2].seeing)))
    )
    blinded = forward(model, batch, 0, answer[:200])
    handle.remove()
    assert (at_the_end - blinded)[at_the_end.isfinite()].abs().max() > 1e-2
    tails = {tuple(rows(model, prompts([0], pictures=[one]), long)[0][-50:]) for one in (RED, GREEN, BLUE, WHITE)}
    assert len(tails) > 1


def _but_the_last(seeing: torch.Tensor) -> torch.Tensor:
    blinded = seeing.clone()
    blinded[:, -1] = False
    return blinded


def test_penalties_are_those_of_openai_and_of_transformers(model: Otter) -> None:
    batch = prompts()
    plain = rows(model, batch, GREEDY)
    for given in ({"presence_penalty": 1.5}, {"frequency_penalty": -0.4}, {"repetition_penalty": 1.6}):
        one = AnswerOptions(max_new_tokens=8, **given)
        mixed = rows(model, batch, [one, GREEDY, one, GREEDY], [SPECIAL.eos])
        assert mixed[1] == plain[1] and mixed[3] == plain[3]
        for row in (0, 2):
            prompt = batch.lang_x[row][batch.attention_mask[row]].tolist()
            for place, token in enumerate(mixed[row]):
                logits = forward(model, batch, row, mixed[row][:place])
                counts = Counter(mixed[row][:place])
                spared = {SPECIAL.eos, SPECIAL.endofchunk, SPECIAL.answer, SPECIAL.image, SPECIAL.pad}
                for id in {*prompt, *counts} - spared:
                    scale = one.repetition_penalty if logits[id] < 0 else 1 / one.repetition_penalty
                    logits[id] = logits[id] * scale - one.frequency_penalty * counts[id]
                    logits[id] -= one.presence_penalty * (counts[id] > 0)
                assert int(logits.argmax()) == token
    loud = AnswerOptions(max_new_tokens=12, frequency_penalty=2.0, presence_penalty=2.0, repetition_penalty=3.0)
    repeats = [len(answer) - len(set(answer)) for answer in rows(model, batch, loud)]
    assert sum(repeats) < sum(len(answer) - len(set(answer)) for answer in plain)


def test_what_a_row_draws_does_not_depend_on_its_neighbours(model: Otter) -> None:
    drawing = [AnswerOptions(max_new_tokens=10, temperature=1.5, top_p=0.9, seed=seed) for seed in range(4)]
    together = rows(model, prompts(), drawing)
    assert together == [rows(model, prompts([row]), [drawing[row]])[0] for row in range(4)]
    mixed = rows(model, prompts(), [GREEDY, drawing[1], GREEDY, drawing[3]])
    assert mixed[1] == together[1] and mixed[3] == together[3]
    assert mixed[0] == rows(model, prompts([0]), GREEDY)[0]
    same = rows(model, prompts([0, 0]), [drawing[0], replace(drawing[0], seed=99)])
    assert same[0] == together[0] != same[1]


def test_draws_follow_the_probabilities_of_the_nucleus(model: Otter) -> None:
    batch = prompts([0])
    probabilities = (forward(model, batch, 0, []) / 2.0).softmax(-1)
    ordered, ids = probabilities.sort(descending=True)
    nucleus = ids[: int((ordered.cumsum(0) < 0.5).sum()) + 1].tolist()
    first = [
        rows(
            model,
            prompts([0] * 40),
            [AnswerOptions(max_new_tokens=1, temperature=2.0, top_p=0.5, seed=40 * n + k) for k in range(40)],
        )
        for n in range(10)
    ]
    drawn = Counter(row[0] for batch_rows in first for row in batch_rows)
    assert set(drawn) <= set(nucleus) and len(drawn) > 1
    share = float(probabilities[nucleus[0]] / probabilities[nucleus].sum())
    assert abs(drawn[nucleus[0]] / 400 - share) < 5 * math.sqrt(share * (1 - share) / 400)


def test_a_narrow_nucleus_is_greedy(model: Otter) -> None:
    narrow = AnswerOptions(max_new_tokens=12, temperature=5.0, top_p=1e-9)
    assert rows(model, prompts(), narrow) == rows(model, prompts(), GREEDY)


def test_rows_end_by_a_stop_token_their_length_or_the_caller(model: Otter) -> None:
    whole = rows(model, prompts(), GREEDY)
    stop = whole[0][3]
    lengths = [replace(GREEDY, max_new_tokens=count) for count in (12, 5, 12, 1)]
    ended = rows(model, prompts(), lengths, stop=[stop])
    for before, after, one in zip(whole, ended, lengths, strict=True):
        end = before.index(stop) + 1 if stop in before else len(before)
        assert after == before[: min(end, one.max_new_tokens)]
    closed: set[int] = set()
    seen: list[list[int | None]] = []
    for step in stream_tokens(model, prompts(), [GREEDY] * 4, stop=[], is_closed=closed.__contains__):
        seen.append(step)
        closed.add(len(seen) - 1)
    assert [sum(token is not None for token in column) for column in zip(*seen, strict=True)] == [1, 2, 3, 4]


def test_no_mode_of_torch_is_left_on_between_two_steps(model: Otter) -> None:
    steps = stream_tokens(model, prompts(), [GREEDY] * 4, stop=[])
    next(steps)
    assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    steps.close()


def likeliest(model: Otter, batch: Batch, row: int, count: int) -> tuple[list[int], float]:
    """The answer of ``count`` tokens with the highest log-probability, by looking at the best few of every prefix."""
    kept: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(count):
        longer = []
        for score, tokens in kept:
            logs = forward(model, batch, row, tokens).log_softmax(-1)
            longer += [(score + float(value), [*tokens, int(id)]) for value, id in zip(*logs.topk(4), strict=True)]
        kept = sorted(longer, reverse=True)[:4]
    return kept[0][1], kept[0][0]


def test_beams_find_what_a_search_by_whole_forward_passes_finds(model: Otter) -> None:
    batch = prompts()
    found = search_beams(model, MINUTE_MODEL, batch, beams=4, max_new_tokens=5, stop=[SPECIAL.eos])
    greedy = rows(model, batch, AnswerOptions(max_new_tokens=5))
    for row, answer in enumerate(found):
        expected, score = likeliest(model, batch, row, 5)
        assert answer == expected
        greedy_score = sum(
            float(forward(model, batch, row, greedy[row][:place]).log_softmax(-1)[token])
            for place, token in enumerate(greedy[row])
        )
        assert score >= greedy_score - 1e-4
    assert found != greedy
