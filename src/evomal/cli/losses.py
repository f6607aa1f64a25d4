"""The commands for learned losses: show and train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from evomal.cli.options import (
    DataOptions,
    Json,
    Switch,
    new_console,
    print_json,
    print_run,
    require_option,
)
from evomal.runs.execution import require_cores
from evomal.training.settings import MOST_STEPS, MOST_THREADS


@dataclass(frozen=True)
class Show:
    """Show a run or a loss: leaderboard, formula, LaTeX, outcome counts."""

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LOSS")]
    """A run directory, a loss file, the name of a known loss, or an expression in quotes."""

    json_output: Json = False
    """Print one JSON object and nothing else."""

    def run(self) -> int:
        """Print it."""
        from evomal.cli.tables import loss_details
        from evomal.losses.names import is_run_dir, resolve_loss
        from evomal.runs.run import Run

        console = new_console()
        if is_run_dir(self.what):
            run = Run(self.what)
            summary = run.summary()
            if self.json_output:
                print_json(summary)
                return 0
            print_run(run, console)
            if summary["best"] is not None:
                console.print("\nThe best loss")
                console.print(loss_details(summary["best"], run.facts.scale.title))
            return 0
        details = resolve_loss(self.what).describe()
        if self.json_output:
            print_json(details)
        else:
            console.print(loss_details(details))
        return 0


@dataclass(frozen=True)
class Train:
    """Compare a loss with the task loss: train fresh models, report the test metric."""

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """Name of a task, such as diabetes/mlp (`evomal tasks` lists them), or your own as
    my_task.py:make_task or package.module:task."""

    loss: Annotated[str, tyro.conf.arg(metavar="LOSS")]
    """A loss file, a run directory, the name of a known loss, or an expression in quotes."""

    seeds: int = 1
    """Number of training runs per loss, with seeds 0, 1, …"""

    steps: int | None = None
    """Training steps; default the task's number."""

    report: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME ...]")] = ()
    """Metrics to report beside the one of the task, by name as in --metric."""

    tune_baseline: Switch = False
    """Also train under the task loss with a learning rate tuned on validation data."""

    threads: int = 1
    """CPU threads."""

    quiet: Switch = False
    """Print errors only."""

    json_output: Json = False
    """Print one JSON object and nothing else."""

    data: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)

    def run(self) -> int:
        """Train and compare."""
        import torch

        from evomal.cli.tables import comparison_report, format_number
        from evomal.losses.names import resolve_loss
        from evomal.training.meta_testing import compare

        require_option("seeds", self.seeds, 1, 10_000)
        require_option("steps", self.steps, 1, MOST_STEPS)
        require_option("threads", self.threads, 1, MOST_THREADS)
        require_cores(self.threads)
        task = self.data.load(self.task, self.report)
        loss = resolve_loss(self.loss, task.form)
        torch.set_num_threads(self.threads)
        console = new_console()

        def report(name: str, seed: int, value: float | None) -> None:
            if not (self.quiet or self.json_output):
                outcome = "diverged" if value is None else format_number(value)
                console.print(f"{name}, seed {seed}: {outcome}")

        comparison = compare(
            task,
            loss,
            range(self.seeds),
            steps=self.steps,
            tune_baseline=self.tune_baseline,
            report=report,
        )
        if self.json_output:
            print_json(comparison.to_dict())
        elif not self.quiet:
            console.print(comparison_report(comparison, task.split))
        return 0
