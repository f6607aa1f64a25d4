"""Losses of the target's probability p alone, by what tells them apart, with their derivative.

p = f of the target class, ξ the smoothing, γ the focusing, C classes (paper, appendix A).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from evomal.expressions.primitives import EPSILON

Curve = tuple[float, Tensor, float]
"""A loss as factor × values + shift; numbers are cheaper applied after the reduction."""


class Terms(NamedTuple):
    """The loss ℓ = −a·(1 − p)^γ·(log p + s) − b·p^γ·log((1 − p + ε)/n) with ε = 1e-7.

    It contains all of equations (19), (46), (49), (50) and (51). It is computed from log p, with
    1 − p as −expm1(log p), as exact as log p itself.
    """

    target: float
    """a > 0."""
    non_target: float = 0.0
    """b ≥ 0."""
    gamma: float = 0.0
    """γ ≥ 0. Where it is not 0, the smallest normal number is added to the 1 − p that has it as
    exponent, which changes no value other than 0, and keeps its gradient finite."""
    others: int = 1
    """n, of which 1 − p + ε is the sum."""
    shift: float = 0.0
    """s."""
    absolute: bool = False
    """Whether the loss is |ℓ|; only where b and γ are 0."""

    def curve(self, log_p: Tensor) -> Curve:
        """ℓ for log p ≤ 0 of any shape, differentiable by autograd."""
        return self._curve(log_p, torch.expm1(log_p), None)[0]

    def curve_and_slope(
        self, log_p: Tensor, less_one: Tensor, factor: float
    ) -> tuple[Curve, Tensor]:
        """ℓ and, in closed form, `factor` times its slope ∂ℓ/∂log p; `less_one` is p − 1."""
        curve, slope = self._curve(log_p, less_one, factor)
        assert slope is not None
        return curve, slope

    def _curve(
        self, log_p: Tensor, less_one: Tensor, factor: float | None
    ) -> tuple[Curve, Tensor | None]:
        a, b, gamma, others, shift, absolute = self
        inner = log_p + shift if shift else log_p
        slope = None
        if absolute:
            if factor is not None:
                slope = inner.sign().mul_(a * factor)
            return (a, inner.abs(), 0.0), slope
        if gamma == 0:
            if b == 0:
                if factor is not None:
                    slope = torch.full_like(log_p, -a * factor)
                return (-a, inner, 0.0), slope
            rest = torch.rsub(less_one, EPSILON)
            if factor is not None:  # p/(1 − p + ε) is (1 + ε)/(1 − p + ε) − 1
                slope = rest.reciprocal().mul_(b * (1 + EPSILON) * factor).sub_((a + b) * factor)
            return (-a, torch.add(inner, rest.log(), alpha=b / a), b * math.log(others)), slope
        rest = torch.rsub(less_one, torch.finfo(log_p.dtype).tiny)
        focus = rest.pow(gamma)
        if factor is not None:
            p = log_p.exp()
            slope = (gamma * (focus / rest) * p * inner).sub_(focus).mul_(a * factor)
        values = focus * inner
        if b != 0:
            rest = torch.rsub(less_one, EPSILON)
            log_r = rest.log() - math.log(others)
            opposite = torch.exp(gamma * log_p)
            if slope is not None and factor is not None:
                slope.add_((p / rest).sub_(log_r, alpha=gamma).mul_(opposite), alpha=b * factor)
            values = torch.add(values, opposite * log_r, alpha=b / a)
        return (-a, values, 0.0), slope
