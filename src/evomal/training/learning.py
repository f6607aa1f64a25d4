"""Whether a base learner learns under the task loss, and at which learning rate it learns best."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from evomal.tasks.task import Task
from evomal.training.loop import performance, train
from evomal.training.numerics import DivergedError
from evomal.training.trial import ROWS

RATES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Factors of the task's learning rate to try."""

MOST = 8
"""Maximum number of factors; beyond those above, others are tried if the best is the last one."""

FEWEST = 10
"""Minimum number of steps from which anything is concluded."""

_SHARE = 0.5
"""Of the time, for the training with the task's own learning rate."""

_SLOW = 1.0
"""Seconds; a step that probably takes longer is timed on a few rows only."""


@dataclass(frozen=True)
class Learning:
    """Validation metrics of short trainings with the task loss; None for one that diverged.

    Attributes
    ----------
    step_seconds
        Seconds of a training step on this machine.
    steps
        Steps of the training with the task's own learning rate: fewer than asked for if these
        take too long, and 0 if nothing can be learned in the time.
    value, untrained
        The metric after these steps, and before the first; lower is better.
    trial_steps
        Steps of the trainings with other learning rates; 0 if there is no time.
    values
        The metric after these, by factor of the task's learning rate.
    """

    step_seconds: float
    steps: int = 0
    value: float | None = None
    untrained: float | None = None
    trial_steps: int = 0
    values: Mapping[float, float | None] = field(default_factory=dict)

    @property
    def best_factor(self) -> float | None:
        """The factor with the best metric, the nearest to 1 of equal ones; None if unknown.

        A lower rate if the training with the task's own diverged: others may do so later.
        """
        diverged = self.steps > 0 and self.value is None
        known = {f: value for f, value in self.values.items() if f < 1 or not diverged}
        return best_factor(known)


def learning(task: Task, steps: int, seconds: float) -> Learning:
    """Train with the task loss at several learning rates, as in a search with the seed 0.

    Parameters
    ----------
    task
        The task.
    steps
        S_testing.
    seconds
        About how long it may take.
    """
    step = seconds_per_step(task)
    judging = step / 3 * len(task.validation) / min(task.batch_size, len(task.train))
    most = (_SHARE * seconds - 2 * judging) / max(step, 1e-9)
    if most < min(FEWEST, steps):
        return Learning(step)
    own = steps if most >= steps else int(most)
    untrained: list[float | None] = []
    value = _trained(task, own, 1.0, untrained)
    most = ((1 - _SHARE) * seconds / (len(RATES) + 1) - judging) / max(step, 1e-9)
    tried = own if most >= own else int(most)
    values: dict[float, float | None] = {}
    if tried >= min(FEWEST, steps):
        if tried == own:
            values[1.0] = value
        for factor in RATES:
            if factor not in values:
                values[factor] = _trained(task, tried, factor)
        while len(values) < MOST and (following := further(values, untrained[0])) is not None:
            values[following] = _trained(task, tried, following)
        values = dict(sorted(values.items()))
    return Learning(step, own, value, untrained[0], tried if values else 0, values)


def best_factor(values: Mapping[float, float | None]) -> float | None:
    """The factor with the best metric, the nearest to 1 of equal ones; None if there is none."""
    known = {factor: value for factor, value in values.items() if value is not None}
    return min(known, key=lambda one: (known[one], abs(math.log(one))), default=None)


def further(values: Mapping[float, float | None], untrained: float | None) -> float | None:
    """The next factor to try, beyond those tried; None if the best lies among them.

    `untrained` is the metric without training.
    """
    best = best_factor(values)
    if best is None:
        return min(values) / 10
    value = values[best]
    stalls = value is not None and untrained is not None and value >= untrained
    if (stalls or best == max(values)) and values[max(values)] is not None:
        return max(values) * 10
    return min(values) / 10 if best == min(values) or stalls else None


def _trained(
    task: Task, steps: int, factor: float, before: list[float | None] | None = None
) -> float | None:
    """The validation metric after a training; `before` receives the one before it."""

    def judge(learner: nn.Module) -> None:
        assert before is not None
        before.append(_judged(task, learner))

    observers = {} if before is None else {0: judge}
    stream = (0, "fitness", task.name)
    try:
        learner = train(
            task, task.task_loss, steps, stream=stream, rate=factor, observers=observers
        )
    except DivergedError:
        return None
    return _judged(task, learner)


def _judged(task: Task, learner: nn.Module) -> float | None:
    try:
        return performance(task, learner, task.validation)
    except DivergedError:
        return None


def seconds_per_step(task: Task) -> float:
    """Seconds of a training step with the task loss, on this machine.

    The steps of a large network are timed on a few rows, and scaled.
    """
    few = copy.copy(task)
    few.batch_size = min(ROWS, task.batch_size)
    rows = min(task.batch_size, len(task.train))
    seconds = _timed(few) * rows / few.batch_size
    return seconds if seconds > _SLOW else _timed(task)


def _timed(task: Task, steps: int = 3) -> float:
    """Seconds of a step, without those of the first one."""
    moments: list[float] = []
    every = dict.fromkeys(range(1, steps + 1), lambda _: moments.append(time.perf_counter()))
    with contextlib.suppress(DivergedError):
        train(task, task.task_loss, steps, stream=(0, "timing", task.name), observers=every)
    return (moments[-1] - moments[0]) / (len(moments) - 1) if len(moments) > 1 else 0.0
