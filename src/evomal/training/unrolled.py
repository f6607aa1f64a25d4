"""One meta step of Algorithm 1 for one loss: ∂L_T(θ_S)/∂φ through steps of the base learner.

The gradient flows through S_base differentiable optimiser steps under M_φ (paper, section 3.3.1).
Two ways compute it:

- `reverse_hypergradient` differentiates through the steps, for any S_base: double backward.
- `forward_hypergradient` is for S_base = 1. With u(φ) = ∂M_φ/∂f at θ₀ and the Jacobian J of the
  network there, θ₁ = θ₀ - α Jᵀu(φ), so with v = ∂L_T/∂θ₁ the gradient is -α ∂/∂φ ⟨u(φ), J v⟩:
  one forward-mode product through the network, and a derivative of the small loss alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from evomal.losses.meta import MetaLoss
from evomal.seeding import derive_seed, isolated_rng
from evomal.tasks.data import Data
from evomal.tasks.optimizers import SGD
from evomal.tasks.task import Task
from evomal.training.numerics import require_finite

_NAMES = "a prediction", "the loss", "a gradient"
_JUDGED = "a prediction after the step", "the task loss after the step", "the hypergradient"


@dataclass(frozen=True)
class MetaStep:
    """What one task contributes to one meta step, the same for every candidate.

    Attributes
    ----------
    learner
        The fresh base learner with θ₀, in train mode.
    training
        One preprocessed batch (inputs, targets) per base step.
    judging
        The batch on which L_T judges the updated learner.
    seed
        Seeds the learner's own randomness, such as dropout.
    progress
        Share of the training that is done, for losses that depend on it. Drawn afresh for every
        meta step: a learner is new in each, so that its own progress would always be 0.
    spoils_inputs
        Whether the learner changes its inputs in place, so that `call` must hand it a copy: a
        batch is read more than once.
    """

    task: Task
    learner: nn.Module
    training: Sequence[Data]
    judging: Data
    seed: int
    progress: float = 0.0
    spoils_inputs: bool = False

    def value(self, loss: MetaLoss, pred: Tensor, batch: Data, phi: Tensor) -> Tensor:
        """The loss of raw outputs for a training batch, differentiable in φ as well."""
        inputs = self.task.loss_inputs(batch, self.progress)
        return loss.evaluate(pred, batch.targets, phi, inputs)

    def parameters(self) -> dict[str, Tensor]:
        """θ₀: the trainable parameters by name."""
        return dict(self._theta)

    @cached_property
    def _theta(self) -> dict[str, Tensor]:
        # Taken once: ``functional_call`` leaves a module that occurs twice with what it was given.
        return {name: p for name, p in self.learner.named_parameters() if p.requires_grad}

    def buffers(self) -> dict[str, Tensor]:
        """Copies of the learner's buffers by name, for `call` to change."""
        return {name: b.clone() for name, b in self.learner.named_buffers()}

    def call(
        self, theta: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Tensor
    ) -> Tensor:
        """The learner's outputs with other parameters; it changes `buffers`, not the learner."""
        inputs = inputs.clone() if self.spoils_inputs else inputs
        out: Tensor = functional_call(self.learner, {**theta, **buffers}, inputs)
        return out

    def judgement(self, pred: Tensor) -> Tensor:
        """L_T of an updated learner's outputs for the batch that judges it.

        It is given a copy of the targets, as it may work in place and they judge others, too.
        """
        with self.rng("task loss"):
            return self.task.task_loss(pred, self.judging.targets.clone())

    def rng(
        self, part: Literal["training", "judging", "task loss"]
    ) -> AbstractContextManager[None]:
        """Seeds what draws in one part of the meta step: the learner, or a user's task loss."""
        return isolated_rng(self.task.device, derive_seed(self.seed, part))


def reverse_hypergradient(loss: MetaLoss, phi: Tensor, step: MetaStep) -> Tensor:
    """∂L_T(θ_S)/∂φ by differentiating through S ≥ 1 optimiser steps: the plain reference.

    Raises
    ------
    DivergedError
        If a loss, prediction or gradient on the way is non-finite.
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
            require_finite([pred, value, *gradients], *_NAMES)
            values, momenta = sgd_step(step.task.optimizer, values, list(gradients), momenta)
    with step.rng("judging"):
        pred = step.call(dict(zip(names, values, strict=True)), buffers, step.judging.inputs)
    judgement = step.judgement(pred)
    (hypergradient,) = torch.autograd.grad(judgement, phi, materialize_grads=True)
    require_finite([pred, judgement, hypergradient], *_JUDGED)
    return hypergradient


def forward_hypergradient(loss: MetaLoss, phi: Tensor, step: MetaStep) -> Tensor:
    """∂L_T(θ₁)/∂φ after one optimiser step, without a second backward through the network.

    Raises
    ------
    DivergedError
        If a loss, prediction or gradient on the way is non-finite.
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
    require_finite([pred, value, u, *gradients], *_NAMES)
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
    require_finite([judged, judgement, hypergradient], *_JUDGED)
    return hypergradient


def _jacobian_product(
    step: MetaStep, theta: dict[str, Tensor], v: Sequence[Tensor], inputs: Tensor
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


def first_step(
    optimizer: SGD, theta: Sequence[Tensor], gradients: Sequence[Tensor]
) -> list[Tensor]:
    """θ₁ after the first step of SGD, as new leaves; gradients may have further dimensions before.

    Parameters may share a gradient's memory.
    """
    alpha = first_step_size(optimizer)
    decay = 1 - alpha * optimizer.weight_decay
    with torch.no_grad():
        updated = [
            torch.add(value if decay == 1 else value * decay, gradient, alpha=-alpha)
            for value, gradient in zip(theta, gradients, strict=True)
        ]
    return [value.requires_grad_() for value in updated]


def first_step_size(optimizer: SGD) -> float:
    """How far the first optimiser step moves θ per unit of gradient.

    Plain momentum leaves α as it is, Nesterov makes it α(1 + μ); weight decay and dampening do
    not touch the share of M_φ.
    """
    factor = 1 + optimizer.momentum if optimizer.nesterov else 1
    return optimizer.learning_rate * factor


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
