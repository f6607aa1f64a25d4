"""Trainings on fresh seeds: they tune the recipe of a search, and confirm the losses it found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from evomal.losses.base import Loss
from evomal.seeding import derive_generator
from evomal.tasks.metrics import TensorLoss
from evomal.tasks.optimizers import SGD
from evomal.tasks.task import Task
from evomal.training.loop import predictions, train
from evomal.training.numerics import DivergedError, check_deadline
from evomal.training.raw_outputs import (
    metric_on_few,
    output_gradient,
    raw_outputs,
    task_loss_gradient,
)
from evomal.training.scale_matching import LEAST, MOST

PATIENCE = 0.4
"""Share of the steps without a better metric after which a training ends: early stopping."""

_ROWS = 100
"""Training rows at whose untrained outputs the gradients of losses are compared."""


@dataclass(frozen=True)
class Retraining:
    """A training to do, the same for every loss.

    Attributes
    ----------
    stage, seed
        Name the random stream of θ₀ and batches.
    factor
        Of the learning rate.
    steps
        Those of the whole training, over which a schedule extends.
    checkpoints
        Numbers of steps, in order, after which the metric is computed; it ends after the last one.
    matched
        Whether the factor is relative to the learning rate at which the gradient of the loss at
        untrained outputs is as large as that of the task loss.
    stops_early
        Whether it ends when the metric has not improved for long (`PATIENCE`).
    resamples
        Number of random samples of the validation rows, with replacement, on which the metric is
        computed at the end, too.
    meta_testing
        Whether schedules that are for meta-testing only apply.
    """

    stage: str
    seed: int
    factor: float
    steps: int
    checkpoints: tuple[int, ...]
    matched: bool = False
    stops_early: bool = False
    resamples: int = 0
    meta_testing: bool = True


@dataclass(frozen=True)
class Retrained:
    """What came of it; lower is better.

    Attributes
    ----------
    curve
        L_P on validation data at the checkpoints reached; None where the metric is undefined.
        Empty if the training diverged.
    factor
        Of the learning rate, relative to the task's.
    resampled
        L_P on the random samples of rows; None where it is undefined.
    """

    curve: tuple[float | None, ...]
    factor: float
    resampled: tuple[float | None, ...] = ()

    @property
    def values(self) -> list[float]:
        """The curve, with infinity where the metric is undefined."""
        return [math.inf if value is None else value for value in self.curve]

    @property
    def last(self) -> float:
        """The value at the end; infinite if there is none."""
        return next(reversed(self.values), math.inf)


def retrain(task: Task, loss: Loss | None, todo: Retraining, seed: int) -> Retrained:
    """Train once; None means the task loss, and `seed` is that of the run."""
    chosen: TensorLoss = task.task_loss if loss is None else loss
    factor = todo.factor
    if todo.matched and loss is not None:
        factor *= matching_factor(task, loss, seed)
    curve: list[float] = []
    patience = max(1, math.ceil(PATIENCE * len(todo.checkpoints)))

    def evaluate(learner: nn.Module) -> bool:
        pred, target = predictions(task, learner, task.validation)
        value = metric_on_few(task, pred, target)
        curve.append(value if math.isfinite(value) else math.inf)
        waited = len(curve) - 1 - curve.index(min(curve))
        is_last = len(curve) == len(todo.checkpoints)
        return not is_last and not (todo.stops_early and waited >= patience)

    try:
        learner = train(
            task,
            chosen,
            todo.steps,
            stream=(seed, todo.stage, task.name, todo.seed),
            rate=factor,
            meta_testing=todo.meta_testing,
            observers=dict.fromkeys(todo.checkpoints, evaluate),
        )
    except DivergedError:
        return Retrained((), factor)
    resampled = _resampled(task, learner, todo.resamples, seed) if todo.resamples else []
    kept = (value if math.isfinite(value) else None for value in curve)
    return Retrained(tuple(kept), factor, tuple(resampled))


def matching_factor(task: Task, loss: Loss, seed: int) -> float:
    """The factor of the learning rate that makes up for the size of a loss's gradient.

    With it, the gradient at the outputs of an untrained learner counts as much as that of the task
    loss. 1 for optimisers whose steps do not depend on the scale of gradients.
    """
    if not isinstance(task.optimizer, SGD):
        return 1.0
    outputs = raw_outputs(task, _ROWS, seed)
    own = float(output_gradient(loss, outputs, task.loss_inputs(outputs, 0.0))[1].norm())
    ratio = task_loss_gradient(task, outputs, seed) / own if own else math.inf
    return ratio if LEAST < ratio < MOST else 1.0


@torch.no_grad()
def _resampled(task: Task, learner: nn.Module, count: int, seed: int) -> list[float | None]:
    """L_P on the same random samples of validation rows for every loss."""
    pred, target = predictions(task, learner, task.validation)
    rng = derive_generator(seed, "resampled rows", task.name)
    found: list[float | None] = []
    for _ in range(count):
        check_deadline()
        rows = torch.from_numpy(rng.integers(len(target), size=len(target))).to(pred.device)
        value = metric_on_few(task, pred[rows], target[rows])
        found.append(value if math.isfinite(value) else None)
    return found
