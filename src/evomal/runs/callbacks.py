"""Callbacks of a running search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evomal.methods.base import Generation, Method, Outcome
from evomal.runs.record import RunFacts
from evomal.tasks.arguments import instance, listed


@dataclass(frozen=True)
class RunStart:
    """The state of a run when it starts or is resumed.

    Attributes
    ----------
    run_dir
        The run directory.
    facts
        Tasks, method, seed, settings and so on, as recorded in the run.
    task_loss_fitness
        Fitness of the task loss itself; None if it diverges.
    generations
        Generations finished before the run was resumed.
    """

    run_dir: Path
    facts: RunFacts
    task_loss_fitness: float | None
    generations: Sequence[Generation]


class Callback:
    """Base class of callbacks; override the methods you need.

    ``method.archive`` has all outcomes so far and the best loss. The methods are called in the
    process that called `evomal.search`, and the run waits for them.
    """

    def on_run_open(self, method: Method, run_dir: Path) -> None:
        """The run directory is open; before `on_run_start`, the recipe is tuned if need be."""

    def on_retraining(self, method: Method, stage: str, done: int, total: int) -> None:
        """So many of the trainings are done of a stage before or after the generations.

        `stage` says in words what is done: tuning the task loss, or confirming the best losses.
        """

    def on_run_start(self, method: Method, start: RunStart) -> None:
        """The run starts or is resumed."""

    def on_candidate(self, method: Method, outcome: Outcome) -> None:
        """A candidate is finished, stored, and in ``method.archive``."""

    def on_generation(self, method: Method, generation: Generation) -> None:
        """A generation is finished and stored."""

    def on_run_end(self, method: Method) -> None:
        """The run is over: finished, stopped, interrupted or failed."""


def require_callbacks(callbacks: object) -> None:
    """Raise an `InputError` if the argument is not a list of callbacks."""
    for callback in listed(callbacks, "argument callbacks"):
        instance(callback, "callback", Callback, "an instance of evomal.Callback")
