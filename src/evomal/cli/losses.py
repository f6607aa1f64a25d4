"""The commands for learned losses: show and train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from evomal.cli.options import (
    DataOptions,
    Json,
    Switch,
    comma_separated,
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
    """Compare losses with the task loss: train fresh models, report the test metric."""

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """Name of a task, such as diabetes/mlp (`evomal tasks` lists them), or your own as
    my_task.py:make_task or package.module:task."""

    loss: Annotated[str, tyro.conf.arg(metavar="LOSS")]
    """A loss file, a run directory, the name of a known loss, or an expression in quotes."""

    against: Annotated[str, tyro.conf.arg(metavar="LOSS,...")] = ""
    """Further losses, given like LOSS and separated by commas, such as huber:1,pinball:0.5."""

    tune: Annotated[str, tyro.conf.arg(metavar="NAME,...")] = ""
    """What to tune on validation data for every loss alike: learning-rate, steps or both, separated
    by a comma."""

    splits: int = 1
    """Number of splits of the rows, with split seeds 0, 1, …; your own task needs a function with
    an argument split_seed=0."""

    seeds: int = 1
    """Number of training runs per loss and split, with seeds 0, 1, …"""

    steps: int | None = None
    """Training steps; default the task's number."""

    report: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME ...]")] = ()
    """Metrics to report beside the one of the task, by name as in --metric."""

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

        from evomal.cli.comparison_report import comparison_report, training_line
        from evomal.losses.names import resolve_loss
        from evomal.training.meta_testing import TrainingDone, compare

        require_option("splits", self.splits, 1, 1000)
        require_option("seeds", self.seeds, 1, 10_000)
        require_option("steps", self.steps, 1, MOST_STEPS)
        require_option("threads", self.threads, 1, MOST_THREADS)
        require_cores(self.threads)
        tasks = [self.data.load(self.task, self.report, split) for split in range(self.splits)]
        loss = resolve_loss(self.loss, tasks[0].form)
        torch.set_num_threads(self.threads)
        console = new_console()

        def report(done: TrainingDone) -> None:
            if not (self.quiet or self.json_output):
                console.print(training_line(done, self.splits))

        comparison = compare(
            tasks,
            loss,
            range(self.seeds),
            against=comma_separated(self.against),
            tune=comma_separated(self.tune),  # type: ignore[arg-type]  # compare checks the names
            steps=self.steps,
            report=report,
        )
        if self.json_output:
            print_json(comparison.to_dict())
        elif not self.quiet:
            console.print(comparison_report(comparison, tasks[0].split))
        return 0
