"""∂L_T(θ₁)/∂φ after one step, with one forward-mode product instead of a second backward pass.

With u(φ) = ∂M_φ/∂f at θ₀ and the Jacobian J of the network there, θ₁ = θ₀ - α Jᵀu(φ), so with
v = ∂L_T/∂θ₁ the gradient is -α ∂/∂φ ⟨u(φ), J v⟩: one forward-mode product through the network, and
a derivative of the small loss only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from evomal.losses.meta import MetaLoss
from evomal.tasks.inputs import Inputs
from evomal.training.hypergradient.step import (
    JUDGED,
    ON_THE_WAY,
    MetaStep,
    first_step,
    first_step_size,
)
from evomal.training.numerics import require_finite


def forward_hypergradient(loss: MetaLoss, phi: Tensor, step: MetaStep) -> Tensor:
    """∂L_T(θ₁)/∂φ after one optimiser step, without a second backward through the network.

    Raises
    ------
    DivergedError
        If an intermediate loss, prediction or gradient is non-finite.
    """
    (batch,) = step.training
    theta, buffers = step.parameters(), step.buffers()
    values = list(theta.values())
    with step.rng("training"):
        output = step.call(theta, buffers, batch.inputs)
    pred = output.detach().requires_grad_()
    value = step.value(loss, pred, batch, phi)
    (u,) = torch.autograd.grad(value, pred, create_graph=True, materialize_grads=True)
    gradients = torch.autograd.grad(output, values, u.detach(), materialize_grads=True)
    require_finite([pred, value, u, *gradients], *ON_THE_WAY)
    updated = first_step(step.task.optimizer, values, gradients)
    with step.rng("judging"):
        judged = step.call(dict(zip(theta, updated, strict=True)), buffers, step.judging.inputs)
    judgement = step.judgement(judged)
    v = torch.autograd.grad(judgement, updated, materialize_grads=True)
    with step.rng("training"):
        tangent = _jacobian_product(step, theta, v, batch.inputs)
    if not u.requires_grad:  # M_φ is linear in f with slopes free of φ, or flat
        return torch.zeros_like(phi)
    alpha = first_step_size(step.task.optimizer)
    (slope,) = torch.autograd.grad((u * tangent).sum(), phi, materialize_grads=True)
    hypergradient = -alpha * slope
    require_finite([judged, judgement, hypergradient], *JUDGED)
    return hypergradient


def _jacobian_product(
    step: MetaStep, theta: dict[str, Tensor], v: Sequence[Tensor], inputs: Inputs
) -> Tensor:
    """J v: the change of the outputs when θ moves along `v`; shape of the outputs."""
    with torch.no_grad(), forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(value.detach(), direction.detach())  # type: ignore[no-untyped-call]
            for (name, value), direction in zip(theta.items(), v, strict=True)
        }
        dual = step.call(duals, step.buffers(), inputs)
        output, tangent = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
        return torch.zeros_like(output) if tangent is None else tangent
