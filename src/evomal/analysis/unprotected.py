"""Losses without the ε that protects their logarithms and roots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evomal.expressions.primitives import CONSTANTS, EPSILON, PRIMITIVES
from evomal.losses.sparse import SparselySmoothedLoss
from evomal.losses.symbolic import SymbolicLoss
from evomal.losses.target import TargetLoss

Elementwise = Callable[[Tensor, Tensor], Tensor]

_TINY = 1e-30
assert _TINY < EPSILON


def unprotected(loss: Any, classes: int) -> Elementwise | None:
    """ℓ(y, f) with ε → 0; None if not available.

    Parameters
    ----------
    loss
        A loss in double precision; expressions and handcrafted losses of the target's probability
        have an ε.
    classes
        Number of classes.
    """
    if isinstance(loss, SymbolicLoss):
        return _of_expression(loss)
    if isinstance(loss, TargetLoss):
        curve = _target_curve(loss, classes)
        if curve is not None:
            return lambda y, f: y * curve((f + _TINY).log())
    return None


def _of_expression(loss: SymbolicLoss) -> Elementwise:
    bare = {
        "log": lambda a: torch.log(a.abs() + _TINY),
        "sqrt": lambda a: torch.sqrt(a.abs() + _TINY),
    }
    scales = loss.phi.tolist()

    def elementwise(y: Tensor, f: Tensor) -> Tensor:
        def apply(index: int, node: str, args: list[Tensor]) -> Tensor:
            if node in PRIMITIVES:
                value: Tensor = bare[node](*args) if node in bare else _plain(node, args)
            elif node in CONSTANTS:
                value = torch.full_like(f, CONSTANTS[node])
            else:
                value = y if node == "y" else f
            return value if index == 0 else value * scales[index - 1]

        values = loss.expression.fold(apply)
        return functional.softplus(values) if loss.activation == "softplus" else values

    return elementwise


def _plain(node: str, args: list[Tensor]) -> Tensor:
    value: Tensor = PRIMITIVES[node].torch(torch, *args)
    return value


def _target_curve(loss: TargetLoss, classes: int) -> Callable[[Tensor], Tensor] | None:
    """ℓ(log p) of equations (19), (46), (50) and (51), as in `TargetCoefficients`, with ε → 0."""
    if isinstance(loss, SparselySmoothedLoss):
        share, rest, others = loss.shares(classes)
        return lambda log_p: (
            share * loss.loss(log_p) + rest * loss.loss((_rest(log_p) / others).log())
        )
    coefficients = loss.coefficients(classes) if type(loss).curve is TargetLoss.curve else None
    if coefficients is None:
        return None
    a, b, gamma, others, shift, absolute = coefficients

    def curve(log_p: Tensor) -> Tensor:
        rest = _rest(log_p)
        at_target = -a * rest**gamma * (log_p + shift)
        if absolute:
            return at_target.abs()
        if b == 0:
            return at_target
        return at_target - b * (gamma * log_p).exp() * (rest / others).log()

    return curve


def _rest(log_p: Tensor) -> Tensor:
    """1 - p, kept above 0."""
    return _TINY - torch.expm1(log_p)
