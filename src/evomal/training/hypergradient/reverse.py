"""∂L_T(θ_S)/∂φ by double backward, through any number of steps: the reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evomal.losses.meta import MetaLoss
from evomal.tasks.optimizers import SGD
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
    momenta: list[Tensor | None] = [None] * len(names)
    with step.rng("training"):
        for batch in step.training:
            pred = step.call(dict(zip(names, values, strict=True)), buffers, batch.inputs)
            value = step.value(loss, pred, batch, phi)
            gradients = torch.autograd.grad(
                value, values, create_graph=True, materialize_grads=True
            )
            require_finite([pred, value, *gradients], *ON_THE_WAY)
            values, momenta = sgd_step(step.task.optimizer, values, list(gradients), momenta)
    with step.rng("judging"):
        pred = step.call(dict(zip(names, values, strict=True)), buffers, step.judging.inputs)
    judgement = step.judgement(pred)
    (hypergradient,) = torch.autograd.grad(judgement, phi, materialize_grads=True)
    require_finite([pred, judgement, hypergradient], *JUDGED)
    return hypergradient


def sgd_step(
    optimizer: SGD,
    theta: list[Tensor],
    gradients: list[Tensor],
    momenta: Sequence[Tensor | None],
) -> tuple[list[Tensor], list[Tensor | None]]:
    """One differentiable step of ``torch.optim.SGD``: the new parameters and momentum buffers."""
    updated: list[Tensor] = []
    buffers: list[Tensor | None] = []
    for value, gradient, momentum in zip(theta, gradients, momenta, strict=True):
        direction = gradient
        buffer = None
        if optimizer.weight_decay:
            direction = direction + optimizer.weight_decay * value
        if optimizer.momentum:
            buffer = direction
            if momentum is not None:
                buffer = optimizer.momentum * momentum + (1 - optimizer.dampening) * direction
            direction = direction + optimizer.momentum * buffer if optimizer.nesterov else buffer
        updated.append(value - optimizer.learning_rate * direction)
        buffers.append(buffer)
    return updated, buffers
