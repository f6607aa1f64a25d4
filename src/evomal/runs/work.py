"""The two pieces of work on candidates, as executors call them: functions of tasks and losses."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from evomal.losses.base import Loss
from evomal.tasks.metrics import TensorLoss
from evomal.tasks.precision import products_in
from evomal.tasks.task import Task
from evomal.training.numerics import DivergedError
from evomal.training.screening import Screening, screen
from evomal.training.settings import EvaluationSettings
from evomal.training.stacked import partial_training_stacked
from evomal.training.training import partial_training


def screen_candidates(
    tasks: Sequence[Task],
    losses: Sequence[Loss],
    settings: EvaluationSettings,
    seed: int,
    optimize: bool,
    filters: bool,
) -> list[Screening]:
    """Work for an executor: `screen`."""
    tasks = [task.in_precision(settings.precision) for task in tasks]
    with products_in(settings.precision):
        return screen(losses, tasks, settings, seed, optimize=optimize, filters=filters)


def train_candidates(
    tasks: Sequence[Task],
    losses: Sequence[Loss | None],
    settings: EvaluationSettings,
    seed: int,
    index: int,
) -> list[tuple[float, float]]:
    """Work for an executor: of every loss, None being the task's, L_P on one task, and its seconds.

    L_P is infinite if the training diverges.
    """
    start = time.perf_counter()
    task = tasks[index].in_precision(settings.precision)
    own = [loss for loss in losses if loss is not None]
    with products_in(settings.precision):
        if settings.engine == "stacked" and len(own) == len(losses):
            values = partial_training_stacked(task, own, settings.testing_steps, seed)
        else:
            values = [_fitness(task, loss or task.task_loss, settings, seed) for loss in losses]
    seconds = (time.perf_counter() - start) / len(losses)
    return [(value, seconds) for value in values]


def _fitness(task: Task, loss: TensorLoss, settings: EvaluationSettings, seed: int) -> float:
    try:
        return partial_training(task, loss, settings.testing_steps, seed)
    except DivergedError:
        return math.inf
