"""The data shared by all candidates of a run, computed once per worker."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from evomal.tasks.data import Data
from evomal.tasks.task import Task
from evomal.training.meta_schedule import MetaSchedule
from evomal.training.optimizing import at_learning_rate
from evomal.training.raw_outputs import metric_on_few, raw_outputs, task_loss_gradient
from evomal.training.settings import FilterSettings, TrainingSettings, TuningSettings


class Workbench:
    """The tasks, settings and seed of a run, and data derived from them; one per worker.

    Each part is computed when it is first needed. Base learners are recreated, not stored; what
    they support is cached by the tasks.

    Parameters
    ----------
    tasks
        The tasks, on the device of the worker.
    settings
        The run's settings.
    seed
        The run's seed.
    """

    def __init__(self, tasks: Sequence[Task], settings: TrainingSettings, seed: int) -> None:
        self.tasks = [task.in_precision(settings.precision) for task in tasks]
        self.settings = settings
        self.seed = seed
        self._at_rates: tuple[tuple[float, ...], Workbench] | None = None

    def at_rates(self, factors: Sequence[float]) -> Workbench:
        """The same with a factor of the learning rate of every task; kept for the next call."""
        if all(factor == 1.0 for factor in factors):
            return self
        if self._at_rates is None or self._at_rates[0] != tuple(factors):
            tasks = [at_learning_rate(*pair) for pair in zip(self.tasks, factors, strict=True)]
            self._at_rates = tuple(factors), Workbench(tasks, self.settings, self.seed)
        return self._at_rates[1]

    @property
    def device(self) -> torch.device:
        """The device of the worker."""
        return self.tasks[0].device

    @property
    def tuning(self) -> TuningSettings:
        """The settings of a method that tunes weights."""
        assert isinstance(self.settings, TuningSettings)
        return self.settings

    @property
    def filtering(self) -> FilterSettings:
        """The settings of a method with filters."""
        assert isinstance(self.settings, FilterSettings)
        return self.settings

    @cached_property
    def schedules(self) -> list[MetaSchedule]:
        """The meta steps of Algorithm 1 for each task."""
        return [MetaSchedule(task, self.tuning, self.seed) for task in self.tasks]

    @cached_property
    def raw_outputs(self) -> list[Data]:
        """ŷ of the filters for each task, with targets; not to be changed in place."""
        count = self.filtering.rejection_batch
        return [raw_outputs(task, count, self.seed) for task in self.tasks]

    @cached_property
    def metrics_before(self) -> list[float]:
        """L_P of these raw outputs for each task; NaN if undefined."""
        pairs = zip(self.tasks, self.raw_outputs, strict=True)
        return [metric_on_few(task, outputs.inputs, outputs.targets) for task, outputs in pairs]

    @cached_property
    def task_loss_gradient(self) -> float:
        """Norm of the task loss's gradient at these raw outputs, summed over the tasks."""
        pairs = zip(self.tasks, self.raw_outputs, strict=True)
        return sum(task_loss_gradient(task, outputs, self.seed) for task, outputs in pairs)
