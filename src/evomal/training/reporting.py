"""The metric of a task and those reported beside it, as people read them."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from evomal.errors import InputError, named
from evomal.seeding import isolated_rng
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.direction import own_value
from evomal.tasks.metrics import PerformanceMetric
from evomal.tasks.task import Task
from evomal.training.loop import finite_metric, predictions
from evomal.training.numerics import DivergedError, is_out_of_memory


def measured(
    task: Task, learner: nn.Module, part: Literal["validation", "test"]
) -> list[float | None]:
    """`own_values` of a base learner on a whole data split.

    Raises
    ------
    DivergedError
        If an output or the metric of the task is not finite.
    InputError
        If the metric of the task fails there.
    """
    data = task.test if part == "test" else task.validation
    assert data is not None
    pred, target = predictions(task, learner, data)
    try:
        return own_values(task, pred, target)
    except (DivergedError, InputError):
        raise
    except OWN_CODE_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"The metric {task.performance_metric.name} of {task.name!r} fails on the {part} data "
            f"({named(error)}); choose a metric that is defined there, or another split of the "
            "rows, such as one in which every part has all classes."
        ) from error


@torch.no_grad()
def own_values(task: Task, pred: Tensor, target: Tensor) -> list[float | None]:
    """The metric of raw outputs, then the reported ones, each in its own direction.

    None for a reported one that fails or is not finite on these rows.

    Raises
    ------
    DivergedError
        If the metric of the task is not finite.
    """
    fitness = finite_metric(task, pred, target)
    others = [_value(task, metric, pred, target) for metric in task.report]
    return [own_value(fitness, task.performance_metric.direction), *others]


def _value(task: Task, metric: PerformanceMetric, pred: Tensor, target: Tensor) -> float | None:
    try:
        with isolated_rng(task.device, 0):
            value = float(metric.function(pred.clone(), target.clone()))
    except OWN_CODE_ERRORS as error:
        if is_out_of_memory(error):
            raise
        return None
    return value if math.isfinite(value) else None
