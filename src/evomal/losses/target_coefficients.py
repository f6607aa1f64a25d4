"""Coefficients of losses that depend only on the target's probability p.

p = f of the target class, ξ the smoothing, γ the focusing, C classes (paper, appendix A).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from evomal.expressions.primitives import EPSILON


class TargetCoefficients(NamedTuple):
    """The loss ℓ = −a·(1 − p)^γ·(log p + s) − b·p^γ·log((1 − p + ε)/n) with ε = 1e-7.

    It covers equations (19), (46), (49), (50) and (51). It is computed from log p, with 1 − p as
    −expm1(log p), as exact as log p itself.
    """

    target: float
    """a > 0."""
    non_target: float = 0.0
    """b ≥ 0."""
    gamma: float = 0.0
    """γ ≥ 0. If it is not 0, the smallest normal number is added to the base 1 − p, which changes
    no value other than 0 and keeps the gradient finite."""
    others: int = 1
    """n, the number of outputs that share 1 − p + ε."""
    shift: float = 0.0
    """s."""
    absolute: bool = False
    """Whether the loss is |ℓ|; only if b and γ are 0."""

    def curve(self, log_p: Tensor) -> Tensor:
        """ℓ for log p ≤ 0 of any shape."""
        a, b, gamma, others, shift, absolute = self
        inner = log_p + shift if shift else log_p
        if absolute:
            return a * inner.abs()
        value = -a * inner
        if gamma == 0 and b == 0:
            return value
        less_one = torch.expm1(log_p)
        if gamma != 0:
            value = value * torch.rsub(less_one, torch.finfo(log_p.dtype).tiny).pow(gamma)
        if b == 0:
            return value
        log_r = torch.rsub(less_one, EPSILON / others, alpha=1 / others).log()
        opposite = log_r if gamma == 0 else log_r * torch.exp(gamma * log_p)
        return torch.add(value, opposite, alpha=-b)
