"""Otter as a model of transformers: saved and loaded, generating, and made from pictures and turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from mimicit.errors import TrainError, UsageError
from otter_train.data.tokenizer import load_tokenizer
from otter_train.model import ModelConfig, Otter
from otter_train.pretrained import OtterConfig, OtterForConditionalGeneration, OtterProcessor
from tests.factories.otter import (
    CONFIG,
    IDS,
    LANGUAGES,
    VISIONS,
    VOCABULARY,
    Inputs,
    greedy,
    inputs,
    otter,
    with_language,
    with_vision,
)
from tests.factories.tokenizers import write_tokenizer
from tests.factories.train import TOKENIZER

MIXED = [[1, 1, 1, 1, 1], [], [3], [1, 1]]
NEW = 10


def wrapped(model: Otter, config: ModelConfig = CONFIG) -> OtterForConditionalGeneration:
    made = OtterConfig.from_model_config(config, vocab_size=VOCABULARY, token_ids=IDS)
    return OtterForConditionalGeneration.around(model, made).eval()


@pytest.fixture(scope="module")
def model() -> OtterForConditionalGeneration:
    return wrapped(otter(seed=3))


def arguments(batch: Inputs) -> dict[str, Any]:
    return {
        "input_ids": batch.lang_x,
        "vision_x": batch.vision_x,
        "attention_mask": batch.attention_mask,
        "vision_mask": batch.vision_mask,
    }


def answers(model: OtterForConditionalGeneration, batch: Inputs, **options: Any) -> list[list[int]]:
    settings = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": IDS.pad, **options}
    return model.generate(**arguments(batch), **settings)[:, batch.lang_x.shape[1] :].tolist()


@pytest.mark.parametrize(
    "config", [*map(with_language, LANGUAGES), *map(with_vision, VISIONS)], ids=[*LANGUAGES, *VISIONS]
)
def test_every_backbone_is_saved_and_loaded_with_equal_logits(config: ModelConfig, tmp_path: Path) -> None:
    if config.vision.layout == "open_clip":
        pytest.importorskip("open_clip", reason="the open_clip tower needs open_clip")
    model, batch = otter(config, seed=3), inputs([[1, 1], [], [2]])
    with torch.no_grad():
        expected = model(batch.vision_x, batch.lang_x, batch.attention_mask, vision_mask=batch.vision_mask).logits
    wrapped(model, config).save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is OtterForConditionalGeneration and not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(**arguments(batch)).logits, expected)
    lm = loaded.model.language.lm
    assert (lm.get_input_embeddings().weight is lm.get_output_embeddings().weight) == lm.config.tie_word_embeddings


def test_files_with_our_own_names_load_and_wrong_ones_raise(
    model: OtterForConditionalGeneration, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    stored = {key.removeprefix("model."): tensor for key, tensor in load_file(path).items()}
    assert stored.keys() == model.model.state_dict().keys()
    save_file(stored, path, metadata={"format": "pt"})
    loaded = OtterForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, loaded.model.state_dict()[name]) for name, tensor in stored.items())
    save_file({**stored, "optimizer.step": torch.zeros(1)}, path, metadata={"format": "pt"})
    with pytest.raises(TrainError, match=r"optimizer\.step is unexpected"):
        OtterForConditionalGeneration.from_pretrained(tmp_path)
    del stored["perceiver.latents"]
    save_file(stored, path, metadata={"format": "pt"})
    with pytest.raises(TrainError, match=r"model\.perceiver\.latents is missing"):
        OtterForConditionalGeneration.from_pretrained(tmp_path)


def test_a_configuration_is_that_of_the_model(tmp_path: Path) -> None:
    config = OtterConfig.from_model_config(CONFIG, vocab_size=VOCABULARY, token_ids=IDS)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is OtterConfig
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert loaded.token_ids == IDS
    again = loaded.to_model_config()
    assert (again.vision, again.perceiver) == (CONFIG.vision, CONFIG.perceiver)
    assert again.language.architecture["hidden_size"] == 32 and again.cross_attention_every == 2


def test_the_configuration_of_the_published_otter_says_what_to_do() -> None:
    with pytest.raises(TrainError, match=r"lacks text_config, .*python -m otter_train\.convert"):
        OtterForConditionalGeneration(OtterConfig(cross_attn_every_n_layers=4))


def test_the_class_shares_the_parameters_of_the_model_inside() -> None:
    inner = otter()
    outer = wrapped(inner)
    assert [id(p) for p in outer.parameters()] == [id(p) for p in inner.parameters()]
    batch = inputs([[1], [1, 1]])
    loss = outer(**arguments(batch), labels=batch.labels).loss
    expected = inner(batch.vision_x, batch.lang_x, batch.attention_mask, batch.labels, vision_mask=batch.vision_mask)
    assert torch.equal(loss, expected.loss)


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_is_ours(model: OtterForConditionalGeneration, use_cache: bool) -> None:
    batch = inputs(MIXED, seed=1).to_left()
    expected = greedy(model.model, batch, NEW)
    assert answers(model, batch, use_cache=use_cache) == expected


def by_hand(model: OtterForConditionalGeneration, row: Inputs, beams: int, length: int) -> list[int]:
    """Beam search with nothing but whole forward passes."""
    kept: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(length):
        grown = []
        for score, answer in kept:
            ids = torch.cat([row.lang_x, torch.tensor([answer], dtype=torch.long)], dim=1)
            with torch.no_grad():
                logits = model.model(row.vision_x, ids, vision_mask=row.vision_mask).logits[0, -1]
            chances = logits.log_softmax(-1).tolist()
            grown += [(score + chances[token], [*answer, token]) for token in range(VOCABULARY) if token != IDS.image]
        kept = sorted(grown, reverse=True)[:beams]
    return kept[0][1]


def test_beams_are_those_of_whole_forward_passes(model: OtterForConditionalGeneration) -> None:
    batch = inputs(MIXED, seed=1)
    found = answers(model, batch.to_left(), num_beams=4, max_new_tokens=4)
    assert found == [by_hand(model, batch.row(index), 4, 4) for index in range(len(MIXED))]
    assert found != answers(model, batch.to_left(), max_new_tokens=4)


def test_beams_use_the_cache_and_pictures_matter(model: OtterForConditionalGeneration) -> None:
    batch = inputs(MIXED, seed=1).to_left()
    with_cache = answers(model, batch, num_beams=4)
    assert with_cache == answers(model, batch, num_beams=4, use_cache=False)
    other = answers(model, batch._replace(vision_x=-batch.vision_x), num_beams=4)
    assert with_cache[1] == other[1] and with_cache != other


def test_sampling_follows_the_seed(model: OtterForConditionalGeneration) -> None:
    batch = inputs(MIXED).to_left()

    def sample(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return answers(model, batch, do_sample=True, top_p=0.9)

    assert sample(1) == sample(1) != sample(2)


@pytest.mark.parametrize("options", [{}, {"num_beams": 4}, {"do_sample": True, "num_return_sequences": 3}])
def test_media_are_encoded_and_projected_once(model: OtterForConditionalGeneration, options: dict[str, Any]) -> None:
    calls: list[str] = []
    watched = {"vision": model.model.vision, "perceiver": model.model.perceiver} | {
        f"kv {number}": block.attn.to_kv for number, block in enumerate(model.model.language.blocks)
    }
    handles = [
        module.register_forward_hook(lambda module, args, out, name=name: calls.append(name))
        for name, module in watched.items()
    ]
    answers(model, inputs([[1], [1]]), **options)
    for handle in handles:
        handle.remove()
    assert sorted(calls) == sorted(watched)


def test_image_is_never_generated(model: OtterForConditionalGeneration) -> None:
    wanting = wrapped(otter(seed=3))
    head = wanting.get_output_embeddings()
    states: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, args: states.append(args[0][0, -1]))
    answers(wanting, inputs([[1]]), max_new_tokens=1)
    handle.remove()
    with torch.no_grad():
        head.weight.zero_()
        head.weight[IDS.image] = states[0]
    for options in ({}, {"num_beams": 2}, {"do_sample": True}):
        assert IDS.image not in answers(wanting, inputs([[1]]), **options)[0]


def test_prompts_that_cannot_be_answered_raise(model: OtterForConditionalGeneration) -> None:
    with pytest.raises(TrainError, match="pad prompts on the left"):
        answers(model, inputs([[1], [1, 1]]))
    with pytest.raises(TrainError, match="1 <image> tokens and 0 media"):
        model.generate(inputs([[1]]).lang_x, max_new_tokens=1)


def test_text_alone_needs_no_pictures(model: OtterForConditionalGeneration) -> None:
    batch = inputs([[]])
    with torch.no_grad():
        alone = model(input_ids=batch.lang_x).logits
        expected = model(**arguments(batch)).logits
    assert torch.equal(alone, expected)
    with torch.no_grad():
        last = model(input_ids=batch.lang_x, logits_to_keep=1).logits
    torch.testing.assert_close(last, alone[:, -1:])


def test_labels_give_a_loss_or_an_error(model: OtterForConditionalGeneration) -> None:
    batch = inputs([[1]])
    with torch.no_grad():
        loss = model(**arguments(batch), labels=batch.lang_x).loss
        assert torch.equal(model(**arguments(batch), labels=batch.lang_x, use_cache=True).loss, loss)
    with pytest.raises(TrainError, match="labels need the whole prompt"):
        model(**arguments(batch), labels=batch.lang_x, logits_to_keep=1)


@pytest.fixture(scope="module")
def processor() -> OtterProcessor:
    return OtterProcessor(TOKENIZER, image_size=16)


def square(colour: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new("RGB", size, colour)


def turns(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)]


def test_pictures_lie_along_the_media_and_frames_along_the_frames(processor: OtterProcessor, tmp_path: Path) -> None:
    square((9, 9, 9)).save(tmp_path / "a.png")
    batch = processor(
        ["<image>yes", "no", "<image>yes<image>no<image>"],
        [[[square((0, 0, 0)), square((255, 0, 0))]], [],
         [str(tmp_path / "a.png"), np.full((20, 30, 3), 7, np.uint8), torch.zeros(3, 16, 16, dtype=torch.uint8)]],
    )  # fmt: skip
    assert batch["vision_x"].shape == (3, 3, 2, 3, 16, 16)
    assert batch["vision_mask"].tolist() == [
        [[True, True], [False, False], [False, False]], [[False, False]] * 3, [[True, False]] * 3,
    ]  # fmt: skip
    black, red = batch["vision_x"][0, 0]
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    torch.testing.assert_close(black[:, 0, 0], -mean / std)
    torch.testing.assert_close(red[:, 0, 0], (torch.tensor([1.0, 0, 0]) - mean) / std)
    assert batch["attention_mask"][:, -1].all() and not batch["attention_mask"][1, 0]
    right = processor(["<image>yes", "no"], [[square((0, 0, 0))], []], padding_side="right")
    assert right["attention_mask"][:, 0].all() and not right["attention_mask"][1, -1]


def test_turns_become_the_prompt_that_is_trained(processor: OtterProcessor) -> None:
    picture = {"type": "image", "image": square((1, 2, 3))}
    clip = {"type": "video", "video": [square((1, 2, 3))] * 2}
    made = processor.prompt(
        turns([picture, {"type": "text", "text": "which?"}], "red", [clip, {"type": "text", "text": "and?"}])
    )
    assert made.text == "<image>User:which? GPT:<answer>red<|endofchunk|><image>User:and? GPT:<answer>"
    assert made.media == [picture["image"], clip["video"]]
    batch = processor.converse([turns("hm?"), turns([picture, clip], "red", "why?")])
    assert batch["vision_x"].shape[:3] == (2, 2, 2)
    with pytest.raises(UsageError, match="take turns"):
        processor.prompt(turns("hm?", "red"))
    with pytest.raises(UsageError, match="of type 'audio'"):
        processor.prompt(turns([{"type": "audio"}]))


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer"), "byte-level"))


@pytest.mark.parametrize("words", ["</s>", "<PAD>", "<|im_start|>", "<s>", "<answer>", "<|endofchunk|>", "<image>"])
@pytest.mark.parametrize("template", ["otter", "chat"])
def test_special_tokens_in_what_people_say_are_words(chat_tokenizer: Any, words: str, template: str) -> None:
    tokenizer = chat_tokenizer
    processor = OtterProcessor(tokenizer, image_size=16, template=template)
    picture = {"type": "image", "image": square((1, 2, 3))}

    def talk(said: str) -> list[dict[str, Any]]:
        asked = {"type": "text", "text": f"a {said} b"}
        system = {"role": "system", "content": f"be {said}"}
        return [system, *turns([picture, asked], f"no {said}", f"and {said}?")]

    def steering(ids: list[int]) -> list[str]:
        return [tokenizer.convert_ids_to_tokens(id) for id in ids if id in tokenizer.all_special_ids]

    said, plain = (
        processor.apply_chat_template(talk(one), tokenize=True, add_generation_prompt=True)["input_ids"][0].tolist()
        for one in (words, "words")
    )
    assert steering(said) == steering(plain)
    if words == "<image>":
        assert tokenizer.decode(said).count("image 1") == 2
    assert f"no {words}" in tokenizer.decode(said)
    text = processor.apply_chat_template(talk(words), add_generation_prompt=True)
    assert processor([text], [[square((1, 2, 3))]])["input_ids"][0].tolist() == said
    assert text.count("<image>") == 1 and text.count("<answer>") == 2


def test_a_prompt_put_together_by_hand_has_the_tokens_of_its_template(processor: OtterProcessor) -> None:
    tokenizer = processor.tokenizer
    ids = processor("<s>User:a</s><PAD><s> GPT:<answer>b</s><|endofchunk|></s>")["input_ids"][0].tolist()
    names = [tokenizer.convert_ids_to_tokens(id) for id in ids if id in tokenizer.all_special_ids]
    assert names == ["<s>", "<answer>", "<|endofchunk|>", "</s>"]
    assert "a</s><PAD><s> GPT" in tokenizer.decode(ids)


def test_unfit_prompts_and_pictures_raise(processor: OtterProcessor, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="prompt 1 has 2 <image> tokens and 1 media"):
        processor(["no", "<image><image>"], [[], [square((0, 0, 0))]])
    with pytest.raises(UsageError, match="2 prompts and the images of 1"):
        processor(["no", "<image>"], [[square((0, 0, 0))]])
    (tmp_path / "a.png").write_text("no picture")
    for picture in (
        str(tmp_path / "a.png"),
        str(tmp_path / "b.png"),
        torch.zeros(3, 16, 16),
        np.zeros((4, 4), np.uint8),
        [],
    ):
        with pytest.raises(UsageError, match=r"picture|frames"):
            processor("<image>", [picture])
    with pytest.raises(UsageError, match="takes no truncation"):
        processor("no", truncation=True)


def test_a_folder_holds_all_that_is_needed_to_answer(processor: OtterProcessor, tmp_path: Path) -> None:
    ids = {name: TOKENIZER.convert_tokens_to_ids(name) for name in ("<image>", "<|endofchunk|>", "<answer>")}
    config = OtterConfig.from_model_config(
        CONFIG,
        vocab_size=len(TOKENIZER),
        token_ids=type(IDS)(
            image=ids["<image>"], endofchunk=ids["<|endofchunk|>"], answer=ids["<answer>"], pad=TOKENIZER.pad_token_id
        ),
    )
    torch.manual_seed(0)
    OtterForConditionalGeneration(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is OtterProcessor
    assert (loaded.image_size, loaded.image_mean, loaded.template) == (16, processor.image_mean, "otter")
    batch = loaded.converse([turns([{"type": "image", "image": square((1, 2, 3))}, {"type": "text", "text": "yes?"}])])
    assert all(torch.equal(batch[name], processor.converse([turns([
        {"type": "image", "image": square((1, 2, 3))}, {"type": "text", "text": "yes?"},
    ])])[name]) for name in batch)  # fmt: skip
    new = model.generate(**batch, max_new_tokens=4, num_beams=2)[:, batch["input_ids"].shape[1] :]
    assert len(loaded.batch_decode(new)) == 1
