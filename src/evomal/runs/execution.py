"""Where a run computes and when it stops; these settings do not change the result."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evomal.errors import InputError, quoted
from evomal.training.settings import (
    require_choice,
    require_number,
    require_whole,
    take_plain_numbers,
)

if TYPE_CHECKING:
    from evomal.methods.base import Archive, Generation
    from evomal.runs.scale import Scale

_MOST_SECONDS = 1e8
"""Maximum of any time limit: three years."""

_THREADS_PER_CORE = 4
"""Maximum number of threads per core, over all workers: more would only use more memory."""


@dataclass(frozen=True)
class Execution:
    """Workers of a run, and conditions for stopping early.

    A stopped run can be resumed and then ends as if it had never stopped.
    """

    workers: int | Literal["auto"] = 1
    """Number of parallel workers, or auto: cores ÷ threads, or the number of GPUs. The result does
    not depend on it. On one machine, at most four threads per core are allowed."""

    executor: Literal["local", "ray"] = "local"
    """Kind of workers: processes on this machine, or actors in a Ray cluster."""

    ray_address: str | None = None
    """Address of a Ray cluster; default RAY_ADDRESS, a running local cluster, or a new one."""

    candidate_timeout: float | None = None
    """Time limit in seconds for screening a candidate and for each of its trainings; a candidate
    that exceeds it is retried once, then recorded as failed."""

    max_time: float | None = None
    """Stop after this many seconds, counted from this start or resumption."""

    max_evaluations: int | None = None
    """Stop when this many candidates of the run have been evaluated (trained to the end)."""

    target_fitness: float | None = None
    """Stop when a loss reaches this fitness, or this value of a metric that is maximised."""

    patience: int | None = None
    """Stop when the best fitness has not improved for this many generations."""

    def __post_init__(self) -> None:
        take_plain_numbers(self)

    def validate(self) -> None:
        """Raise an `InputError` for the first invalid setting."""
        require_choice(self, "executor", "local", "ray")
        if self.ray_address is not None and self.executor != "ray":
            raise InputError("A ray_address needs the executor ray; add --executor ray.")
        if self.workers != "auto":
            require_whole(self, 1, 10_000, "workers")
        require_whole(self, 1, 10**9, "max_evaluations", "patience")
        require_number(self, _MOST_SECONDS, "candidate_timeout", "max_time")
        target = self.target_fitness
        if target is not None and not (type(target) in (int, float) and abs(target) < 1e308):
            raise InputError(
                f"The setting target_fitness must be a finite number, got {quoted(target)}."
            )

    def require_room(self, threads: int) -> None:
        """Warn if workers with this many threads each need more cores than this machine has.

        Not checked for a Ray cluster.

        Raises
        ------
        InputError
            If they need more than four times as many.
        """
        if self.executor == "ray" or self.workers == "auto":
            return
        cores = available_cores()
        most = max(1, _THREADS_PER_CORE * cores // threads)
        if self.workers > most:
            raise InputError(
                f"{self.workers} workers with {threads} {_plural('thread', threads)} each are too "
                f"many for the {cores} {_plural('core', cores)} here; use at most {most}, or auto."
            )
        if self.workers * threads > cores:
            of = "" if threads == 1 else f" with {threads} threads each"
            warnings.warn(
                f"{self.workers} {_plural('worker', self.workers)}{of} share {cores} "
                f"{_plural('core', cores)}, which is slower than one thread per core; "
                "set workers to auto.",
                stacklevel=4,
            )


class SearchStopped(Exception):  # noqa: N818 - not an error
    """A stop condition is met; the message says which, and `out_of_time` whether it is max_time."""

    def __init__(self, reason: str, *, out_of_time: bool = False) -> None:
        super().__init__(reason)
        self.out_of_time = out_of_time


class StopConditions:
    """The stop conditions of an `Execution`; the clock starts at `start`, or with the object."""

    def __init__(self, execution: Execution, start: float | None = None) -> None:
        self._execution = execution
        self._start = time.monotonic() if start is None else start

    def seconds_left(self) -> float | None:
        """Seconds until the time limit; None without a limit."""
        if self._execution.max_time is None:
            return None
        return max(0.0, self._start + self._execution.max_time - time.monotonic())

    def trainings_left(self, archive: Archive) -> float:
        """Number of candidates that may still be evaluated."""
        most = self._execution.max_evaluations
        return math.inf if most is None else most - archive.counts["evaluated"]

    def check_time(self) -> None:
        """Raise `SearchStopped` if the time limit is exceeded."""
        if self.seconds_left() == 0:
            limit = self._execution.max_time
            raise SearchStopped(f"max_time of {limit:g} s exceeded", out_of_time=True)

    def check_archive(self, archive: Archive, scale: Scale) -> None:
        """Raise `SearchStopped` at max_evaluations or target_fitness."""
        if self.trainings_left(archive) <= 0:
            raise SearchStopped(f"max_evaluations of {self._execution.max_evaluations} reached")
        target, best = self._execution.target_fitness, archive.best
        worst = scale.value(target)
        if worst is not None and best is not None and best.fitness <= worst:
            raise SearchStopped(f"target_fitness of {target:g} reached")

    def check_generations(self, generations: Sequence[Generation]) -> None:
        """Raise `SearchStopped` if the best fitness has not improved for too long."""
        patience = self._execution.patience
        if patience is None or len(generations) <= patience:
            return
        if generations[-1].best == generations[-1 - patience].best:
            raise SearchStopped(f"no improvement for {patience} generations (patience)")


def require_cores(threads: int) -> None:
    """Raise an `InputError` if a candidate would use more threads than there are cores here."""
    cores = available_cores()
    if threads > cores:
        raise InputError(
            f"{threads} threads are too many for the {cores} {_plural('core', cores)} here; set "
            f"threads to at most {cores}."
        )


def _plural(noun: str, number: int) -> str:
    return noun if number == 1 else f"{noun}s"


def available_cores() -> int:
    """Number of cores that this process may use, including limits of containers."""
    import joblib

    cores: int = joblib.cpu_count()
    return cores
