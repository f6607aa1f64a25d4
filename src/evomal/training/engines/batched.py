"""The batched engine, for CPUs: groups share meta steps; losses are trained one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from evomal.losses.meta import MetaLoss
from evomal.tasks.task import Task
from evomal.training.engines.base import Engine, EngineName, Training
from evomal.training.engines.loop import trained_in_turn
from evomal.training.meta_training import Tuning, tune_group
from evomal.training.numerics import DivergedError
from evomal.training.support import group_problem
from evomal.training.tuning_state import TuningState

TAPER = 3
"""A group has at most one in this many of the remaining losses, so that workers do not wait long
for each other."""


@final
class BatchedEngine(Engine):
    """A group of losses shares base learners, batches and forward passes of the meta steps."""

    name: ClassVar[EngineName] = "batched"
    tunes_in_groups: ClassVar[bool] = True
    trains_together: ClassVar[bool] = False

    @staticmethod
    def problem(task: Task) -> str | None:
        """Why forward-mode products are not supported by the base learner."""
        return group_problem(task, stacked=False)

    @staticmethod
    def group_sizes(count: int, size: int | None) -> list[int]:
        """Groups of this size, the last ones smaller."""
        sizes: list[int] = []
        while count:
            sizes.append(min(size or count, -(-count // TAPER)))
            count -= sizes[-1]
        return sizes

    def train(
        self, losses: Sequence[MetaLoss | None], index: int, bars: Sequence[float] | None = None
    ) -> list[Training]:
        """Train one loss at a time."""
        return trained_in_turn(self.bench, losses, index, bars)

    def _advance(self, tunings: Sequence[Tuning]) -> list[TuningState | DivergedError]:
        """Tune all losses together."""
        return tune_group(self.bench, tunings, stacked=False)
