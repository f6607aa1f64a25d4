"""The metric of a task and those reported beside it, as people read them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evomal.seeding import isolated_rng
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.direction import own_value
from evomal.tasks.metrics import PerformanceMetric
from evomal.tasks.task import Task
from evomal.training.loop import finite_metric
from evomal.training.numerics import is_out_of_memory


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
