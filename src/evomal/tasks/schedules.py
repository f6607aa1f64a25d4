"""Schedules of the learning rate: functions of the progress of a training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.optim.lr_scheduler import LRScheduler

from evomal.errors import InputError, named
from evomal.tasks import arguments
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.functions import identity

Schedule = Callable[[float], float]
"""A function of the progress in [0, 1) that returns a factor of the learning rate, at least 0.

The progress of step i of n is (i - 1) / n. An attribute ``meta_testing_only`` that is true means
that partial training has a constant learning rate.
"""

_POINTS = [i / 20 for i in range(20)]


@arguments.with_known_arguments
@dataclass(frozen=True)
class Cosine:
    """A linear warm-up from 0, then a cosine decay: ``get_cosine_schedule_with_warmup`` elsewhere.

    Attributes
    ----------
    warmup
        The fraction of the steps in which the factor rises from 0 to 1.
    final
        The factor after the last step.
    """

    warmup: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        for name in ("warmup", "final"):
            share = arguments.not_negative(getattr(self, name), f"setting {name}")
            if share >= 1:
                raise InputError(f"The setting {name} must be a fraction below 1, got {share:g}.")
            object.__setattr__(self, name, share)

    def __call__(self, progress: float) -> float:
        """The factor at a progress."""
        if progress < self.warmup:
            return progress / self.warmup
        decayed = (progress - self.warmup) / (1 - self.warmup)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * decayed))


@arguments.with_known_arguments
@dataclass(frozen=True)
class Milestones:
    """A constant factor, multiplied by `factor` at every milestone; for meta-testing only.

    Partial training is too short for it (paper, section 4.2) and has a constant learning rate.

    Attributes
    ----------
    at
        Increasing fractions of the steps.
    factor
        What the learning rate is multiplied by at each.
    """

    at: Sequence[float]
    factor: float = 0.1

    meta_testing_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", arguments.increasing_shares(self.at, "milestone"))
        object.__setattr__(self, "factor", arguments.positive(self.factor, "factor of milestones"))

    def __call__(self, progress: float) -> float:
        """The factor at a progress."""
        return self.factor ** sum(share <= progress for share in self.at)


def usable_schedule(value: Any) -> Schedule | None:
    """The argument `schedule` of a task, tried at several points.

    Raises
    ------
    InputError
        If it is not a function of the progress that returns factors, or they are all 0.
    """
    kind = value if isinstance(value, type) else type(value)
    if issubclass(kind, LRScheduler):
        raise InputError(
            f"The schedule is torch's {kind.__name__}, which belongs to one optimizer; pass "
            "evomal.Cosine(...), evomal.Milestones(...) or a function of the progress from 0 to 1."
        )
    schedule: Schedule | None = arguments.function(value, "schedule", "(progress)")
    if schedule is not None and not any(_factors(schedule)):
        raise InputError("The schedule is 0 during the whole training, so nothing would train.")
    return schedule


def factor_at(schedule: Schedule, progress: float) -> float:
    """The factor of the learning rate at a progress.

    Raises
    ------
    InputError
        If the schedule fails, or returns something else than a finite number of at least 0.
    """
    try:
        factor = schedule(progress)
    except OWN_CODE_ERRORS as error:
        raise InputError(
            f"The schedule fails at progress {progress:g} ({named(error)}); it must be a function "
            "of the progress from 0 to 1 that returns a factor of the learning rate."
        ) from error
    return arguments.not_negative(factor, f"schedule's factor at progress {progress:g}")


def is_for_meta_testing_only(schedule: Schedule) -> bool:
    """Whether partial training ignores a schedule."""
    return bool(getattr(schedule, "meta_testing_only", False))


def schedule_identity(schedule: Any) -> Any:
    """A schedule as JSON values: its settings, or its name and some factors."""
    if schedule is None:
        return None
    if dataclasses.is_dataclass(schedule):
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(schedule).items()}
        return {"class": type(schedule).__name__, **settings}
    return [*identity(schedule), *_factors(schedule)]


def _factors(schedule: Schedule) -> list[float]:
    return [factor_at(schedule, point) for point in _POINTS]
