"""The fitness of the task loss itself, with which that of losses is compared."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from evomal.errors import InputError
from evomal.runs.dispatch import Dispatcher
from evomal.runs.executors import WorkError
from evomal.runs.work import train_candidates
from evomal.training.engines.base import Training


class OwnFitness(NamedTuple):
    """The mean fitness of the task losses; None if one diverges, with the reason."""

    fitness: float | None
    reason: str | None


def task_loss_fitness(
    dispatcher: Dispatcher, tasks: Sequence[str], rates: Sequence[float] = ()
) -> OwnFitness:
    """Train with the task loss itself on every task.

    `tasks` are their names, and `rates` factors of their learning rates; empty for their own.

    Raises
    ------
    InputError
        If a task cannot be trained with its own loss.
    """
    trainings: dict[int, Training] = {}
    waiting = deque(range(len(tasks)))
    while len(trainings) < len(tasks):
        while waiting and dispatcher.has_room:
            index = waiting.popleft()
            dispatcher.start(index, train_candidates, [None], index, None, rates)
        for index, result in dispatcher.finished():
            if isinstance(result, WorkError):
                raise cannot_train(tasks[index], result) from result
            (trainings[index],) = result
    found = [trainings[index] for index in range(len(trainings))]
    mean = sum(training.curve[-1] for training in found) / len(found)
    reason = next((training.reason for training in found if training.reason), None)
    return OwnFitness(mean if math.isfinite(mean) else None, reason)


def cannot_train(task: str, error: WorkError) -> InputError:
    """The error for a task that cannot be trained with its own loss."""
    return InputError(f"The task {task!r} cannot be trained with its own loss: {error}.")
