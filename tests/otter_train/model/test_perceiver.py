from __future__ import annotations

import pytest
import torch

from mimicit.errors import TrainError
from otter_train.model.perceiver import PerceiverResampler


@pytest.fixture
def perceiver() -> PerceiverResampler:
    torch.manual_seed(0)
    return PerceiverResampler(16, depth=2, dim_head=8, heads=2, num_latents=3)


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, 16, generator=torch.Generator().manual_seed(1))


def test_a_full_mask_is_no_mask(perceiver: PerceiverResampler, features: torch.Tensor) -> None:
    out = perceiver(features)
    assert out.shape == (2, 3, 3, 16)
    torch.testing.assert_close(perceiver(features, torch.ones(2, 3, 4, dtype=torch.bool)), out, atol=1e-6, rtol=0)


def test_absent_frames_are_never_looked_at(perceiver: PerceiverResampler, features: torch.Tensor) -> None:
    mask = torch.tensor([True, True, False, False]).expand(2, 3, 4)
    out = perceiver(features, mask)
    torch.testing.assert_close(out, perceiver(features[:, :, :2]), atol=1e-6, rtol=0)
    changed = features.clone()
    changed[:, :, 2:] = 1e4
    assert torch.equal(perceiver(changed, mask), out)


def test_a_medium_without_frames_is_finite_and_constant(perceiver: PerceiverResampler, features: torch.Tensor) -> None:
    features.requires_grad_()
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[0, 1] = mask[1, 2] = False
    out = perceiver(features, mask)
    assert out.isfinite().all()
    torch.testing.assert_close(out[0, 1], out[1, 2], atol=1e-6, rtol=0)
    out.square().sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert features.grad[0, 1].count_nonzero() == 0
    assert features.grad[0, 0].count_nonzero() > 0


def test_media_of_another_width_are_projected_first(perceiver: PerceiverResampler, features: torch.Tensor) -> None:
    narrow = PerceiverResampler(8, depth=2, dim_head=8, heads=2, num_latents=3, media_dim=16, max_num_frames=4)
    assert narrow(features).shape == (2, 3, 3, 8) and perceiver.project is None
    assert narrow.project is not None
    plain = PerceiverResampler(8, depth=2, dim_head=8, heads=2, num_latents=3, max_num_frames=4)
    plain.load_state_dict({name: value for name, value in narrow.state_dict().items() if "project" not in name})
    assert torch.equal(narrow(features), plain(narrow.project(features)))


def test_media_do_not_see_each_other_but_frames_of_one_medium_do(
    perceiver: PerceiverResampler, features: torch.Tensor
) -> None:
    out = perceiver(features)
    changed = features.clone()
    changed[0, 1, 3] *= -1
    moved = (perceiver(changed) - out).abs().amax(dim=(2, 3)) > 1e-6
    assert moved.tolist() == [[False, True, False], [False, False, False]]


def test_frames_have_an_order_only_with_frame_embeddings(perceiver: PerceiverResampler, features: torch.Tensor) -> None:
    backwards = features.flip(2)
    torch.testing.assert_close(perceiver(backwards), perceiver(features), atol=1e-5, rtol=0)
    ordered = PerceiverResampler(16, depth=1, dim_head=8, heads=2, num_latents=3, max_num_frames=4)
    assert (ordered(backwards) - ordered(features)).abs().max() > 1e-3
    with pytest.raises(TrainError, match="5 frames and the perceiver 4"):
        ordered(torch.randn(1, 1, 5, 5, 16))


def test_parameter_names_are_those_of_the_checkpoints() -> None:
    names = set(PerceiverResampler(8, depth=1, max_num_frames=2).state_dict())
    layer = {
        "norm_media.weight", "norm_media.bias", "norm_latents.weight", "norm_latents.bias", "to_q.weight",
        "to_kv.weight", "to_out.weight", "feed_forward.0.weight", "feed_forward.0.bias", "feed_forward.1.weight",
        "feed_forward.3.weight",
    }  # fmt: skip
    assert names == {"latents", "frame_embs", "norm.weight", "norm.bias"} | {f"layers.0.{name}" for name in layer}
