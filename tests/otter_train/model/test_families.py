"""Families of decoders: some of the table in docs/models.md is made anew, and text is taken out of other models."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForMultimodalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Qwen2_5_VLConfig,
)

from mimicit.errors import TrainError
from otter_train.model import build_model, freeze, with_pretrained
from otter_train.model.families import REFUSED
from otter_train.pretrained import OtterConfig, OtterForConditionalGeneration
from tests.factories.otter import CONFIG, IDS, VOCABULARY, Inputs, inputs, otter
from tools.model_families import CHECKS, families, tiny_architecture, try_family

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
SOME = [
    "llama",
    "gemma2",
    "granite",
    "cohere2",
    "falcon_h1",
    "gemma4_text",
    "inkling_text",
    "biogpt",
    "bart",
    "rwkv",
    "bert",
]


def documented() -> dict[str, list[str]]:
    rows = re.findall(r"^\| ([\w.-]+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: cells.split(" | ") for name, cells in rows}


@pytest.mark.parametrize("family", SOME)
def test_some_families_are_as_the_page_says(family: str) -> None:
    found = try_family(family)
    assert documented()[family] == ([found["refused"]] if "refused" in found else [found[check] for check in CHECKS])


def test_the_page_says_of_every_family_yes_or_no_or_why_not_in_one_line() -> None:
    page = documented()
    assert set(families()) <= page.keys()
    for name in families():
        cells = page[name]
        assert len(cells) == 1 or (set(cells) <= {"yes", "no"} and name not in REFUSED), f"{name}: {cells}"
        faults = ("Error", "differ", "off by", "traceback", "not tried")
        assert len(cells) > 1 or not any(fault in cells[0] for fault in faults), f"{name}: {cells}"
        assert len(cells) == 1 or "no" not in cells[:4] + cells[5:], f"{name}: only packing may be lacking"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_family_of_the_page_is_as_it_says() -> None:
    page = documented()
    for family in sorted(page.keys() & set(families())):
        found = try_family(family)
        if not found.get("refused", "").startswith("not tried"):
            expected = [found["refused"]] if "refused" in found else [found[check] for check in CHECKS]
            assert page[family] == expected, family


TEXT: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip


_PROJECTED = ("vision_output_dim", "projector_input_dim", "projector_output_dim")


@pytest.mark.parametrize(
    ("whole", "text", "options"),
    [
        ("gemma3", "gemma3_text", {"mm_tokens_per_image": 4}),
        ("llava", "llama", {}),
        ("mistral3", "mistral", {}),
        ("smolvlm", "llama", {}),
        ("gemma4", "gemma4_text", {"vision_config": {**VISION, "num_key_value_heads": 2, "head_dim": 12}}),
        ("llama4", "llama4_text", {"vision_config": {**VISION, **dict.fromkeys(_PROJECTED, 24)}}),
        ("blip-2", "opt", {"qformer_config": {**VISION, "encoder_hidden_size": 24}}),
    ],
)
def test_of_a_model_that_sees_the_text_part_is_taken(
    whole: str, text: str, options: dict[str, Any], tmp_path: Path
) -> None:
    vision = {"gemma3": "siglip_vision_model", "llava": "clip_vision_model", "mistral3": "pixtral"}.get(whole)
    seen = {**VISION, **({"model_type": vision} if vision else {})}
    sizes = {"word_embed_proj_dim": 32, "ffn_dim": 48} if text == "opt" else {}
    if text.startswith(("gemma4", "llama4")):
        sizes = {name: value for name, value in tiny_architecture(text).items() if name != "vocab_size"}
    given = {"vision_config": seen, "image_token_id": 39, **options}
    config = AutoConfig.for_model(whole, text_config={"model_type": text, **TEXT, **sizes}, **given)
    torch.manual_seed(0)
    model = AutoModelForMultimodalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    taken = with_pretrained(CONFIG, language=str(tmp_path))
    assert taken.language.architecture["model_type"] == text
    built = build_model(taken, vocab_size=VOCABULARY, token_ids=IDS).eval()
    batch = inputs([[1, 1]])
    words = torch.where(batch.lang_x == 39, 38, batch.lang_x)
    with torch.no_grad():
        plain = model.language_model if whole == "blip-2" else model  # which insists on a picture
        expected = plain(input_ids=words).logits
        found = built(batch.vision_x, batch.lang_x).logits  # the gates are closed
    places = batch.lang_x[0] != 39
    first = int((~places).nonzero()[0])
    torch.testing.assert_close(found[0, :first], expected[0, :first], atol=1e-5, rtol=1e-5)


def test_of_models_without_a_language_model_it_is_one_line(tmp_path: Path) -> None:
    text = {**TEXT, "model_type": "qwen2_5_vl_text"}
    Qwen2_5_VLConfig(text_config=text).save_pretrained(tmp_path / "qwen")
    with pytest.raises(TrainError, match="a qwen2_5_vl model is no language model of transformers on its own") as error:
        with_pretrained(CONFIG, language=str(tmp_path / "qwen"))
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_infinite_numbers_of_a_configuration_come_back(tmp_path: Path) -> None:
    """Falcon-H1 limits its time steps by infinity, which strict JSON cannot hold."""
    config = FalconH1Config(**TEXT, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1)
    torch.manual_seed(0)
    FalconH1ForCausalLM(config).save_pretrained(tmp_path)
    named = with_pretrained(CONFIG, language=str(tmp_path))
    again = type(named).from_json(named.to_json())
    built = build_model(again, vocab_size=VOCABULARY, token_ids=IDS)
    assert built.language.lm.config.time_step_limit[1] == float("inf")
    random = replace(again, language=replace(again.language, pretrained=None))
    assert otter(random).language.lm.config.time_step_limit[1] == float("inf")


@pytest.mark.parametrize("family", ["falcon_h1", "granitemoehybrid", "nemotron_h", "nemotron"])
def test_beams_of_a_row_do_not_depend_on_its_neighbours_whatever_a_decoder_remembers(family: str) -> None:
    config = replace(CONFIG, language=replace(CONFIG.language, architecture=tiny_architecture(family)))
    made = OtterConfig.from_model_config(config, vocab_size=VOCABULARY, token_ids=IDS)
    model = OtterForConditionalGeneration.around(otter(config, seed=2), made).eval()

    def answers(batch: Inputs) -> list[list[int]]:
        options = {"num_beams": 3, "max_new_tokens": 3, "pad_token_id": IDS.pad, "eos_token_id": None}
        shown = {"vision_x": batch.vision_x, "vision_mask": batch.vision_mask, "attention_mask": batch.attention_mask}
        found: list[list[int]] = model.generate(batch.lang_x, **shown, **options)[:, -3:].tolist()
        return found

    whole = inputs([[1, 1], [2]])
    assert answers(whole.to_left()) == [answers(whole.row(index))[0] for index in range(2)]


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("seed_oss", {"residual_dropout": 0.5, "attention_dropout": 0.5}),
        ("biogpt", {"hidden_dropout_prob": 0.5, "activation_dropout": 0.5, "layerdrop": 0.5}),
        ("opt", {"dropout": 0.5, "ffn_dim": 48, "word_embed_proj_dim": 32}),
        ("phimoe", {"router_jitter_noise": 0.5, "input_jitter_noise": 0.5, "num_local_experts": 4}),
    ],
)
@pytest.mark.parametrize(("recomputed", "trained"), [(False, True), (True, False), (True, True)])
def test_two_passes_in_training_agree_whatever_a_family_calls_its_noise(
    family: str, options: dict[str, Any], recomputed: bool, trained: bool
) -> None:
    from otter_train.model.speed import recompute_activations

    language = replace(CONFIG.language, architecture={"model_type": family, **TEXT, **options})
    model, batch = otter(replace(CONFIG, language=language)).train(), inputs([[1], [1, 1]])
    freeze(model, "full", train_language=trained)
    if recomputed:
        recompute_activations(model, 1)
        assert all(layer.training for layer in model.language.lm.get_decoder().layers)
    given = (batch.vision_x, batch.lang_x, batch.attention_mask, batch.labels)
    losses = [model(*given, vision_mask=batch.vision_mask).loss for _ in range(2)]
    assert torch.equal(*losses) and torch.equal(losses[0], model.eval()(*given, vision_mask=batch.vision_mask).loss)
