"""Algorithm 2: ordinary training under any loss, and the metric after it.

The only training loop: of searches, comparisons, examples and benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from evomal.errors import InputError
from evomal.losses.base import Loss
from evomal.seeding import derive_generator, derive_seed, isolated_rng
from evomal.tasks.data import Data
from evomal.tasks.metrics import TensorLoss
from evomal.tasks.parts import Part
from evomal.tasks.task import Task
from evomal.training.halving import LearningCurve, rungs
from evomal.training.numerics import (
    METRIC,
    DivergedError,
    check_deadline,
    draw_batches,
    require_finite,
)
from evomal.training.optimizing import BaseOptimizer

Observer = Callable[[nn.Module], bool | None]
"""Observes a base learner during its training; returning False ends the training."""

NO_OBSERVERS: Mapping[int, Observer] = MappingProxyType({})

_CHECK_EVERY = 25  # training steps; a diverged training is stopped at the next check
_EVALUATION_ROWS = {"cpu": 64, "cuda": 512}  # per forward pass when a metric is computed


def take_steps(
    task: Task, steps: int, stream: Sequence[int | str], step: Callable[[int, Data], bool]
) -> None:
    """The training loop: call `step` with every training batch and its number, from 1.

    Parameters
    ----------
    task
        The task with the training data.
    steps
        Maximum number of steps.
    stream
        Name of the random stream of batches and layers.
    step
        Takes an optimiser step; the loop ends when it returns False.
    """
    rng = derive_generator(*stream, "batches")
    batches = draw_batches(rng, len(task.train), task.batch_size, steps, task.device)
    with isolated_rng(task.device, derive_seed(*stream, "layers")):
        for number, batch in enumerate(task.batches(task.train, batches), start=1):
            check_deadline()
            if not step(number, batch):
                break


def train(
    task: Task,
    loss: TensorLoss,
    steps: int,
    *,
    stream: Sequence[int | str],
    rate: float = 1.0,
    meta_testing: bool = False,
    observers: Mapping[int, Observer] = NO_OBSERVERS,
    started: Callable[[torch.optim.Optimizer], object] = lambda optimizer: None,
) -> nn.Module:
    """Train a fresh base learner for `steps` steps with `loss`.

    Parameters
    ----------
    task
        Data, base learner and base optimiser.
    loss
        Any function of (pred, target); learned and handcrafted losses are interchangeable.
    steps
        Number of optimiser steps.
    stream
        Name of the random stream of θ₀, batches and dropout: equal streams give equal trainings.
    rate
        Factor of the task's learning rate.
    meta_testing
        Whether schedules that are for meta-testing only apply (`evomal.Milestones`).
    observers
        Observers by the number of steps after which each is called, 0 for before the first. They
        may leave the base learner in eval mode.
    started
        Receives the optimiser before the first step.

    Returns
    -------
    nn.Module
        The trained base learner, in train mode.

    Raises
    ------
    DivergedError
        If a loss, prediction or parameter becomes non-finite.
    InputError
        If the loss does not depend on the prediction.
    """
    learner = task.new_model(derive_seed(*stream, "theta"))
    parameters = [p for p in learner.parameters() if p.requires_grad]
    optimizer = BaseOptimizer(task, parameters, steps, rate=rate, meta_testing=meta_testing)
    started(optimizer.optimizer)
    finite = torch.ones((), dtype=torch.bool, device=task.device)

    def goes_on(taken: int) -> bool:
        observer = observers.get(taken)
        if observer is None:
            return True
        verdict = observer(learner)
        learner.train()
        return verdict is not False

    def step(number: int, batch: Data) -> bool:
        pred = task.call(learner, batch.inputs)
        own = own_inputs(task, loss, batch, (number - 1) / steps)
        value = loss(pred, batch.targets, **own)
        if not value.requires_grad:
            raise InputError("The loss does not depend on the prediction, so nothing trains.")
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step(number)
        finite.logical_and_(pred.detach().isfinite().all() & value.detach().isfinite())
        if number % _CHECK_EVERY == 0 or number == steps or number in observers:
            if not finite:
                raise DivergedError("a prediction or the loss")
            require_finite(parameters, "a weight of the model")  # or an earlier gradient
        return goes_on(number)

    if goes_on(0):
        take_steps(task, steps, stream, step)
    return learner


def own_inputs(
    task: Task, loss: TensorLoss, batch: Data, progress: float
) -> dict[str, Tensor | float]:
    """The extra inputs of a loss; none if it is not an evomal loss."""
    if not isinstance(loss, Loss):
        return {}
    given = task.loss_inputs(batch, progress)
    return {name: value for name, value in given.items() if name in loss.inputs}


def performance(task: Task, learner: nn.Module, data: Part) -> float:
    """L_P of a base learner, in eval mode, on a whole data split; lower is better.

    Raises
    ------
    DivergedError
        If a prediction or the metric is not finite.
    """
    pred, target = predictions(task, learner, data)
    with torch.no_grad():
        return finite_metric(task, pred, target)


@torch.no_grad()
def predictions(task: Task, learner: nn.Module, data: Part) -> tuple[Tensor, Tensor]:
    """Raw outputs of a base learner, in eval mode, and targets of a whole data split.

    Raises
    ------
    DivergedError
        If an output is not finite.
    """
    learner.eval()
    pieces: list[Tensor] = []
    targets: list[Tensor] = []
    with isolated_rng(task.device, 0):
        for batch in evaluation_batches(task, data):
            pieces.append(task.call(learner, batch.inputs))
            targets.append(batch.targets)
    pred = torch.cat(pieces)
    require_finite([pred], "a prediction")
    return pred, torch.cat(targets)


def evaluation_batches(task: Task, data: Part) -> Iterator[Data]:
    """The rows of one forward pass after the other, for a metric on a whole data split."""
    count = _EVALUATION_ROWS[task.device.type]
    rows = [slice(start, start + count) for start in range(0, len(data), count)]
    for batch in task.batches(data, rows):
        check_deadline()
        yield batch


def finite_metric(task: Task, pred: Tensor, target: Tensor) -> float:
    """L_P of raw outputs; a random metric gets the same draws at every call.

    It receives copies, because it may work in place.

    Raises
    ------
    DivergedError
        If it is not finite.
    """
    with isolated_rng(task.device, 0):
        value = float(task.metric(pred.clone(), target.clone()))
    if not math.isfinite(value):
        raise DivergedError(METRIC)
    return value


def partial_training(task: Task, loss: TensorLoss, steps: int, seed: int) -> float:
    """L_P on validation data after partial training (Algorithm 2); lower is better.

    The fitness of a loss is the mean over the tasks of a run.

    Parameters
    ----------
    task
        The task; θ₀ and the sequence of batches are the same in the whole run.
    loss
        Any function of (pred, target).
    steps
        S_testing.
    seed
        The run's seed.

    Raises
    ------
    DivergedError
        If the training or its metric is not finite.
    """
    learner = train(task, loss, steps, stream=(seed, "fitness", task.name))
    return performance(task, learner, task.validation)


def halved_training(
    task: Task, loss: TensorLoss, steps: int, seed: int, bars: Sequence[float]
) -> LearningCurve:
    """`partial_training` with evaluations at its rungs; stopped if L_P is above the bar.

    Parameters
    ----------
    task, loss, steps, seed
        As in `partial_training`.
    bars
        One per rung, from `evomal.training.halving.bars`.

    Returns
    -------
    LearningCurve
        L_P at every rung reached, infinite if the metric there is not finite, and at the end if it
        was completed, which is the same as without rungs.

    Raises
    ------
    DivergedError
        If the training or its last metric is not finite.
    """
    curve: list[float] = []

    def goes_on(bar: float, learner: nn.Module) -> bool:
        try:
            curve.append(performance(task, learner, task.validation))
        except DivergedError:
            curve.append(math.inf)
        return curve[-1] <= bar

    observers = {step: partial(goes_on, bar) for step, bar in zip(rungs(steps), bars, strict=True)}
    learner = train(task, loss, steps, stream=(seed, "fitness", task.name), observers=observers)
    if all(value <= bar for value, bar in zip(curve, bars, strict=False)):
        curve.append(performance(task, learner, task.validation))
    return tuple(curve)
