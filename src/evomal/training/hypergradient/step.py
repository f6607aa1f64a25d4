"""One meta step of Algorithm 1: a fresh base learner, its batches, and its first optimiser step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evomal.losses.meta import MetaLoss
from evomal.seeding import derive_seed, isolated_rng
from evomal.tasks.data import Data
from evomal.tasks.optimizers import SGD
from evomal.tasks.task import Task

ON_THE_WAY = "a prediction", "the loss", "a gradient"
"""How a `DivergedError` names what a training step of a meta step computes."""

JUDGED = "a prediction after the step", "the task loss after the step", "the hypergradient"
"""How it names what comes after."""


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
