"""The numbers of `open-flamingo` 2.0.1: the same weights give the same model, whichever vision tower holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from otter_train.model import (
    ModelConfig,
    Otter,
    TokenIds,
    build_model,
    freeze,
    from_layout,
    to_layout,
    trainable_parameters,
)
from otter_train.model.config import LanguageConfig, VisionConfig
from otter_train.model.layouts import Layout, place_in
from otter_train.model.vision import VisionLayout
from tests.factories.otter import Inputs, greedy

GOLDEN = Path(__file__).parents[2] / "golden"
NEW_TOKENS = 6


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(GOLDEN / "openflamingo_tiny.io.safetensors")


@pytest.fixture(scope="module", params=[
    ("transformers", "openflamingo"), ("transformers", "otter"), ("open_clip", "openflamingo"), ("open_clip", "otter"),
])  # fmt: skip
def model(request: pytest.FixtureRequest) -> Otter:
    """The golden weights from a file of either key layout, in a model with either vision tower."""
    tower, layout = request.param
    if tower == "open_clip":
        pytest.importorskip("open_clip", reason="the open_clip tower needs open_clip")
    return golden_model(tower, layout)


def golden_model(tower: VisionLayout, layout: Layout) -> Otter:
    weights = load_file(GOLDEN / "openflamingo_tiny.weights.safetensors")
    if layout == "otter":
        weights = to_layout(from_file("transformers", weights), "otter")
    return from_file(tower, weights)


def from_file(tower: VisionLayout, weights: dict[str, Tensor]) -> Otter:
    facts: dict[str, Any] = json.loads((GOLDEN / "openflamingo_tiny.json").read_text())
    architecture = {
        "model_type": "llama",
        "hidden_size": facts["hidden"],
        "intermediate_size": 2 * facts["hidden"],
        "num_hidden_layers": facts["layers"],
        "num_attention_heads": facts["heads"],
        "num_key_value_heads": facts["kv"],
    }
    config = ModelConfig(
        language=LanguageConfig(architecture=architecture),
        vision=VisionConfig(
            layout=tower,
            image_size=facts["img"],
            patch_size=facts["patch"],
            width=facts["vis"],
            layers=facts["vis_layers"],
            heads=facts["heads_vision"],
            projection=16,
        ),
        cross_attention_every=facts["every"],
    )
    ids = TokenIds(image=facts["media_token_id"], endofchunk=facts["eoc_token_id"], answer=93, pad=0)
    model = build_model(config, vocab_size=facts["vocab"], token_ids=ids)
    from_layout(model, weights)
    return model.eval()


def test_vision_tokens(model: Otter, expected: dict[str, Tensor]) -> None:
    tokens = model.vision(expected["vision_x"].flatten(0, 2))
    torch.testing.assert_close(tokens, expected["vision_tokens"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("keep_logits", [True, False])
def test_logits_loss_and_gradients(model: Otter, expected: dict[str, Tensor], keep_logits: bool) -> None:
    freeze(model, embeddings="input_only")
    output = model(expected["vision_x"], expected["input_ids"], labels=expected["labels"], keep_logits=keep_logits)
    if keep_logits:
        torch.testing.assert_close(output.logits, expected["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(output.loss, expected["loss"][0], atol=1e-5, rtol=0)
    model.zero_grad()
    output.loss.backward()
    norms = {f"grad_norm.{place_in(key, 'openflamingo').key}": p.grad.norm() for key, p in trainable_parameters(model)}
    assert norms.keys() == {key for key in expected if key.startswith("grad_norm.")}
    for key, norm in norms.items():
        torch.testing.assert_close(
            norm, expected[key].squeeze(), atol=0, rtol=1e-3, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_generation(model: Otter, expected: dict[str, Tensor], use_cache: bool) -> None:
    prompts = expected["input_ids"]
    shown = expected["vision_x"]
    mask = torch.ones(shown.shape[:3], dtype=torch.bool)
    batch = Inputs(shown, prompts, torch.ones_like(prompts), prompts, mask)
    assert (
        greedy(model, batch, NEW_TOKENS, use_cache=use_cache) == expected["generated"][:, prompts.shape[1] :].tolist()
    )
