"""∂L_T(θ₁)/∂φ after one step, with one forward-mode product instead of a second backward pass.

With u(φ) = ∂M_φ/∂f at θ₀ and the Jacobian J of the network there, plain SGD takes the step
θ₁ = θ₀ - α Jᵀu(φ), so with v = ∂L_T/∂θ₁ the gradient is -α ∂/∂φ ⟨u(φ), J v⟩: one forward-mode
product through the network, and a derivative of the small loss only. `first_step` has the other
optimisers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from evomal.losses.meta import MetaLoss
from evomal.tasks.inputs import Inputs
from evomal.training.hypergradient.first_step import first_step
from evomal.training.hypergradient.step import JUDGED, ON_THE_WAY, MetaStep
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
    first = first_step(step)
    updated, pull = first.taken(dict(zip(theta, gradients, strict=True)))
    with step.rng("judging"):
        judged = step.call(updated, buffers, step.judging.inputs)
    judgement = step.judgement(judged)
    v = torch.autograd.grad(judgement, list(updated.values()), materialize_grads=True)
    w = pull(dict(zip(theta, v, strict=True)))
    with step.rng("training"):
        tangent = _jacobian_product(step, theta, w, batch.inputs)
    if not u.requires_grad:  # M_φ is linear in f with slopes free of φ, or flat
        return torch.zeros_like(phi)
    (slope,) = torch.autograd.grad((u * tangent).sum(), phi, materialize_grads=True)
    hypergradient = first.factor * slope
    require_finite([judged, judgement, hypergradient], *JUDGED)
    return hypergradient


def _jacobian_product(
    step: MetaStep, theta: dict[str, Tensor], w: dict[str, Tensor], inputs: Inputs
) -> Tensor:
    """J w: the change of the outputs when θ moves along `w`; shape of the outputs."""
    with torch.no_grad(), forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(value.detach(), w[name].detach())  # type: ignore[no-untyped-call]
            for name, value in theta.items()
        }
        dual = step.call(duals, step.buffers(), inputs)
        output, tangent = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
        return torch.zeros_like(output) if tangent is None else tangent
