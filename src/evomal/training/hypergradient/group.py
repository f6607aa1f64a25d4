"""∂L_T(θ₁)/∂φ for every loss of a group, in one meta step.

All candidates of a meta step share θ₀ and the training batch, so the network and its Jacobian J
there are the same for all of them; only the vectors multiplied by J differ. For P losses this takes

- one forward pass at θ₀;
- P pull-backs Jᵀu of the losses' slopes and P evaluations of updated learners θ₁: in one pass or
  one at a time;
- P forward-mode products J w, as one batched product if that is correct, which computes the
  network's primal values once.

Affine layers, which take most of the arithmetic, are differentiated by hand (`affine`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomal.losses.meta import MetaLoss
from evomal.training.hypergradient.affine import AffineLayer
from evomal.training.hypergradient.shared_pass import SharedPass
from evomal.training.hypergradient.step import MetaStep
from evomal.training.numerics import finite_rows


@dataclass(frozen=True)
class GroupGradients:
    """The results of a meta step of P losses.

    Attributes
    ----------
    gradients
        ∂L_T(θ₁)/∂φ of every loss.
    finite
        Whether all intermediate values were finite, (P,).
    output
        The learner's outputs at θ₀, (B, …).
    judgements
        L_T(θ₁) of every loss, (P,).
    """

    gradients: list[Tensor]
    finite: Tensor
    output: Tensor
    judgements: Tensor


def group_hypergradients(
    losses: Sequence[MetaLoss],
    phis: Sequence[Tensor],
    step: MetaStep,
    layers: Sequence[AffineLayer] = (),
    *,
    stacked: bool,
    in_turn: bool = False,
) -> GroupGradients:
    """`forward_hypergradient` for every loss of a group, on one meta step.

    Parameters
    ----------
    losses, phis
        The losses and their weights φ, which require gradients.
    step
        The meta step, with one training batch.
    layers
        Layers that are differentiated by hand, from `affine_layers`.
    stacked
        Whether the updated learners are evaluated in one pass.
    in_turn
        Whether the forward-mode products are computed one at a time instead of batched.
    """
    (batch,) = step.training
    shared = SharedPass(step, layers)
    pred = shared.output.detach().requires_grad_()
    values = [step.value(loss, pred, batch, phi) for loss, phi in zip(losses, phis, strict=True)]
    slopes = [
        torch.autograd.grad(value, pred, create_graph=True, materialize_grads=True)[0]
        for value in values
    ]
    u = torch.stack([slope.detach() for slope in slopes])
    updated = shared.updated(u, stacked=stacked)
    tangents = shared.tangents(updated, in_turn=in_turn)
    products = [(slope * tangent).sum() for slope, tangent in zip(slopes, tangents, strict=True)]
    gradients = [torch.zeros_like(phi) for phi in phis]
    known = [p for p, product in enumerate(products) if product.requires_grad]
    if known:  # the others are linear in f with slopes independent of φ, or flat
        total = torch.stack([products[p] for p in known]).sum()
        derivatives = torch.autograd.grad(total, phis, materialize_grads=True)
        gradients = [shared.first.factor * derivative for derivative in derivatives]
    finite = updated.finite & finite_rows([u, torch.stack(values), updated.judgements])
    finite &= torch.stack([gradient.isfinite().all() for gradient in gradients])
    return GroupGradients(gradients, finite, shared.output.detach(), updated.judgements)
