"""The progress of a search: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.base import Generation, Method, Outcome
from evomal.runs.callbacks import Callback, RunStart


class PlainProgress(Callback):
    """One line per generation, written at once."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, markup=False)
        self._start = time.monotonic()
        self._done_before = 0

    def on_run_start(self, method: Method, start: RunStart) -> None:
        """Say where the run is and what there is to beat."""
        self._done_before = method.archive.counts.total()
        done = f", {self._done_before} candidates are finished" if self._done_before else ""
        self._print(
            f"Run {start.run_dir}{done}. The task loss itself scores "
            f"{_number(start.task_loss_fitness)}."
        )

    def on_candidate(self, method: Method, outcome: Outcome) -> None:
        """Say why a candidate failed."""
        if outcome.status == "failed":
            self._print(f"Candidate {outcome.candidate.number} failed: {outcome.reason}")

    def on_generation(self, method: Method, generation: Generation) -> None:
        """Say how it goes."""
        seconds = time.monotonic() - self._start
        counts = ", ".join(f"{n} {status}" for status, n in generation.counts.items() if n)
        self._print(
            f"Generation {generation.number + 1}/{method.generations}: "
            f"best {_number(generation.best)}, {counts}; {_duration(seconds)}, "
            f"about {_duration(_time_left(method, seconds, self._done_before))} left"
        )

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
        self._console.file.flush()


class LiveProgress(Callback):
    """A display that is redrawn in place: best loss so far, outcome counts, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._method: Method | None = None
        self._task_loss_fitness: float | None = None
        self._done_before = 0
        self._live = Live(console=console, transient=True, get_renderable=self._render)

    def on_run_start(self, method: Method, start: RunStart) -> None:
        """Begin to draw."""
        self._method = method
        self._done_before = method.archive.counts.total()
        self._task_loss_fitness = start.task_loss_fitness
        self._console.print(f"Run {start.run_dir}", soft_wrap=True)
        self._live.start(refresh=True)

    def on_candidate(self, method: Method, outcome: Outcome) -> None:
        """Say, above the display, why a candidate failed."""
        if outcome.status == "failed":
            number, reason = outcome.candidate.number, outcome.reason
            self._console.print(f"Candidate {number} failed: {reason}", soft_wrap=True)

    def on_run_end(self, method: Method) -> None:
        """Give the terminal back."""
        self._live.stop()

    def _render(self) -> Table:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(no_wrap=True, overflow="ellipsis")
        method = self._method
        if method is None:
            return table
        seconds = time.monotonic() - self._start
        best = method.archive.best
        done, expected = _candidates(method)
        table.add_row(
            "generation",
            f"{min(method.generation + 1, method.generations)} of {method.generations}, "
            f"candidate {done} of about {expected}",
        )
        table.add_row(
            "best fitness",
            f"{_number(best.fitness if best else None)}   "
            f"(task loss {_number(self._task_loss_fitness)})",
        )
        if best is not None and isinstance(best.loss, SymbolicLoss):
            table.add_row("best loss", Text(str(best.loss.expression)))
        counts = ", ".join(f"{n} {status}" for status, n in method.archive.counts.items())
        table.add_row("outcomes", counts)
        time_left = _duration(_time_left(method, seconds, self._done_before))
        left = f", about {time_left} left" if done > self._done_before else ""
        table.add_row("time", _duration(seconds) + left)
        return table


def _candidates(method: Method) -> tuple[int, int]:
    """How many candidates are done, and how many there will be."""
    done = method.archive.counts.total()
    settings = method.settings
    offspring = settings.population_size - settings.elites
    expected = settings.population_size + (method.generations - 1) * offspring
    return done, expected if method.generations > 1 else done


def _time_left(method: Method, seconds: float, done_before: int) -> float:
    """Seconds, as if the candidates to come took as long as those since the start."""
    done, expected = _candidates(method)
    return seconds / max(done - done_before, 1) * max(expected - done, 0)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
