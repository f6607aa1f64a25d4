"""The base optimiser of every training: torch's own, with the task's schedule and clipping."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evomal.tasks.optimizers import OptimizerSettings, made_by, scaled_optimizer
from evomal.tasks.schedules import factor_at, is_for_meta_testing_only
from evomal.tasks.task import Task


def at_learning_rate(task: Task, factor: float) -> Task:
    """The same task with a multiple of its learning rate."""
    twin = copy.copy(task)
    twin.optimizer = scaled_optimizer(task.optimizer, factor)
    twin.learning_rate = factor * task.learning_rate
    return twin


def new_optimizer(task: Task, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """The base optimiser of a task for these parameters, at its own learning rate."""
    if isinstance(task.optimizer, OptimizerSettings):
        return task.optimizer.create(parameters, fused=can_be_fused(parameters))
    return made_by(task.optimizer, parameters)


def can_be_fused(parameters: Sequence[Tensor]) -> bool:
    """Whether to use torch's fused optimisers: on CPUs they do not update 16-bit parameters."""
    return all(
        p.device.type == "cuda"
        or (p.device.type == "cpu" and p.dtype in (torch.float32, torch.float64))
        for p in parameters
    )


def rate_factor(task: Task, progress: float, *, meta_testing: bool = False) -> float:
    """The factor of the learning rate by the task's schedule, at this progress of a training.

    `meta_testing` says whether schedules that are for meta-testing only apply.
    """
    schedule = task.schedule
    if schedule is None or (is_for_meta_testing_only(schedule) and not meta_testing):
        return 1.0
    return factor_at(schedule, progress)


class BaseOptimizer:
    """The base optimiser of one training.

    Parameters
    ----------
    task
        Its optimiser, schedule and clipping apply.
    parameters
        Those to train.
    steps
        The steps of the whole training, over which the schedule extends.
    rate
        Factor of every learning rate.
    meta_testing
        Whether schedules that are for meta-testing only apply.
    clip
        Clips the gradients of parameters to a norm: torch's function, or one for stacked learners.
    """

    def __init__(
        self,
        task: Task,
        parameters: Sequence[Tensor],
        steps: int,
        *,
        rate: float = 1.0,
        meta_testing: bool = False,
        clip: Callable[[Sequence[Tensor], float], object] = torch.nn.utils.clip_grad_norm_,
    ) -> None:
        self.optimizer = new_optimizer(task, parameters)
        self._parameters = parameters
        self._steps = steps
        self._clip_norm = task.clip_norm
        self._clip = clip
        self._task = task
        self._meta_testing = meta_testing
        self._rates = [group["lr"] * rate for group in self.optimizer.param_groups]

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad()

    def keep(self, rows: Tensor, parameters: Sequence[Tensor]) -> None:
        """Go on with these rows of stacked parameters, which are in `parameters`."""
        (group,) = self.optimizer.param_groups
        for was, now in zip(self._parameters, parameters, strict=True):
            state = self.optimizer.state.pop(was, {})
            self.optimizer.state[now] = {
                # A count of steps is a tensor () for all learners.
                key: value[rows] if getattr(value, "shape", None) == was.shape else value
                for key, value in state.items()
            }
        group["params"] = self._parameters = list(parameters)

    def step(self, number: int) -> None:
        """The step with this number, from 1, with the gradients of the parameters."""
        progress = (number - 1) / self._steps
        factor = rate_factor(self._task, progress, meta_testing=self._meta_testing)
        for group, own in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = own * factor
        if self._clip_norm is not None:
            self._clip(self._parameters, self._clip_norm)
        self.optimizer.step()
