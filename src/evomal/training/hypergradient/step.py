"""One meta step of Algorithm 1: a base learner, its batches, and its base optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from evomal.losses.meta import MetaLoss
from evomal.seeding import derive_seed, isolated_rng
from evomal.tasks.data import Data
from evomal.tasks.inputs import Inputs, mapped
from evomal.tasks.optimizers import OptimizerSettings
from evomal.tasks.task import Task
from evomal.training.hypergradient.optimizer_step import OptimizerStep, State

ON_THE_WAY = "a prediction", "the loss", "a gradient"
"""Names in a `DivergedError` of values in a training step of a meta step."""

JUDGED = "a prediction after the step", "the task loss after the step", "the hypergradient"
"""Names of later values."""


@dataclass(frozen=True)
class MetaStep:
    """The part of a meta step that belongs to one task, the same for every candidate.

    Attributes
    ----------
    learner
        The base learner with θ₀, in train mode.
    training
        One preprocessed batch (inputs, targets) per base step.
    judging
        The batch on which L_T evaluates the updated learner.
    seed
        Seed of the learner's randomness, such as dropout.
    progress
        Fraction of the training completed, for losses that depend on it. Drawn for every meta
        step if its learner is fresh, because its own progress would always be 0.
    spoils_inputs
        Whether the learner changes its inputs in place, so that `call` must pass a copy: batches
        are read more than once.
    states
        The optimiser's state of every trainable parameter by name; empty if the learner is fresh.
    rate
        Factor of the learning rate.
    """

    task: Task
    learner: nn.Module
    training: Sequence[Data]
    judging: Data
    seed: int
    progress: float = 0.0
    spoils_inputs: bool = False
    states: Mapping[str, State] = field(default_factory=dict)
    rate: float = 1.0

    @property
    def optimizer(self) -> OptimizerStep:
        """A step of the base optimiser."""
        settings = self.task.optimizer
        assert isinstance(settings, OptimizerSettings)  # weights are not learned with others
        rate = settings.learning_rate * self.rate
        return OptimizerStep(settings, rate, self.task.clip_norm)

    def value(self, loss: MetaLoss, pred: Tensor, batch: Data, phi: Tensor) -> Tensor:
        """The loss of raw outputs for a training batch, differentiable in φ as well."""
        inputs = self.task.loss_inputs(batch, self.progress)
        return loss.evaluate(pred, batch.targets, phi, inputs)

    def parameters(self) -> dict[str, Tensor]:
        """θ₀: the trainable parameters by name."""
        return dict(self._theta)

    @cached_property
    def _theta(self) -> dict[str, Tensor]:
        # Copied once: ``functional_call`` does not restore a module that occurs twice.
        return {name: p for name, p in self.learner.named_parameters() if p.requires_grad}

    def buffers(self) -> dict[str, Tensor]:
        """Copies of the learner's buffers by name, which `call` may change."""
        return {name: b.clone() for name, b in self.learner.named_buffers()}

    def call(
        self, theta: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Inputs
    ) -> Tensor:
        """The learner's outputs with other parameters; it changes `buffers`, not the learner."""
        inputs = mapped(torch.clone, inputs) if self.spoils_inputs else inputs
        return self.task.call(self.learner, inputs, {**theta, **buffers})

    def judgement(self, pred: Tensor) -> Tensor:
        """L_T of an updated learner's outputs for the evaluation batch.

        It receives a copy of the targets, because it may work in place and they are used again.
        """
        with self.rng("task loss"):
            return self.task.task_loss(pred, self.judging.targets.clone())

    def rng(
        self, part: Literal["training", "judging", "task loss"]
    ) -> AbstractContextManager[None]:
        """Seeds random draws in one part of the meta step: the learner, or a user's task loss."""
        return isolated_rng(self.task.device, derive_seed(self.seed, part))
