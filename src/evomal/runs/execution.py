"""Where a run computes and when it stops: settings that do not change what it computes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evomal.errors import InputError

if TYPE_CHECKING:
    from evomal.methods.base import Archive, Generation


@dataclass(frozen=True)
class Execution:
    """How the work is spread, and conditions under which a run stops early.

    A run that stopped can be resumed, and then ends as if it had never stopped.
    """

    workers: int | Literal["auto"] = 1
    """Pieces of work on candidates at a time, or auto: as many as there are cores ÷ threads, or
    GPUs; the result does not change."""

    executor: Literal["local", "ray"] = "local"
    """Where the workers are: processes on this machine, or actors of a Ray cluster."""

    ray_address: str | None = None
    """Address of a Ray cluster; default RAY_ADDRESS, else a running local one, else a new one."""

    candidate_timeout: float | None = None
    """Seconds for the screening of a candidate, and for each training of it; past that it is tried
    once more, then failed."""

    max_time: float | None = None
    """Stop after that many seconds, counted from this start or resumption."""

    max_evaluations: int | None = None
    """Stop when that many candidates of the run have been evaluated (trained to the end)."""

    target_fitness: float | None = None
    """Stop when a loss is at least as good as this."""

    patience: int | None = None
    """Stop when the best fitness has not improved for that many generations."""

    def validate(self) -> None:
        """Raise an `InputError` for the first setting that makes no sense."""
        if self.executor not in ("local", "ray"):
            raise InputError(f"Unknown executor {self.executor!r}; choose from local, ray.")
        if self.ray_address is not None and self.executor != "ray":
            raise InputError("A ray_address goes with the executor ray; add --executor ray.")
        whole = "max_evaluations", "patience"
        for name in (*whole, *(["workers"] if self.workers != "auto" else [])):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise InputError(
                    f"The setting {name} must be a whole number of at least 1, but is {value}."
                )
        for name in ("candidate_timeout", "max_time"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise InputError(f"The setting {name} must be seconds above 0, but is {value}.")
        target = self.target_fitness
        if target is not None and not (_is_number(target) and not math.isnan(target)):
            raise InputError("The setting target_fitness must be a number.")


class SearchStopped(Exception):  # noqa: N818 - not an error
    """A stop condition holds; the message says which."""


class StopConditions:
    """The stop conditions of an `Execution`; the clock starts at `start`, or with the object."""

    def __init__(self, execution: Execution, start: float | None = None) -> None:
        self._execution = execution
        self._start = time.monotonic() if start is None else start

    def seconds_left(self) -> float | None:
        """Until the time is up; None without a limit."""
        if self._execution.max_time is None:
            return None
        return max(0.0, self._start + self._execution.max_time - time.monotonic())

    def trainings_left(self, archive: Archive) -> float:
        """How many more candidates may be evaluated."""
        most = self._execution.max_evaluations
        return math.inf if most is None else most - archive.counts["evaluated"]

    def check_time(self) -> None:
        """Raise `SearchStopped` if the time is up."""
        if self.seconds_left() == 0:
            raise SearchStopped(f"max_time of {self._execution.max_time:g} s is up")

    def check_archive(self, archive: Archive) -> None:
        """Raise `SearchStopped` if enough was evaluated or the best loss is good enough."""
        if self.trainings_left(archive) <= 0:
            raise SearchStopped(f"max_evaluations of {self._execution.max_evaluations} is reached")
        target, best = self._execution.target_fitness, archive.best
        if target is not None and best is not None and best.fitness <= target:
            raise SearchStopped(f"target_fitness of {target:g} is reached")

    def check_generations(self, generations: Sequence[Generation]) -> None:
        """Raise `SearchStopped` if the best fitness has been the same for too long."""
        patience = self._execution.patience
        if patience is None or len(generations) <= patience:
            return
        if generations[-1].best == generations[-1 - patience].best:
            raise SearchStopped(f"patience of {patience} generations is over")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def available_cores() -> int:
    """Cores that this process may use; knows the limits of containers."""
    import joblib

    cores: int = joblib.cpu_count()
    return cores
