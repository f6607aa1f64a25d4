"""The two pieces of work on candidates, as executors call them: functions of tasks and losses."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from evomal.losses.meta import MetaLoss
from evomal.seeding import kept_rng
from evomal.tasks.metrics import TensorLoss
from evomal.tasks.precision import products_in
from evomal.tasks.task import Task
from evomal.training.halving import Curve
from evomal.training.numerics import DivergedError
from evomal.training.screening import Screening, screen
from evomal.training.settings import EvaluationSettings
from evomal.training.stacked import partial_training_stacked
from evomal.training.stages import TRAINING, diverged, stage
from evomal.training.training import halved_training, partial_training


class Training(NamedTuple):
    """A loss's partial training on one task.

    Attributes
    ----------
    curve
        L_P at its rungs, if it had any, and at its end, if it was not stopped before; the last one
        is infinite if it diverged.
    seconds
        Wall-clock time.
    reason
        Why it diverged, if that is known.
    """

    curve: Curve
    seconds: float
    reason: str | None = None


def screen_candidates(
    tasks: Sequence[Task],
    losses: Sequence[MetaLoss],
    settings: EvaluationSettings,
    seed: int,
    optimize: bool,
    filters: bool,
) -> list[Screening]:
    """Work for an executor: `screen`."""
    tasks = [task.in_precision(settings.precision) for task in tasks]
    with kept_rng(), products_in(settings.precision):
        return screen(losses, tasks, settings, seed, optimize=optimize, filters=filters)


def train_candidates(
    tasks: Sequence[Task],
    losses: Sequence[MetaLoss | None],
    settings: EvaluationSettings,
    seed: int,
    index: int,
    bars: Sequence[float] | None = None,
) -> list[Training]:
    """Work for an executor: the training of every loss, None being the task's, on one task.

    With `bars`, a training is judged at its rungs (`evomal.training.halving`).
    """
    start = time.perf_counter()
    task = tasks[index].in_precision(settings.precision)
    own = [loss for loss in losses if loss is not None]
    with kept_rng(), products_in(settings.precision), stage(TRAINING):
        if settings.engine == "stacked" and len(own) == len(losses):
            curves = partial_training_stacked(task, own, settings.testing_steps, seed, bars)
            found = [Training(curve, 0.0) for curve in curves]
        else:
            found = [_train(task, loss or task.task_loss, settings, seed, bars) for loss in losses]
    seconds = (time.perf_counter() - start) / len(losses)
    return [training._replace(seconds=seconds) for training in found]


def _train(
    task: Task,
    loss: TensorLoss,
    settings: EvaluationSettings,
    seed: int,
    bars: Sequence[float] | None,
) -> Training:
    steps = settings.testing_steps
    try:
        if bars is None:
            return Training((partial_training(task, loss, steps, seed),), 0.0)
        return Training(halved_training(task, loss, steps, seed, bars), 0.0)
    except DivergedError as error:
        return Training((math.inf,), 0.0, diverged(TRAINING, error))
