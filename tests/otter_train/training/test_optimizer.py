"""Learning rates over the steps, and which weights decay."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="comes with the extra 'train'")

from hypothesis import given
from hypothesis import strategies as st

from otter_train.model import freeze, trainable_parameters
from otter_train.training.optimizer import decayed, make_optimizer, rate_factor
from tests.factories.otter import otter


@given(
    st.integers(1, 5000),
    st.floats(0, 1),
    st.sampled_from(["cosine", "linear", "constant"]),
)
def test_the_rate_climbs_once_and_then_never_rises(total: int, warmup: float, schedule: str) -> None:
    factors = [rate_factor(step, total, warmup=warmup, schedule=schedule) for step in range(total)]  # type: ignore[arg-type]
    assert all(0 < factor <= 1 for factor in factors)
    climb = max(1, round(total * warmup))
    assert factors[: climb - 1] == sorted(factors[: climb - 1])
    assert factors[climb - 1] == pytest.approx(1.0)
    assert factors[climb:] == sorted(factors[climb:], reverse=True)


def test_the_shape_of_the_paper() -> None:
    factors = [rate_factor(step, 1000) for step in range(1000)]
    assert factors[4] == 0.5 and factors[9] == 1.0  # 1% of warm-up
    assert factors[505] == pytest.approx(0.5)
    assert factors[-1] < 1e-5
    assert rate_factor(505, 1000, schedule="linear") == pytest.approx(0.5)
    assert rate_factor(999, 1000, schedule="constant") == 1.0


def test_only_matrices_of_the_cross_attention_decay() -> None:
    model = otter()
    freeze(model, "full")
    names = decayed(model)
    assert names and all(".cross_attention." in name and name.endswith(".weight") for name in names)
    assert not any("norm" in name or "gate" in name for name in names)
    parameters = dict(model.named_parameters())
    blocks = {name for name, value in parameters.items() if ".cross_attention." in name and value.ndim == 2}
    assert names == blocks


def test_the_norm_of_the_feed_forward_is_spared_though_the_published_rule_misses_it() -> None:
    """That rule passes over what is called a norm; this one is called ``ff.0.weight``, and decays there."""
    model = otter()
    blocks = [name for name, _ in model.named_parameters() if name.startswith("language.cross_attention.")]
    first = {name for name in blocks if name.endswith("feed_forward.0.weight")}
    assert len(first) == len(model.language.blocks) and not first & decayed(model)
    assert {name for name in blocks if name.endswith("feed_forward.1.weight")} <= decayed(model)


def test_from_scratch_the_other_matrices_decay_too_but_not_what_is_spared() -> None:
    model = otter()
    names = decayed(model, whole_model=True)
    assert names > decayed(model)
    assert any(name.startswith("vision.") for name in names) and any(".self_attn." in name for name in names)
    for spared in ("perceiver.", "embed_tokens", "position_embedding", "lm_head", "norm", "_gate", "bias"):
        assert not any(spared in name for name in names), spared


@pytest.mark.parametrize("whole_model", [False, True])
def test_every_trained_weight_is_updated_once(whole_model: bool) -> None:
    model = otter()
    freeze(model, "full", train_vision=whole_model, train_language=whole_model)
    optimizer = make_optimizer(model, lr=1e-3, weight_decay=0.1, beta2=0.95, whole_model=whole_model)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.95)}
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for _, parameter in trainable_parameters(model))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
