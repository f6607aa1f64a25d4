"""Where a run computes and when it stops: settings that do not change what it computes."""

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

_MOST_SECONDS = 1e8
"""Of any limit: three years."""

_THREADS_PER_CORE = 4
"""Of all workers together, at most: more would only take turns, and take memory."""


@dataclass(frozen=True)
class Execution:
    """How the work is spread, and conditions under which a run stops early.

    A run that stopped can be resumed, and then ends as if it had never stopped.
    """

    workers: int | Literal["auto"] = 1
    """Pieces of work on candidates at a time, or auto: as many as there are cores ÷ threads, or
    GPUs. The result does not change. On this machine their threads may be four times its cores."""

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

    def __post_init__(self) -> None:
        take_plain_numbers(self)

    def validate(self) -> None:
        """Raise an `InputError` for the first setting that makes no sense."""
        require_choice(self, "executor", "local", "ray")
        if self.ray_address is not None and self.executor != "ray":
            raise InputError("A ray_address goes with the executor ray; add --executor ray.")
        if self.workers != "auto":
            require_whole(self, 1, 10_000, "workers")
        require_whole(self, 1, 10**9, "max_evaluations", "patience")
        require_number(self, _MOST_SECONDS, "candidate_timeout", "max_time")
        target = self.target_fitness
        if target is not None and not (type(target) in (int, float) and abs(target) < 1e308):
            raise InputError(
                f"The setting target_fitness must be a finite number, but is {quoted(target)}."
            )

    def require_room(self, threads: int) -> None:
        """Warn if workers of so many threads each need more cores than this machine has.

        A Ray cluster looks after itself.

        Raises
        ------
        InputError
            If they need several times as many.
        """
        if self.executor == "ray" or self.workers == "auto":
            return
        cores = available_cores()
        most = max(1, _THREADS_PER_CORE * cores // threads)
        if self.workers > most:
            raise InputError(
                f"{self.workers} workers, each with {threads} {_plural('thread', threads)}, are "
                f"too many for the {cores} {_plural('core', cores)} here; take at most {most}, or "
                "auto."
            )
        if self.workers * threads > cores:
            of = "" if threads == 1 else f", each with {threads} threads,"
            warnings.warn(
                f"{self.workers} {_plural('worker', self.workers)}{of} share {cores} "
                f"{_plural('core', cores)}, which is slower than one thread per core; "
                "set workers to auto for as many as fit.",
                stacklevel=4,
            )


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


def require_cores(threads: int) -> None:
    """Raise an `InputError` if a candidate is to have more threads than there are cores here."""
    cores = available_cores()
    if threads > cores:
        raise InputError(
            f"There are {cores} {_plural('core', cores)} here, too few for {threads} threads; set "
            f"threads to at most {cores}."
        )


def _plural(noun: str, number: int) -> str:
    return noun if number == 1 else f"{noun}s"


def available_cores() -> int:
    """Cores that this process may use; knows the limits of containers."""
    import joblib

    cores: int = joblib.cpu_count()
    return cores
