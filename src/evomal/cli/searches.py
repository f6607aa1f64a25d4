"""The commands that search: search and resume."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from evomal.cli.options import DataOptions, Json, Switch, new_console, print_json, print_run
from evomal.errors import InputError
from evomal.methods.evomal import EvoMAL
from evomal.methods.settings import SearchSettings
from evomal.runs.execution import Execution

if TYPE_CHECKING:
    from evomal.runs.callbacks import Callback
    from evomal.runs.run import Run


EXECUTION = Execution(workers="auto")
"""The defaults of the command line."""


@dataclass(frozen=True)
class Reporting:
    """Options for progress and output."""

    quiet: Switch = False
    """Print errors only."""

    json_output: Json = False
    """Print one JSON object, as `evomal show --json` does, and nothing else."""

    tensorboard: Switch = False
    """Also write TensorBoard event files to the folder tensorboard in the run directory."""

    mlflow: Annotated[str | None, tyro.conf.arg(metavar="URI")] = None
    """Also log to MLflow at this tracking URI, such as http://host:5000 (or file:mlruns, for which
    newer versions of MLflow need MLFLOW_ALLOW_FILE_STORE=true)."""

    def callbacks(self, console: Console) -> list[Callback]:
        """The callbacks for progress and trackers."""
        from evomal.runs.progress import LiveProgress, PlainProgress
        from evomal.runs.trackers import MLflowTracker, TensorBoardTracker

        chosen: list[Callback] = []
        if self.tensorboard:
            chosen.append(TensorBoardTracker())
        if self.mlflow is not None:
            for name, value in {"MAX_RETRIES": "1", "TIMEOUT": "10"}.items():  # instead of minutes
                os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
            chosen.append(MLflowTracker(self.mlflow))
        if not self.quiet and not self.json_output:
            chosen.append((LiveProgress if console.is_terminal else PlainProgress)(console))
        return chosen

    def run(self, work: Callable[[Sequence[Callback]], Run], max_time: float | None = None) -> int:
        """Run `work` with the callbacks, print the result and return the exit status.

        Formulas that are not known yet get the rest of `max_time`.
        """
        from evomal.runs.search import SearchInterrupted

        console = new_console()
        start, status = time.monotonic(), 0
        try:
            run = work(self.callbacks(console))
            if max_time is not None:
                run.formula_seconds = max(0.0, start + max_time - time.monotonic())
        except SearchInterrupted as interruption:
            run, status = interruption.run, 128 + interruption.signal
            run.formula_seconds = 0.0
        if self.json_output:
            print_json(run.summary())
        elif not self.quiet:
            _print_result(run, console)
        return status


@dataclass(frozen=True)
class Search:
    """Learn a loss function for one or more tasks."""

    tasks: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="TASK [TASK ...]"),
    ]
    """Names of tasks, such as diabetes/mlp (`evomal tasks` lists them), or your own as
    my_task.py:make_task or package.module:task."""

    method: Annotated[str, tyro.conf.arg(metavar="METHOD")] = "evomal"
    """Search method; `evomal methods` lists them. Each has its own settings, at the end of this
    help: `evomal search --method gp-lfl --help` shows those of gp-lfl."""

    preset: Literal["standard", "quick", "paper"] = "standard"
    """Default settings: standard tunes the learning rate first, starts from known losses, and ends
    with a verdict on fresh seeds; quick is a smaller one, for a first look; paper is the published
    search, and takes hours."""

    seed: int = 0
    """Seed of all random draws of the run."""

    run_dir: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """Run directory; default a new numbered one under runs/."""

    reporting: tyro.conf.OmitArgPrefixes[Reporting] = field(default_factory=Reporting)
    execution: tyro.conf.OmitArgPrefixes[Execution] = EXECUTION
    data: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    settings: tyro.conf.OmitArgPrefixes[SearchSettings] = EvoMAL.presets["standard"]

    def run(self) -> int:
        """Search, show progress, print the leaderboard."""
        from evomal.runs.search import search

        if not self.tasks:
            raise InputError(
                "Give at least one task before the options, such as diabetes/mlp (`evomal tasks`)."
            )
        tasks = [self.data.load(name) for name in self.tasks]

        def work(callbacks: Sequence[Callback]) -> Run:
            return search(
                tasks,
                method=self.method,
                settings=self.settings,
                seed=self.seed,
                run_dir=self.run_dir,
                execution=self.execution,
                callbacks=callbacks,
                progress=False,
            )

        return self.reporting.run(work, self.execution.max_time)


@dataclass(frozen=True)
class Resume:
    """Continue a run that was stopped, interrupted or killed."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run directory."""

    generations: int | None = None
    """Extend the run to this number of generations."""

    data_dir: Path | None = None
    """Folder of the data sets; default the one that the run used."""

    reporting: tyro.conf.OmitArgPrefixes[Reporting] = field(default_factory=Reporting)
    execution: tyro.conf.OmitArgPrefixes[Execution] = EXECUTION

    def run(self) -> int:
        """Continue the search, show progress, print the leaderboard."""
        from evomal.cli.tables import line
        from evomal.runs.search import is_finished, resume

        if is_finished(self.run_dir, self.generations) and not (
            self.reporting.quiet or self.reporting.json_output
        ):
            new_console().print(
                line(f"The run in {self.run_dir} is finished. To extend it, raise --generations."),
                soft_wrap=True,
            )

        def work(callbacks: Sequence[Callback]) -> Run:
            return resume(
                self.run_dir,
                generations=self.generations,
                data_dir=self.data_dir,
                execution=self.execution,
                callbacks=callbacks,
                progress=False,
            )

        return self.reporting.run(work, self.execution.max_time)


def _print_result(run: Run, console: Console) -> None:
    """Print the leaderboard, where the best loss is saved, and the next command."""
    from evomal.cli.tables import line, next_step
    from evomal.losses.names import BEST_LOSS

    print_run(run, console)
    if (run.run_dir / BEST_LOSS).exists():
        console.print(line(f"The best loss is saved in {run.run_dir / BEST_LOSS}."), soft_wrap=True)
        step = next_step(run)
        if step is not None:
            console.print(line(f"Next: {step}"), soft_wrap=True)
