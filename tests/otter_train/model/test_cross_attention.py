from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from otter_train.model.cross_attention import GatedCrossAttentionBlock, media_mask


def block(gate: float) -> GatedCrossAttentionBlock:
    torch.manual_seed(0)
    made = GatedCrossAttentionBlock(12, 8, dim_head=4, heads=2)
    torch.nn.init.constant_(made.attn_gate, gate)
    torch.nn.init.constant_(made.ff_gate, gate)
    return made


@given(st.lists(st.integers(0, 1), min_size=1, max_size=12), st.integers(1, 3), st.integers(0, 3))
def test_sight_is_the_immediately_preceding_medium(images: list[int], latents: int, spare: int) -> None:
    media_count = max(1, sum(images) + spare)
    view = media_mask(torch.tensor([images]).cumsum(-1), media_count=media_count, latents=latents)
    shown = 0
    for place, image in enumerate(images):
        shown += image
        keys = view.keys[0, 0, place].reshape(media_count, latents)
        assert bool(view.seeing[0, place]) == (shown > 0)
        expected = [index + 1 == shown or shown == 0 for index in range(media_count)]
        assert keys.all(-1).tolist() == expected
        assert keys.any(-1).tolist() == expected


def test_blind_tokens_get_exactly_zero_from_attention() -> None:
    attention = block(0.5).attn
    view = media_mask(torch.tensor([[0, 0, 1, 1, 2]]), media_count=2, latents=3)
    media = torch.randn(1, 6, 8, requires_grad=True)
    out = attention(torch.randn(1, 5, 12), attention.project(media), view)
    assert out[:, :2].count_nonzero() == 0
    assert (out[:, 2:] != 0).all()
    out[:, :2].sum().backward()
    assert media.grad is not None
    assert media.grad.count_nonzero() == 0


def test_blind_tokens_still_pass_the_feed_forward() -> None:
    made = block(0.5)
    x = torch.randn(1, 4, 12)
    out = made(x, torch.randn(1, 3, 8), media_mask(torch.zeros(1, 4, dtype=torch.long), media_count=1, latents=3))
    torch.testing.assert_close(out, x + torch.tensor(0.5).tanh() * made.feed_forward(x))


def test_closed_gates_change_no_bit_in_any_precision() -> None:
    view = media_mask(torch.tensor([[0, 1, 1]]), media_count=1, latents=3)
    made = block(0.0)
    assert made.attn_gate.shape == made.ff_gate.shape == (1,)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(1, 3, 12).to(dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = made(x, torch.randn(1, 3, 8), view)
        assert out.dtype == dtype
        assert torch.equal(out, x)


def test_gates_start_closed_and_open_by_their_gradient() -> None:
    torch.manual_seed(0)
    made = GatedCrossAttentionBlock(12, 8, dim_head=4, heads=2)
    assert made.attn_gate.item() == made.ff_gate.item() == 0.0
    made(
        torch.randn(1, 2, 12), torch.randn(1, 3, 8), media_mask(torch.ones(1, 2), media_count=1, latents=3)
    ).sum().backward()
    assert made.attn_gate.grad is not None and made.attn_gate.grad.abs() > 0
    assert made.ff_gate.grad is not None and made.ff_gate.grad.abs() > 0


def test_keys_and_values_made_before_give_the_same() -> None:
    made = block(0.5)
    x, media = torch.randn(2, 4, 12), torch.randn(2, 6, 8)
    view = media_mask(torch.tensor([[0, 1, 1, 2], [1, 1, 2, 2]]), media_count=2, latents=3)
    assert torch.equal(made(x, made.attn.project(media), view), made(x, media, view))
