"""Progress of a search: a live display on a terminal, otherwise plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from evomal.errors import printable
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.base import Generation, Method, Outcome, Status
from evomal.runs.callbacks import Callback, RunStart
from evomal.runs.scale import Scale
from evomal.tasks.arguments import flag

_FITNESS = Scale(["fitness"], ["minimize"])
"""Before the run starts."""


class PlainProgress(Callback):
    """Prints one line per generation."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, markup=False)
        self._start = time.monotonic()
        self._scale = _FITNESS
        self._done_before = 0

    def on_run_open(self, method: Method, run_dir: Path) -> None:
        """Print the run directory."""
        self._done_before = method.archive.counts.total()
        done = f", {self._done_before} candidates already finished" if self._done_before else ""
        self._print(f"Run {run_dir}{done}.")

    def on_run_start(self, method: Method, start: RunStart) -> None:
        """Print the tuned learning rates, and the fitness of the task loss."""
        self._scale = start.facts.scale
        rates = ", ".join(f"{recipe.learning_rate:.3g}" for recipe in start.facts.recipes)
        at = f" at the learning rate {rates}" if rates else ""
        own = self._scale.value(start.task_loss_fitness)
        verdict = "diverges" if own is None else f"scores {_number(own)}"
        self._print(f"The task loss itself {verdict}{at}.")

    def on_retraining(self, method: Method, stage: str, done: int, total: int) -> None:
        """Print that a round of trainings begins or ends."""
        if done in (0, total):
            seconds = _duration(time.monotonic() - self._start)
            self._print(f"{stage.capitalize()}: {done} of {total} trainings; {seconds}")

    def on_candidate(self, method: Method, outcome: Outcome) -> None:
        """Print why a candidate failed."""
        if outcome.status == "failed":
            self._print(f"Candidate {outcome.candidate.number} failed: {outcome.reason}")

    def on_generation(self, method: Method, generation: Generation) -> None:
        """Print the best fitness, outcome counts and time left."""
        seconds = time.monotonic() - self._start
        left = _duration(_time_left(method, seconds, self._done_before, generation.number + 1))
        self._print(
            f"Generation {generation.number + 1}/{method.generations}: "
            f"best {_number(self._scale.value(generation.best))}, "
            f"{_counts(generation.counts)}; {_duration(seconds)}, "
            f"about {left} left{_then(method)}"
        )

    def _print(self, line: str) -> None:
        self._console.print(printable(line), soft_wrap=True)
        self._console.file.flush()


class LiveProgress(Callback):
    """A display redrawn in place: best loss so far, outcome counts, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self._method: Method | None = None
        self._scale = _FITNESS
        self._task_loss = "not trained yet"
        self._done_before = 0
        self._stage = ""
        self._live = Live(
            console=console,
            transient=True,
            get_renderable=self._render,
            redirect_stdout=Console().is_terminal,  # output to a file bypasses the display
        )

    def on_run_open(self, method: Method, run_dir: Path) -> None:
        """Start the display."""
        self._method = method
        self._done_before = method.archive.counts.total()
        self._console.print(printable(f"Run {run_dir}"), soft_wrap=True)
        self._live.start(refresh=True)

    def on_run_start(self, method: Method, start: RunStart) -> None:
        """Show the fitness of the task loss."""
        self._scale = start.facts.scale
        own = self._scale.value(start.task_loss_fitness)
        self._task_loss = "diverges" if own is None else _number(own)

    def on_retraining(self, method: Method, stage: str, done: int, total: int) -> None:
        """Show how far a stage before or after the generations has come."""
        self._stage = "" if done == total else f"{stage}, {done} of {total} trainings"

    def on_candidate(self, method: Method, outcome: Outcome) -> None:
        """Print above the display why a candidate failed."""
        if outcome.status == "failed":
            line = f"Candidate {outcome.candidate.number} failed: {outcome.reason}"
            self._console.print(printable(line), soft_wrap=True)

    def on_run_end(self, method: Method) -> None:
        """Stop the display."""
        self._live.stop()

    def _render(self) -> Table:
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)  # only the other column shrinks
        table.add_column()
        method = self._method
        if method is None:
            return table
        seconds = time.monotonic() - self._start
        best = method.archive.best
        begun = min(method.generation + 1, method.generations)
        done, expected = _candidates(method, begun)
        table.add_row(
            "generation",
            f"{min(method.generation + 1, method.generations)} of {method.generations}, "
            f"candidate {done} of about {expected}",
        )
        if self._stage:
            table.add_row("now", self._stage)
        table.add_row(
            printable(f"best {self._scale.title}"),
            f"{_number(self._scale.value(best.fitness if best else None))}   "
            f"(task loss {self._task_loss})",
        )
        if best is not None and isinstance(best.loss, SymbolicLoss):
            text = str(best.loss.expression)
            table.add_row("best loss", Text(text, no_wrap=True, overflow="ellipsis"))
        table.add_row("outcomes", _counts(method.archive.counts) or "-")
        time_left = _duration(_time_left(method, seconds, self._done_before, begun))
        left = f", about {time_left} left{_then(method)}" if done > self._done_before else ""
        table.add_row("time", _duration(seconds) + left)
        return table


def with_progress(callbacks: Sequence[Callback], progress: bool | None) -> list[Callback]:
    """The callbacks, plus one that shows the progress on standard error.

    With None, it is added on a terminal or in a notebook, unless one is already among them.
    """
    if progress is not None:
        progress = flag(progress, "argument progress")
    shown = any(isinstance(callback, PlainProgress | LiveProgress) for callback in callbacks)
    if progress is False or (progress is None and (shown or sys.stderr is None)):
        return list(callbacks)
    console = Console(stderr=True, highlight=False, markup=False)
    if progress is None and not (console.is_terminal or console.is_jupyter):
        return list(callbacks)
    return [*callbacks, LiveProgress(console) if console.is_terminal else PlainProgress(console)]


def _counts(counts: Mapping[Status, int]) -> str:
    """The nonzero outcome counts as text."""
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def _candidates(method: Method, begun: int) -> tuple[int, int]:
    """Number of finished candidates, and the expected total; `begun` counts the generations begun.

    The total is at least as planned, and more if places are filled again.
    """
    done = method.archive.counts.total()
    if method.generations == 1:
        return done, done
    return done, max(method.expected_candidates, done * method.generations // max(begun, 1))


def _then(method: Method) -> str:
    """What follows the generations."""
    return " before the confirmation" if method.settings.confirm else ""


def _time_left(method: Method, seconds: float, done_before: int, begun: int) -> float:
    """Estimated seconds left, from the mean time per candidate since the start."""
    done, expected = _candidates(method, begun)
    return seconds / max(done - done_before, 1) * max(expected - done, 0)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
