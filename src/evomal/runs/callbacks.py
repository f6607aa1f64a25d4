"""What a search tells the outside while it runs."""

from __future__ import annotations

from evomal.methods.base import Generation, Method, Outcome


class Callback:
    """Override what you need; the methods here do nothing."""

    def on_run_start(self, method: Method, task_loss_fitness: float | None) -> None:
        """The run is set up; the task loss itself scores `task_loss_fitness`."""

    def on_candidate(self, method: Method, outcome: Outcome) -> None:
        """A candidate is finished and stored; ``method.archive`` holds it."""

    def on_generation(self, method: Method, generation: Generation) -> None:
        """A generation is finished and stored."""

    def on_run_end(self, method: Method) -> None:
        """The run is over, finished or interrupted."""
