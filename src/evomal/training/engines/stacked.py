"""The stacked engine, for GPUs: all base learners of a group in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from evomal.losses.meta import MetaLoss
from evomal.tasks.task import Task
from evomal.training.engines.base import Engine, EngineName, Training, halved_if_too_large
from evomal.training.engines.loop import trained_in_turn
from evomal.training.halving import LearningCurve
from evomal.training.meta_training import Tuning, tune_group
from evomal.training.numerics import DivergedError
from evomal.training.stack import stacked_training
from evomal.training.support import group_problem
from evomal.training.tuning_state import TuningState


@final
class StackedEngine(Engine):
    """The base learners of a group are stacked along a dimension, under ``torch.vmap``."""

    name: ClassVar[EngineName] = "stacked"
    tunes_in_groups: ClassVar[bool] = True
    trains_together: ClassVar[bool] = True

    @staticmethod
    def problem(task: Task) -> str | None:
        """Why forward-mode products or vmap are not supported by the base learner."""
        return group_problem(task, stacked=True)

    @staticmethod
    def group_sizes(count: int, size: int | None) -> list[int]:
        """Groups of this size, and the remainder."""
        size = size or max(count, 1)
        return [min(size, count - start) for start in range(0, count, size)]

    def train(
        self, losses: Sequence[MetaLoss | None], index: int, bars: Sequence[float] | None = None
    ) -> list[Training]:
        """Train with all losses together, with the task loss separately."""
        own = [loss for loss in losses if loss is not None]
        if len(own) < len(losses):
            return trained_in_turn(self.bench, losses, index, bars)
        bench = self.bench
        task, steps = bench.tasks[index], bench.settings.fitness_steps

        def work(group: Sequence[MetaLoss]) -> list[LearningCurve]:
            return stacked_training(task, group, steps, bench.seed, bars)

        return [Training(curve) for curve in halved_if_too_large(work, own)]

    def _advance(self, tunings: Sequence[Tuning]) -> list[TuningState | DivergedError]:
        """Tune all losses together."""
        return tune_group(self.bench, tunings, stacked=True)
