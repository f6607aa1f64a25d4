"""What a run fixes, for all its candidates alike: found once, where the work is done."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from evomal.tasks.data import Data
from evomal.tasks.task import Task
from evomal.training.meta_schedule import MetaSchedule
from evomal.training.raw_outputs import metric_on_few, raw_outputs
from evomal.training.settings import FilterSettings, TrainingSettings, TuningSettings


class Workbench:
    """The tasks of a run and what follows from them, its settings and its seed; one per worker.

    Each part is made when it is first needed. Base learners are not kept, only what makes them
    again; what they support is kept by the tasks themselves.

    Parameters
    ----------
    tasks
        The tasks, on the device where the work is done.
    settings
        The run's settings.
    seed
        The run's seed.
    """

    def __init__(self, tasks: Sequence[Task], settings: TrainingSettings, seed: int) -> None:
        self.tasks = [task.in_precision(settings.precision) for task in tasks]
        self.settings = settings
        self.seed = seed

    @property
    def device(self) -> torch.device:
        """Where the work is done."""
        return self.tasks[0].device

    @property
    def tuning(self) -> TuningSettings:
        """The settings of a method that tunes weights."""
        assert isinstance(self.settings, TuningSettings)
        return self.settings

    @property
    def filtering(self) -> FilterSettings:
        """The settings of a method that filters."""
        assert isinstance(self.settings, FilterSettings)
        return self.settings

    @cached_property
    def schedules(self) -> list[MetaSchedule]:
        """By task, the meta steps of Algorithm 1."""
        return [MetaSchedule(task, self.tuning, self.seed) for task in self.tasks]

    @cached_property
    def raw_outputs(self) -> list[Data]:
        """By task, ŷ of the filters, with targets; not to be changed in place."""
        count = self.filtering.rejection_batch
        return [raw_outputs(task, count, self.seed) for task in self.tasks]

    @cached_property
    def metrics_before(self) -> list[float]:
        """By task, L_P of these raw outputs; NaN where it is undefined."""
        pairs = zip(self.tasks, self.raw_outputs, strict=True)
        return [metric_on_few(task, outputs.inputs, outputs.targets) for task, outputs in pairs]
