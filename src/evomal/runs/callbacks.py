"""What a search tells the outside while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evomal.methods.base import Generation, Method, Outcome
from evomal.runs.record import RunFacts
from evomal.tasks.arguments import instance, listed


@dataclass(frozen=True)
class RunStart:
    """What is known when a run begins or is resumed.

    Attributes
    ----------
    run_dir
        The run's directory.
    facts
        Tasks, method, seed, settings and so on, as the run records them.
    task_loss_fitness
        What the task loss itself scores; None if it diverges.
    generations
        Those finished before, if the run is resumed.
    """

    run_dir: Path
    facts: RunFacts
    task_loss_fitness: float | None
    generations: Sequence[Generation]


class Callback:
    """Override what you need; the methods here do nothing.

    ``method.archive`` holds all outcomes so far and the best loss. The calls come from the process
    that called `evomal.search`, and the run waits for them.
    """

    def on_run_start(self, method: Method, start: RunStart) -> None:
        """The run is set up, or taken up again."""

    def on_candidate(self, method: Method, outcome: Outcome) -> None:
        """A candidate is finished and stored; ``method.archive`` holds it."""

    def on_generation(self, method: Method, generation: Generation) -> None:
        """A generation is finished and stored."""

    def on_run_end(self, method: Method) -> None:
        """The run is over: finished, stopped, interrupted or failed."""


def require_callbacks(callbacks: object) -> None:
    """Raise an `InputError` if something is no list of callbacks."""
    for callback in listed(callbacks, "argument callbacks"):
        instance(callback, "callback", Callback, "an instance of evomal.Callback")
