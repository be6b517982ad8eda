"""Samples to conversations, and to the inputs of vision-language models: labels on the answers and nothing else."""

from __future__ import annotations

import functools
import pickle
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="comes with the extra 'train'")

import torch

import mimicit
from mimicit.errors import CorruptShardError, UsageError
from mimicit.loading.chat import ChatCollator, messages
from mimicit.loading.torch import Loader
from mimicit.media import MediaOptions
from mimicit.pipeline import BuildConfig, build_shards
from mimicit.prompt import drop_context
from mimicit.records import Sample, Triplet
from tests.factories import raw as make
from tests.factories.engines import InProcess
from tests.factories.loading import small_shards
from tests.factories.tokenizers import KINDS, write_tokenizer
from tests.factories.vision_language import FAMILIES, family

ENDS = {
    "qwen2_5_vl": "<|im_end|>",
    "qwen3_vl": "<|im_end|>",
    "idefics3": "<end_of_utterance>",
    "llava": "",  # only after the last answer, where the collator adds it
    "llava_next": "</s>",
    "llava_onevision": "<|im_end|>",
    "internvl": "<|im_end|>",
    "gemma3": "<end_of_turn>",
    "mllama": "<|eot_id|>",
}
TAKE_CLIPS = ("qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl")
SHOWN = ("image", "img", "IMG", "video", "vision", "row_", "global")  # in the names of tokens for pictures


@functools.cache
def made(name: str) -> tuple[Any, Any]:
    return family(name)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Sample]:
    return mimicit.load(small_shards(tmp_path_factory.mktemp("chat"), 8))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Sample]:
    """Samples about clips of four frames, with clips and pictures as context."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "raw" / "own").mkdir(parents=True)
    rows = [
        {"id": f"{n}", "media": f"{n}.mp4", "instruction": f"What is in {n}?", "answer": f"Clip {n}"} for n in "abc"
    ]
    for place, row in enumerate(rows):
        make.clip(folder / "raw" / "own" / row["media"], frames=12 + 4 * place)
    (folder / "raw" / "own" / "d.jpg").write_bytes(make.picture(1))
    rows.append({"id": "d", "media": "d.jpg", "instruction": "What is it?", "answer": "A picture"})
    make.write_manifest(folder / "raw" / "own", rows)
    build_shards(folder / "raw", folder / "shards", BuildConfig(media=MediaOptions(frames=4)), engine=InProcess())
    return mimicit.load(folder / "shards")


def labelled(processor: Any, ids: Any, labels: Any) -> list[str]:
    """What each run of labels that follow one another decodes to."""
    runs: list[list[int]] = []
    for place, (token, label) in enumerate(zip(ids.tolist(), labels.tolist(), strict=True)):
        if label == -100:
            continue
        assert label == token
        if not place or labels[place - 1] == -100:
            runs.append([])
        runs[-1].append(label)
    return [processor.tokenizer.decode(run).lstrip() for run in runs]


def text_only(*turns: tuple[str, str], id: str = "said") -> Sample:
    """A sample without media."""
    triplets = [
        Triplet(id=f"{place}", role="context", media=(), instruction=asked, answer=answer, relation="conversation")
        for place, (asked, answer) in enumerate(turns)
    ]
    triplets[-1] = replace(triplets[-1], role="query", relation=None)
    return Sample(id=id, source="own", media=(), triplets=tuple(triplets))


def answers(sample: Sample) -> list[str]:
    return [triplet.answer.strip() for triplet in sample.triplets]


def test_triplets_are_turns_or_context_within_one(samples: Sequence[Sample]) -> None:
    sample = samples[0]
    first, second, query = sample.triplets
    turns = messages(sample, system="Be brief.")
    assert [message["role"] for message in turns] == ["system", *["user", "assistant"] * 3]
    assert turns[0]["content"] == [{"type": "text", "text": "Be brief."}]
    assert [part["type"] for part in turns[1]["content"]] == ["image", "text"]
    assert turns[1]["content"][0]["image"].size == (48, 32)
    assert [message["content"][-1]["text"] for message in turns[1:]] == [
        words for triplet in sample.triplets for words in (triplet.instruction, triplet.answer)
    ]
    asked, answer = messages(sample, context="one-turn")
    assert [part["type"] for part in asked["content"]] == ["image", "text", "image", "text"]
    assert asked["content"][1]["text"] == f"{first.instruction}\n{first.answer}\n\n"
    assert asked["content"][3]["text"] == f"{second.instruction}\n{second.answer}\n\n{query.instruction}"
    assert answer == {"role": "assistant", "content": [{"type": "text", "text": query.answer}]}
    assert messages(sample, with_answer=False) == turns[1:-1]


def test_a_clip_is_its_frames_or_one_video(clips: Sequence[Sample]) -> None:
    sample = next(sample for sample in clips if sample.media[0].kind == "video")
    shown = [part for message in messages(sample) for part in message["content"] if part["type"] != "text"]
    assert len(shown) == sum(len(media.files) for media in sample.media)
    videos = [part for message in messages(sample, clips="video") for part in message["content"]]
    assert [part["type"] for part in videos if part["type"] != "text"] == [
        "video" if media.kind == "video" else "image" for media in sample.media
    ]
    assert all(len(part["video"]) == 4 for part in videos if part["type"] == "video")


@pytest.mark.parametrize("name", FAMILIES)
def test_labels_are_the_answers_and_the_rest_is_what_the_processor_makes(name: str, samples: Sequence[Sample]) -> None:
    _, processor = made(name)
    some = [*samples[:3], text_only(("Is it?", "It is."), id="words")]
    batch = ChatCollator(processor)([some[-1], *some[:-1]])  # what shows nothing comes last
    for row, sample in enumerate(some):
        *before, last = (f"{answer}{ENDS[name]}" for answer in answers(sample))
        said = labelled(processor, batch["input_ids"][row], batch["labels"][row])
        assert said == [*before, last if ENDS[name] else f"{last} </s>"]
    shown = {id for token, id in processor.tokenizer.get_added_vocab().items() if any(name in token for name in SHOWN)}
    assert shown and not shown & set(batch["labels"].unique().tolist())
    alone = processor.apply_chat_template(
        messages(some[0]), tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True}
    )
    ids = batch["input_ids"][0][batch["attention_mask"][0] == 1]
    assert ids[: alone["input_ids"].shape[1]].tolist() == alone["input_ids"][0].tolist()
    assert processor.tokenizer.decode(ids[alone["input_ids"].shape[1] :]) == ("" if ENDS[name] else "</s>")
    of_pictures = set(alone) - {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}
    assert of_pictures and of_pictures <= set(batch)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_falls_and_does_not_depend_on_the_side_of_padding(name: str, samples: Sequence[Sample]) -> None:
    model, processor = family(name)
    left, right = (ChatCollator(processor, padding_side=side)(samples[:8]) for side in ("left", "right"))
    assert (left["attention_mask"][:, 0] == 0).any() and not (right["attention_mask"][:, 0] == 0).any()
    with torch.no_grad():
        losses = [model(**batch).loss.item() for batch in (left, right)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in Loader(samples, batch_size=8, steps=10, collate=ChatCollator(processor)):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6 * losses[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_clips_are_videos_where_the_processor_takes_them(name: str, clips: Sequence[Sample]) -> None:
    model, processor = made(name)
    collator = ChatCollator(processor)
    assert collator.clips == ("video" if name in TAKE_CLIPS else "pictures")
    batch = collator(clips)
    for row, sample in enumerate(clips):
        said = labelled(processor, batch["input_ids"][row], batch["labels"][row])
        assert [run.removesuffix(" </s>").removesuffix(ENDS[name]) for run in said] == answers(sample)
    with torch.no_grad():
        assert model(**batch).loss.isfinite()


def test_frames_keep_their_times(clips: Sequence[Sample]) -> None:
    _, processor = made("qwen3_vl")  # writes them into the prompt, the mean of each two
    sample = next(sample for sample in clips if sample.query.media and sample.media[-1].kind == "video")
    text = processor.tokenizer.decode(
        ChatCollator(processor)([drop_context(sample, len(sample.context))])["input_ids"][0]
    )
    times = sample.media[-1].timestamps_s
    assert times is not None
    for one, other in zip(times[::2], times[1::2], strict=True):
        assert f"<{(round(one, 3) + round(other, 3)) / 2:.1f} seconds>" in text


def test_clips_of_unequal_length_work_or_say_what_to_do(clips: Sequence[Sample]) -> None:
    sample = next(sample for sample in clips if sample.media[-1].kind == "video")
    sample = drop_context(sample, len(sample.context))
    clip = sample.media[0]
    assert clip.timestamps_s is not None
    short = replace(clip, files=clip.files[:2], data=clip.data[:2], timestamps_s=clip.timestamps_s[:2])
    both = [sample, replace(sample, media=(short,))]
    assert len(ChatCollator(made("qwen2_5_vl")[1])(both)["video_grid_thw"]) == 2
    _, processor = made("internvl")
    with pytest.raises(UsageError, match='clips of equally many frames in one batch: give clips="pictures"'):
        ChatCollator(processor)(both)
    assert len(ChatCollator(processor, clips="pictures")(both)["labels"]) == 2


def test_only_the_query_is_learnt_where_asked_for(samples: Sequence[Sample]) -> None:
    _, processor = made("qwen2_5_vl")
    for options in ({"answers": "query"}, {"context": "one-turn"}):
        batch = ChatCollator(processor, **options)(samples[:2])
        for row, sample in enumerate(samples[:2]):
            said = labelled(processor, batch["input_ids"][row], batch["labels"][row])
            assert said == [f"{answers(sample)[-1]}<|im_end|>"]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "idefics3", "llava", "gemma3", "mllama"])
def test_too_long_a_prompt_loses_the_farthest_context_and_keeps_pictures_whole(
    name: str, samples: Sequence[Sample]
) -> None:
    model, processor = made(name)
    whole = ChatCollator(processor)
    for context in ("turns", "one-turn"):
        collator = ChatCollator(processor, context=context)
        lengths = [[collator.length(drop_context(sample, count)) for count in range(3)] for sample in samples[:2]]
        for most in sorted({lengths[0][0], lengths[0][0] - 1, lengths[0][1], lengths[1][1] - 1, max(lengths[0][2:])}):
            fitting = [next((count for count, length in enumerate(found) if length <= most), None) for found in lengths]
            short = ChatCollator(processor, context=context, max_length=most, too_long="drop")
            batch = short(samples[:2])
            kept = [drop_context(samples[row], count) for row, count in enumerate(fitting) if count is not None]
            expected = collator(kept)
            assert batch.keys() == expected.keys()
            assert all(torch.equal(batch[key], expected[key]) for key in batch if key != "batch_num_images")
    with torch.no_grad():
        assert model(**batch).loss.isfinite()
    query = max(whole.length(drop_context(sample, 2)) for sample in samples[:2])
    with pytest.raises(UsageError, match=rf"sample own-\d.*query alone is {query} tokens long, more than max_length="):
        ChatCollator(processor, max_length=query - 1)(samples[:2])
    fitting = [sample for sample in samples[:2] if ChatCollator(processor, max_length=query - 1).fits(sample)]
    assert fitting == [sample for sample in samples[:2] if whole.length(drop_context(sample, 2)) < query]
    with pytest.raises(UsageError, match="no sample of the batch is left"):
        ChatCollator(processor, max_length=8, too_long="drop")(samples[:2])


def test_a_later_turn_keeps_the_picture_it_is_about(tmp_path: Path) -> None:
    make.add_llava(tmp_path / "raw", talks=1)
    build_shards(tmp_path / "raw", tmp_path / "shards", BuildConfig(), engine=InProcess())
    (talk,) = (sample for sample in mimicit.load(tmp_path / "shards") if sample.query.answer == "Answer 0.2.")
    assert answers(talk) == ["Answer 0.0.", "Answer 0.1.", "Answer 0.2."] and not talk.query.media
    _, processor = made("qwen2_5_vl")
    most = ChatCollator(processor).length(talk) - 1
    batch = ChatCollator(processor, max_length=most)([talk])
    assert len(batch["image_grid_thw"]) == 1
    assert labelled(processor, batch["input_ids"][0], batch["labels"][0]) == [
        "Answer 0.1.<|im_end|>",
        "Answer 0.2.<|im_end|>",
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_control_tokens_are_words(name: str, samples: Sequence[Sample]) -> None:
    _, processor = made(name)
    names = sorted(processor.tokenizer.get_added_vocab())
    sample = drop_context(samples[0], 2)
    sample = replace(sample, triplets=(replace(sample.query, instruction=" ".join(names), answer="".join(names)),))
    batch = ChatCollator(processor)([sample, samples[1]])
    plain = ChatCollator(processor)([drop_context(samples[0], 2), samples[1]])
    spaced = "".join(f"{token[0]} {token[1:]}" for token in names)
    (said,) = labelled(processor, batch["input_ids"][0], batch["labels"][0])
    assert said.removesuffix(" </s>").removesuffix(ENDS[name]) == spaced
    assert torch.equal(batch["pixel_values"], plain["pixel_values"])


def test_added_tokens_that_control_nothing_stay_tokens() -> None:
    _, processor = family("internvl")
    processor.tokenizer.add_tokens(["<think>", "</think>"])
    batch = ChatCollator(processor)([text_only(("Why?", "<think>So.</think> Because <|im_end|>."))])
    (said,) = labelled(processor, batch["input_ids"][0], batch["labels"][0])
    assert said == "<think>So.</think> Because < |im_end|>.<|im_end|>"
    assert processor.tokenizer.convert_tokens_to_ids("<think>") in batch["labels"][0]


WORDS = st.text(max_size=20) | st.sampled_from(
    ["<|im_end|>", "<|image_pad|>", "\ufdd0", "  x  ", "e\u0301", "🙂", "\n\n"]
)


@given(st.lists(st.tuples(WORDS, WORDS.filter(str.strip)), min_size=1, max_size=3))
def test_any_words_are_learnt_as_they_are(turns: list[tuple[str, str]]) -> None:
    _, processor = made("internvl")
    batch = ChatCollator(processor)([text_only(*turns)])
    said = labelled(processor, batch["input_ids"][0], batch["labels"][0])
    clean = [re.sub(r"<(\|im_(start|end)\||/?img|IMG_CONTEXT|video)>", r"< \1>", answer) for _, answer in turns]
    ends = [answer.strip() + answer[len(answer.rstrip()) :] + "<|im_end|>" for answer in clean]
    assert said == ends


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sentencepiece"])
def test_tokenizers_of_all_kinds(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlavaProcessor

    like = made("llava")[1]
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path, kind))
    tokenizer.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<image>"]})
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content[0].text }}<|im_end|>\n{% endfor %}"
    processor = LlavaProcessor(like.image_processor, tokenizer, patch_size=8, chat_template=template)
    sample = text_only(("which colour", "red, green  or 🙂 blue."), ("Use", "Text"), ("User: it", "GPT:"))
    batch = ChatCollator(processor)([sample])
    for said, answer in zip(
        labelled(processor, batch["input_ids"][0], batch["labels"][0]), answers(sample), strict=True
    ):
        again = tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"])
        assert said.removesuffix("<|im_end|>").split() == again.split() or kind in ("llama", "metaspace")
        assert "".join(said.removesuffix("<|im_end|>").split()) == "".join(again.split())


def with_template(template: str, **options: Any) -> ChatCollator:
    return ChatCollator(made("llava")[1], chat_template=template, **options)


TURN = "{% for m in messages %}[{{ m.role }}]{{ m.content[0].text }}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (TURN + "</s>{% endfor %}", ["Red.</s>", "Blue sky.</s>"]),
        (TURN + "\n\n</s>\n{% endfor %}", ["Red.\n\n</s>", "Blue sky.\n\n</s>"]),
        (TURN + "{% endfor %}", ["Red.", "Blue sky.</s>"]),
        (TURN + "{% if loop.last %}</s>{% endif %}{% endfor %}", ["Red.", "Blue sky.</s>"]),
        ("{{ strftime_now('%S.%f')[:3] }}" + TURN + "</s>{% endfor %}", ["Red.</s>", "Blue sky.</s>"]),
        (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content[0].text }}? {% else %}"
            "{{ m.content[0].text | trim }}</s>{% endif %}{% endfor %}",
            ["Red.</s>", "Blue sky.</s>"],
        ),
        ("{% for m in messages %}{{ m.role + ': ' + m.content }}</s>{% endfor %}", ["Red.</s>", "Blue sky.</s>"]),
    ],
    ids=["end", "after-empty-lines", "no-end", "last-alone", "time", "strips", "strings"],
)
def test_templates_of_all_kinds(template: str, said: list[str]) -> None:
    collator = with_template(template)
    batch = collator([text_only(("Which?", "Red."), ("What?", "Blue sky."))])
    assert labelled(collator.processor, batch["input_ids"][0], batch["labels"][0]) == said


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (TURN + "{{ 'long' if m.content[0].text | length > 9 }}{% endfor %}", "changes an answer by what is in it"),
        (TURN.replace(".text", ".text | upper") + "{% endfor %}", "leaves out or changes an answer"),
        ("{% for m in messages if m.role == 'user' %}{{ m.role }}{% endfor %}", "leaves out or changes an answer"),
        (TURN + "{{ raise_exception('no such role') }}{% endfor %}", "the chat template refuses it: no such role"),
    ],
)
def test_templates_that_change_answers_are_refused(template: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"sample said-.*{message}"):
        with_template(template)([text_only(("Which?", "Blue sky"))])


def test_labels_that_do_not_decode_to_the_answer_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _, processor = made("qwen2_5_vl")
    collator = ChatCollator(processor)
    shifted = functools.partial(_shifted, processor.tokenizer)
    monkeypatch.setattr(type(processor.tokenizer), "__call__", lambda self, *args, **options: shifted(*args, **options))
    with pytest.raises(UsageError, match=r"sample said-.* labels decode to 'ed.*', the answer is 'Red\."):
        collator([text_only(("Which?", "Red."))])


def _shifted(tokenizer: Any, text: Any, **options: Any) -> Any:
    """What a tokenizer would give whose offsets are one character behind."""
    encoding = tokenizer._encode_plus(text, **options)
    if options.get("return_offsets_mapping"):
        encoding["offset_mapping"] = [
            [(max(a - 1, 0), max(b - 1, 0)) for a, b in row] for row in encoding["offset_mapping"].tolist()
        ]
    return encoding


def test_values_of_a_loader_and_rows_of_a_dataset_are_taken(samples: Sequence[Sample]) -> None:
    _, processor = made("qwen2_5_vl")
    collator = ChatCollator(processor)
    expected = collator(samples[:2])
    assert torch.equal(pickle.loads(pickle.dumps(collator))(samples[:2])["labels"], expected["labels"])
    assert torch.equal(collator([{"sample": sample} for sample in samples[:2]])["labels"], expected["labels"])
    assert torch.equal(collator([samples[0], None, samples[1]])["labels"], expected["labels"])
    (batch,) = Loader(samples, batch_size=2, steps=1, collate=collator, num_workers=1)
    assert torch.equal(batch["labels"], expected["labels"])
    with pytest.raises(UsageError, match="no sample of the batch is left"):
        collator([None])


def test_what_cannot_work_is_said(samples: Sequence[Sample]) -> None:
    _, processor = made("gemma3")
    with pytest.raises(UsageError, match="answers='last': choose one of 'all', 'query'"):
        ChatCollator(processor, answers="last")
    with pytest.raises(UsageError, match="has no tokenizer; give the model's processor"):
        ChatCollator(processor.tokenizer)
    with pytest.raises(UsageError, match="PaliGemmaProcessor: its model sees the whole prompt, answers too"):
        ChatCollator(type("PaliGemmaProcessor", (type(processor),), {})(processor.image_processor, processor.tokenizer))
    bare = type(processor)(processor.image_processor, processor.tokenizer)
    with pytest.raises(UsageError, match="Gemma3Processor has no chat template; give one as chat_template="):
        ChatCollator(bare)
    assert ChatCollator(bare, chat_template=processor.chat_template).length(samples[0]) > 0
    unread = replace(samples[0], media=tuple(replace(media, data=()) for media in samples[0].media))
    with pytest.raises(CorruptShardError, match=r"sample own-0-.*have not been read"):
        ChatCollator(processor)([unread])
    lost = "{% for m in messages %}{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}{% endfor %}"
    with pytest.raises(UsageError, match="Gemma3Processor refuses the samples own-0-"):
        ChatCollator(processor, chat_template=lost)([samples[0]])
