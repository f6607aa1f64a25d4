"""The commands about finished losses: show and train."""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro

from evomal.cli.options import DataOptions, Json, new_console, print_json
from evomal.errors import InputError


@dataclass(frozen=True)
class Show:
    """Show a run or a loss: leaderboard, formula, LaTeX, outcome counts."""

    what: tyro.conf.Positional[str]
    """A run directory, a loss file, the name of a known loss, or an expression in quotes."""

    json_output: Json = False
    """Print one JSON object and nothing else."""

    def run(self) -> int:
        """Print it."""
        from evomal.analysis.tables import loss_details, run_overview
        from evomal.runs.run import Run, describe_loss, is_run_dir, resolve_loss

        console = new_console()
        if is_run_dir(self.what):
            run = Run(self.what)
            summary = run.summary()
            if self.json_output:
                print_json(summary)
                return 0
            console.print(run_overview(run), crop=False)
            if summary["best"] is not None:
                console.print("\nThe best loss")
                console.print(loss_details(summary["best"]))
            return 0
        details = describe_loss(resolve_loss(self.what))
        if self.json_output:
            print_json(details)
        else:
            console.print(loss_details(details))
        return 0


@dataclass(frozen=True)
class Train:
    """Train fresh models under a loss, beside the task's own loss, and report the test metric."""

    task: tyro.conf.Positional[str]
    """Name of a task; `evomal tasks` lists them."""

    loss: str
    """A loss file, a run directory, the name of a known loss, or an expression in quotes."""

    seeds: int = 1
    """Number of trainings per loss, with seeds 0, 1, …"""

    steps: int | None = None
    """Training steps; default the task's own number."""

    tune_baseline: bool = False
    """Also train under the task loss with a learning rate tuned on validation data."""

    threads: int = 1
    """CPU threads."""

    quiet: bool = False
    """Print nothing but errors."""

    json_output: Json = False
    """Print one JSON object and nothing else."""

    data: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)

    def run(self) -> int:
        """Train and compare."""
        import torch

        from evomal.analysis.tables import comparison_report, number
        from evomal.runs.run import resolve_loss
        from evomal.tasks.functions import function_name
        from evomal.training.meta_testing import compare

        for name, value in [
            ("seeds", self.seeds),
            ("steps", self.steps),
            ("threads", self.threads),
        ]:
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1, but is {value}.")
        task = self.data.load(self.task)
        loss = resolve_loss(self.loss, task.form)
        torch.set_num_threads(self.threads)
        console = new_console()

        def report(name: str, seed: int, value: float | None) -> None:
            if not (self.quiet or self.json_output):
                outcome = "diverged" if value is None else number(value)
                console.print(f"{name}, seed {seed}: {outcome}")

        comparison = compare(
            task,
            loss,
            range(self.seeds),
            steps=self.steps,
            tune_baseline=self.tune_baseline,
            report=report,
        )
        metric = function_name(task.metric)
        if self.json_output:
            print_json({"metric": metric, **comparison.to_dict()})
        elif not self.quiet:
            console.print(comparison_report(comparison, metric, task.split))
        return 0
