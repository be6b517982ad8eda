"""AdamW for weights that rest in bfloat16: every update is computed in float32, and rounded up or down by chance.

Next to 1, bfloat16 numbers lie 0.008 apart: an update of 1e-5 would be rounded away each time. Rounded up with the
probability of what would be lost, it comes through on average, without a float32 copy of the weights. Per trained
weight that is 12 bytes (weight and gradient in bfloat16, two moments in float32) instead of 16, and no copy in bfloat16
for the forward pass. The moments stay in float32: of the second, a thousandth changes at each step.

The random numbers are those of the device's own generator, whose state is in every checkpoint. torchao 0.18 has such
an optimiser, but not a public one; it keeps the moments in bfloat16 and does not ask the guard (`otter_train.guard`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import AdamW
from torch.optim.adamw import adamw

__all__ = ["RoundingAdamW", "round_by_chance"]

_DROPPED = 16
"""The last bits of a float32, which bfloat16 does not have."""


class RoundingAdamW(AdamW):
    """AdamW over bfloat16 parameters, with its moments in float32; made of the groups of another one.

    A step that ``found_inf`` marks, as `Guard.judge` says, changes neither weights nor moments.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; nothing waits for the device."""
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for pool in self.param_groups:
            for parameter in pool["params"]:
                if parameter.grad is not None:
                    self._update(parameter, pool, found_inf)

    def _update(self, parameter: Tensor, pool: dict[str, Any], found_inf: Tensor | None) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = torch.zeros_like(parameter, dtype=torch.float32)
        own = _local(parameter)
        exact = own.float()
        adamw(
            [exact],
            [_local(parameter.grad).float()],
            [_local(state["exp_avg"])],
            [_local(state["exp_avg_sq"])],
            [],
            [state["step"]],
            fused=True,
            found_inf=found_inf,
            amsgrad=False,
            beta1=pool["betas"][0],
            beta2=pool["betas"][1],
            lr=pool["lr"],
            weight_decay=pool["weight_decay"],
            eps=pool["eps"],
            maximize=False,
        )
        own.copy_(round_by_chance(exact))


def round_by_chance(values: Tensor) -> Tensor:
    """float32 ``values`` as one of the two bfloat16 numbers around each; on average the value itself.

    What bfloat16 holds exactly, infinity and NaN stay as they are.
    """
    bits = values.view(torch.int32)
    noise = torch.randint(1 << _DROPPED, bits.shape, device=values.device, dtype=torch.int32)
    # Numbers of one sign are ordered as their bits are: adding below 1 in the last place carries with the probability
    # of what is cut off.
    rounded = ((bits + noise) >> _DROPPED << _DROPPED).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values).bfloat16()


def _local(tensor: Tensor | None) -> Tensor:
    """The part of ``tensor`` that this process holds."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    assert tensor is not None
    return tensor
