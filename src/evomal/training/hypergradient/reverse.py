"""∂L_T(θ_S)/∂φ by double backward, through any number of steps: the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from evomal.losses.meta import MetaLoss
from evomal.training.hypergradient.step import JUDGED, ON_THE_WAY, MetaStep
from evomal.training.numerics import require_finite


def reverse_hypergradient(loss: MetaLoss, phi: Tensor, step: MetaStep) -> Tensor:
    """∂L_T(θ_S)/∂φ by differentiating through S ≥ 1 optimiser steps: the reference.

    Raises
    ------
    DivergedError
        If an intermediate loss, prediction or gradient is non-finite.
    """
    theta = step.parameters()
    names, values = list(theta), list(theta.values())
    buffers = step.buffers()
    states = [step.states.get(name, {}) for name in names]
    with step.rng("training"):
        for batch in step.training:
            pred = step.call(dict(zip(names, values, strict=True)), buffers, batch.inputs)
            value = step.value(loss, pred, batch, phi)
            gradients = torch.autograd.grad(
                value, values, create_graph=True, materialize_grads=True
            )
            require_finite([pred, value, *gradients], *ON_THE_WAY)
            values, states = step.optimizer.taken(values, gradients, states)
    with step.rng("judging"):
        pred = step.call(dict(zip(names, values, strict=True)), buffers, step.judging.inputs)
    judgement = step.judgement(pred)
    (hypergradient,) = torch.autograd.grad(judgement, phi, materialize_grads=True)
    require_finite([pred, judgement, hypergradient], *JUDGED)
    return hypergradient
