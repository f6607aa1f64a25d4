"""Partial training of several learners in one pass: for GPUs, which a small network leaves idle.

The learners differ only in their parameters and buffers, so these are stacked along a first
dimension, and ``torch.vmap`` runs the network on all of them. They see the same batches and dropout
masks as in separate trainings. `train` is the reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import vmap

from evomal.losses.meta import MetaLoss
from evomal.seeding import derive_seed, isolated_rng
from evomal.tasks.data import Data
from evomal.tasks.inputs import Inputs
from evomal.tasks.task import Task
from evomal.training.halving import LearningCurve, rungs
from evomal.training.loop import evaluation_batches, finite_metric, own_inputs, take_steps
from evomal.training.numerics import (
    DivergedError,
    finite_rows,
    quiet_vmap,
    require_finite,
)
from evomal.training.optimizing import BaseOptimizer


def stacked_training(
    task: Task,
    losses: Sequence[MetaLoss],
    steps: int,
    seed: int,
    bars: Sequence[float] | None = None,
) -> list[LearningCurve]:
    """`partial_training` of every loss, up to rounding; infinite for a training that diverges.

    With `bars`, each is evaluated at its rungs as in `halved_training`, and stopped trainings leave
    the stack.
    """
    with quiet_vmap():
        return Stack(task, losses, steps, seed).train(bars)


class Stack:
    """The learners of a group in training."""

    def __init__(self, task: Task, losses: Sequence[MetaLoss], steps: int, seed: int) -> None:
        self.task = task
        self.steps = steps
        self.losses = list(losses)
        self.stream = (seed, "fitness", task.name)
        self.learner = task.new_model(derive_seed(*self.stream, "theta"))
        count = len(losses)
        self.theta = {
            name: torch.stack([p.detach()] * count).requires_grad_()
            for name, p in self.learner.named_parameters()
            if p.requires_grad
        }
        self.buffers = {name: torch.stack([b] * count) for name, b in self.learner.named_buffers()}
        self.optimizer = BaseOptimizer(task, self._trained(), steps, clip=clip_rows)
        self.finite = torch.ones(count, dtype=torch.bool, device=task.device)

    def train(self, bars: Sequence[float] | None) -> list[LearningCurve]:
        """Train; return the curve of every learner."""
        steps = self.steps
        curves: list[list[float]] = [[] for _ in self.losses]
        places = list(range(len(curves)))  # indices of the learners in the stack
        bar_at = {} if bars is None else dict(zip(rungs(steps), bars, strict=True))

        def step(number: int, batch: Data) -> bool:
            nonlocal places
            self._step(number, batch)
            if number not in bar_at and number != steps:
                return True
            for place, value in zip(places, self._performances(), strict=True):
                curves[place].append(value)
            bar = bar_at.get(number, math.inf)
            on = [i for i, place in enumerate(places) if curves[place][-1] <= bar]
            if on and len(on) < len(places):
                self._keep(on)
                places = [places[i] for i in on]
            return bool(on)

        take_steps(self.task, steps, self.stream, step)
        return [tuple(curve) for curve in curves]

    def _outputs(self, inputs: Inputs) -> Tensor:
        return stacked_outputs(self.task, self.learner, self.theta, self.buffers, inputs)

    def _trained(self) -> list[Tensor]:
        return list(self.theta.values())

    def _step(self, number: int, batch: Data) -> None:
        """One training step of all learners."""
        progress = (number - 1) / self.steps
        preds = self._outputs(batch.inputs)
        values = torch.stack(
            [
                loss(pred, batch.targets, **own_inputs(self.task, loss, batch, progress))
                for loss, pred in zip(self.losses, preds, strict=True)
            ]
        )
        self.optimizer.zero_grad()
        values.sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step(number)
        self.finite &= finite_rows([preds, values])

    def _keep(self, places: Sequence[int]) -> None:
        """Remove all other learners from the stack."""
        self.losses = [self.losses[i] for i in places]
        rows = torch.tensor(places, dtype=torch.long, device=self.task.device)
        self.finite = self.finite[rows]
        self.buffers = {name: b[rows] for name, b in self.buffers.items()}
        self.theta = {name: p.detach()[rows].requires_grad_() for name, p in self.theta.items()}
        self.optimizer.keep(rows, self._trained())

    @torch.no_grad()
    def _performances(self) -> list[float]:
        """L_P of every learner, in eval mode, on validation data; infinite if it diverged."""
        task = self.task
        finite = (self.finite & finite_rows(self._trained())).tolist()
        self.learner.eval()
        pieces: list[Tensor] = []
        targets: list[Tensor] = []
        with isolated_rng(task.device, 0):
            for batch in evaluation_batches(task, task.validation):
                pieces.append(self._outputs(batch.inputs))
                targets.append(batch.targets)
        self.learner.train()
        target = torch.cat(targets)
        return [
            self._metric(pred, target) if is_finite else math.inf
            for pred, is_finite in zip(torch.cat(pieces, dim=1), finite, strict=True)
        ]

    def _metric(self, pred: Tensor, target: Tensor) -> float:
        try:
            require_finite([pred])
            return finite_metric(self.task, pred, target)
        except DivergedError:
            return math.inf


def clip_rows(parameters: Sequence[Tensor], clip_norm: float) -> None:
    """``torch.nn.utils.clip_grad_norm_`` for every learner of a stack, parameters (P, …)."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    norms = torch.stack([g.flatten(1).norm(dim=1) if g.ndim > 1 else g.abs() for g in gradients])
    factors = (clip_norm / (norms.norm(dim=0) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))


def stacked_outputs(
    task: Task,
    learner: nn.Module,
    theta: dict[str, Tensor],
    buffers: dict[str, Tensor],
    inputs: Inputs,
) -> Tensor:
    """Raw outputs of every learner, shape (P, B, …); buffers change in place."""

    def call(own: dict[str, Tensor], state: dict[str, Tensor]) -> Tensor:
        return task.call(learner, inputs, {**own, **state})

    outputs: Tensor = vmap(call, randomness="same")(theta, buffers)
    return outputs
