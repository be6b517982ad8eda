from __future__ import annotations

import copy
import pickle

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mimicit.errors import TrainError
from otter_train.model.cross_attention import media_mask
from otter_train.model.families import family_logits
from otter_train.model.language import ConditionedLanguage, Conditioning

SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
FAMILY = ("llama", "mistral", "qwen2", "qwen3")


def bare(model_type: str = "llama", **changes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SMALL, **changes})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def conditioned(lm: PreTrainedModel, every: int = 2, gate: float = 0.0) -> ConditionedLanguage:
    torch.manual_seed(1)
    language = ConditionedLanguage(lm, vis_dim=8, every=every, dim_head=8, heads=2)
    for block in language.blocks:
        torch.nn.init.constant_(block.attn_gate, gate)
        torch.nn.init.constant_(block.ff_gate, gate)
    return language


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 40, (2, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def conditioning() -> Conditioning:
    media = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))
    return Conditioning(
        media, media_mask(torch.tensor([[0, 1, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1]]), media_count=2, latents=3)
    )


@pytest.mark.parametrize("model_type", FAMILY)
def test_closed_gates_leave_the_bare_model_bit_for_bit(
    model_type: str, ids: torch.Tensor, conditioning: Conditioning
) -> None:
    lm = bare(model_type)
    expected = lm(input_ids=ids).logits
    language = conditioned(lm)
    assert torch.equal(language.logits(language(ids, conditioning).hidden), expected)


@pytest.mark.parametrize("model_type", FAMILY)
def test_open_gates_let_the_media_through(model_type: str, ids: torch.Tensor, conditioning: Conditioning) -> None:
    language = conditioned(bare(model_type), gate=0.5)
    other = Conditioning(conditioning.media + 1, conditioning.mask)
    moved = (language(ids, conditioning).hidden - language(ids, other).hidden).abs().amax(-1)
    assert (moved[0, 1:] > 1e-4).all() and (moved[1, 3:] > 1e-4).all()
    assert moved[0, 0] == 0 and moved[1, :3].max() == 0


def test_native_keys_stay_native_and_blocks_stand_before_every_nth_layer() -> None:
    lm = bare()
    native = set(lm.state_dict())
    language = conditioned(lm, every=2)
    keys = set(language.state_dict())
    assert {key.removeprefix("lm.") for key in keys if key.startswith("lm.")} == native
    assert {key.split(".")[1] for key in keys if key.startswith("cross_attention.")} == {"1", "3"}


def test_every_too_wide_raises() -> None:
    with pytest.raises(TrainError, match="every 5 of 4 decoder layers"):
        conditioned(bare(), every=5)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("cohere", {"logit_scale": 0.3}),
        ("cohere2", {"logit_scale": 0.3}),
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": 0.5}),
        ("granite", {"logits_scaling": 3.0}),
        ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 4, "logit_scale": 0.3}),
    ],
)
def test_logits_are_scaled_and_capped_as_the_family_does_it(family: str, options: dict[str, object]) -> None:
    lm = bare(family, **options)
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        expected = lm(input_ids=ids).logits
        found = family_logits(lm, lm.get_decoder()(input_ids=ids).last_hidden_state)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("family", ["bart", "marian", "rwkv", "trocr"])
def test_families_that_would_give_wrong_numbers_are_refused_by_name(family: str) -> None:
    config = AutoConfig.for_model(family)
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config)
    with pytest.raises(TrainError, match=f"a model of type {family} cannot be the language model"):
        conditioned(lm)


def test_the_language_model_alone_raises_rather_than_run_blind(ids: torch.Tensor) -> None:
    language = conditioned(bare())
    with pytest.raises(TrainError, match="without its media"):
        language.lm(input_ids=ids)


def test_an_exception_leaves_nothing_behind(ids: torch.Tensor, conditioning: Conditioning) -> None:
    language = conditioned(bare(), gate=0.5)
    expected = language(ids, conditioning).hidden
    with pytest.raises(RuntimeError):
        language(ids, Conditioning(conditioning.media[:, :5], conditioning.mask))
    assert torch.equal(language(ids, conditioning).hidden, expected)


def test_copies_look_through_their_own_blocks(ids: torch.Tensor, conditioning: Conditioning) -> None:
    language = conditioned(bare(), gate=0.5)
    expected = language(ids, conditioning).hidden
    for twin in (copy.deepcopy(language), pickle.loads(pickle.dumps(language))):
        assert torch.equal(twin(ids, conditioning).hidden, expected)
        torch.nn.init.constant_(language.blocks[0].attn_gate, -0.5)
        assert torch.equal(twin(ids, conditioning).hidden, expected)
        assert not torch.equal(language(ids, conditioning).hidden, expected)
        torch.nn.init.constant_(language.blocks[0].attn_gate, 0.5)


def test_activation_checkpointing_gives_the_same_gradients_and_covers_the_blocks(
    ids: torch.Tensor, conditioning: Conditioning
) -> None:
    language = conditioned(bare(), gate=0.5).train()

    def gradients() -> tuple[dict[str, torch.Tensor], int]:
        saved = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        language.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = language(ids, conditioning).hidden.square().sum()
        loss.backward()
        return {name: p.grad.clone() for name, p in language.named_parameters() if p.grad is not None}, saved

    plain, plain_saved = gradients()
    for layer in language.lm.model.layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = lambda *args: torch.utils.checkpoint.checkpoint(*args, use_reentrant=False)
    language.train()  # tells the layers
    checkpointed, checkpointed_saved = gradients()
    assert plain.keys() == checkpointed.keys()
    assert any(name.startswith("cross_attention.1.") for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-5)
    assert checkpointed_saved < plain_saved / 3
