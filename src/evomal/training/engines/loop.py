"""The loop engine: one loss at a time, the reference for the other engines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, final

from evomal.losses.meta import MetaLoss
from evomal.tasks.metrics import TensorLoss
from evomal.tasks.task import Task
from evomal.training.engines.base import Engine, EngineName, Training
from evomal.training.loop import halved_training, partial_training
from evomal.training.meta_training import Tuning, tune_alone
from evomal.training.numerics import DivergedError
from evomal.training.stages import TRAINING, diverged
from evomal.training.tuning_state import TuningState
from evomal.training.workbench import Workbench


@final
class LoopEngine(Engine):
    """One loss at a time; supports every base learner that can be trained."""

    name: ClassVar[EngineName] = "loop"
    tunes_in_groups: ClassVar[bool] = False
    trains_together: ClassVar[bool] = False

    @staticmethod
    def problem(task: Task) -> None:
        """None, because it needs only ordinary steps."""

    @staticmethod
    def group_sizes(count: int, size: int | None) -> list[int]:
        """Groups of one."""
        return [1] * count

    def train(
        self, losses: Sequence[MetaLoss | None], index: int, bars: Sequence[float] | None = None
    ) -> list[Training]:
        """Train one loss at a time."""
        return trained_in_turn(self.bench, losses, index, bars)

    def _advance(self, tunings: Sequence[Tuning]) -> list[TuningState | DivergedError]:
        """Tune one loss at a time."""
        return [self._tuned(tuning) for tuning in tunings]

    def _tuned(self, tuning: Tuning) -> TuningState | DivergedError:
        try:
            return tune_alone(self.bench, tuning)
        except DivergedError as error:
            return error.with_traceback(None)  # because it keeps tensors alive


def trained_in_turn(
    bench: Workbench, losses: Sequence[MetaLoss | None], index: int, bars: Sequence[float] | None
) -> list[Training]:
    """The partial training with every loss, one at a time; None means the task loss."""
    task = bench.tasks[index]
    return [_trained(bench, task, loss or task.task_loss, bars) for loss in losses]


def _trained(
    bench: Workbench, task: Task, loss: TensorLoss, bars: Sequence[float] | None
) -> Training:
    steps, seed = bench.settings.fitness_steps, bench.seed
    try:
        if bars is None:
            return Training((partial_training(task, loss, steps, seed),))
        return Training(halved_training(task, loss, steps, seed, bars))
    except DivergedError as error:
        return Training((math.inf,), reason=diverged(TRAINING, error))
