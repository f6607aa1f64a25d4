"""The small tuning that every loss of a comparison gets: learning rate and number of steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from evomal.tasks.direction import own_value
from evomal.tasks.metrics import TensorLoss
from evomal.tasks.task import Task
from evomal.training.loop import train
from evomal.training.numerics import DivergedError
from evomal.training.reporting import measured

Tunable = Literal["learning-rate", "steps"]

LEARNING_RATE_FACTORS = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Factors of the task's learning rate to try when tuning it."""

TUNING_SEEDS = 2
"""Trainings for each learning rate."""

CHECKPOINTS = 10
"""Evenly spaced numbers of steps at which a training is evaluated when tuning them."""


@dataclass(frozen=True)
class Recipe:
    """How a base learner is trained.

    Attributes
    ----------
    learning_rate
        Of the base optimiser.
    steps
        Training steps taken. A schedule extends over all steps of the task or comparison, so that
        fewer steps end it early.
    """

    learning_rate: float
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Grid:
    """What a tuning tries: the same for every loss.

    Attributes
    ----------
    factors
        Of the learning rate.
    checkpoints
        Numbers of steps, in order; the last one is that of the whole training.
    """

    factors: Sequence[float]
    checkpoints: Sequence[int]

    @classmethod
    def of(cls, tune: Collection[Tunable], steps: int) -> Grid:
        """The grid for what is to be tuned, in a training of at most so many steps."""
        parts = CHECKPOINTS if "steps" in tune else 1
        return cls(
            LEARNING_RATE_FACTORS if "learning-rate" in tune else (1.0,),
            sorted({math.ceil(steps * part / parts) for part in range(1, parts + 1)}),
        )

    @property
    def trainings(self) -> int:
        """Number of trainings for one loss."""
        return TUNING_SEEDS * len(self.factors)


def tuned(
    task: Task,
    loss: TensorLoss,
    grid: Grid,
    report: Callable[[float, int, float | None], None],
) -> tuple[float, int] | None:
    """The factor of the learning rate and the steps with the best mean validation metric.

    Every learning rate is trained once per tuning seed, and evaluated at all checkpoints on the
    way. One at which any training diverges is out. Equal means go to the factor that is closest to
    1, then to more steps.

    Parameters
    ----------
    task, loss
        What to train.
    grid
        What to try.
    report
        Called after every training with the factor, the seed, and the best metric on the way, in
        its own direction; None if it diverged.

    Returns
    -------
    tuple[float, int] | None
        None if every learning rate is out.
    """
    means: dict[tuple[float, int], float] = {}
    for factor in grid.factors:
        curves = []
        for seed in range(TUNING_SEEDS):
            curve = _validation_curve(task, loss, grid, factor, seed)
            best = None if curve is None else min(curve)
            report(factor, seed, own_value(best, task.performance_metric.direction))
            if curve is not None:
                curves.append(curve)
        if len(curves) == TUNING_SEEDS:
            at_checkpoints = map(statistics.fmean, zip(*curves, strict=True))
            for steps, mean in zip(grid.checkpoints, at_checkpoints, strict=True):
                means[factor, steps] = mean
    return min(means, key=lambda one: (means[one], abs(math.log(one[0])), -one[1]), default=None)


def _validation_curve(
    task: Task, loss: TensorLoss, grid: Grid, factor: float, seed: int
) -> list[float] | None:
    """L_P on validation data at every checkpoint, lower is better; None if anything diverges."""
    curve: list[float] = []

    def evaluate(learner: nn.Module) -> None:
        value = own_value(
            measured(task, learner, "validation")[0], task.performance_metric.direction
        )
        assert value is not None
        curve.append(value)

    try:
        train(
            task,
            loss,
            grid.checkpoints[-1],
            stream=(seed, "tuning", task.name),
            rate=factor,
            meta_testing=True,
            observers=dict.fromkeys(grid.checkpoints, evaluate),
        )
    except DivergedError:
        return None
    return curve
