"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import tyro
from rich.console import Console

from evomal.errors import InputError
from evomal.methods.settings import PRESETS, SearchSettings

if TYPE_CHECKING:
    from evomal.runs.run import Run
    from evomal.tasks.task import Task

Json = Annotated[bool, tyro.conf.arg(name="json")]


@dataclass(frozen=True)
class DataOptions:
    """Where the data comes from and where computation happens."""

    data_dir: Path | None = None
    """Folder of the data sets; default EVOMAL_DATA, else the user's cache folder."""

    split: Literal["honest", "published"] = "honest"
    """How tables are split; published repeats the paper's leaking recipe, for its Table 3 only."""

    download: bool = False
    """Download data that is absent."""

    device: str = "auto"
    """Where to compute: cpu, cuda, or auto for a GPU if there is one."""

    def load(self, name: str) -> Task:
        """The task of that name."""
        from evomal.tasks.registry import load_task

        return load_task(
            name,
            data_dir=self.data_dir,
            split=self.split,
            download=self.download,
            device=self.device,
        )


@dataclass(frozen=True)
class Tasks:
    """List the built-in tasks."""

    data_dir: Path | None = None
    """Folder of the data sets; default EVOMAL_DATA, else the user's cache folder."""

    json_output: Json = False
    """Print one JSON list and nothing else."""

    def run(self) -> int:
        """Print names, parameter counts and whether the data is there."""
        from evomal.tasks.datasets import DATASETS, data_directory
        from evomal.tasks.registry import TASKS

        folder = data_directory(self.data_dir)
        rows = [
            {
                "name": name,
                "parameters": info.parameters,
                "data": "present" if DATASETS[info.dataset].is_present(folder) else "absent",
            }
            for name, info in TASKS.items()
        ]
        if self.json_output:
            _print_json(rows)
        else:
            from evomal.analysis.tables import simple_table

            cells = [[str(row["name"]), f"{row['parameters']:,}", str(row["data"])] for row in rows]
            _console().print(simple_table(["task", "parameters", "data"], cells))
        return 0


@dataclass(frozen=True)
class Methods:
    """List the search methods."""

    def run(self) -> int:
        """Print names and descriptions."""
        from evomal.analysis.tables import simple_table
        from evomal.methods.registry import METHODS

        cells = [[name, method.description] for name, method in METHODS.items()]
        _console().print(simple_table(["method", "what it searches"], cells))
        return 0


@dataclass(frozen=True)
class Search:
    """Learn a loss function for a task."""

    task: tyro.conf.Positional[str]
    """Name of a task, such as diabetes/mlp; `evomal tasks` lists them."""

    method: str = "evomal"
    """Search method; `evomal methods` lists them."""

    preset: Literal["paper", "quick"] = "paper"
    """Settings to begin with: the paper's (hours), or a first look (minutes)."""

    seed: int = 0
    """Fixes every random draw of the run."""

    run_dir: Path | None = None
    """Directory of the run; default a new numbered one under runs/."""

    workers: int | Literal["auto"] = "auto"
    """Processes that work on candidates, or auto: cores ÷ threads; the result does not change."""

    quiet: bool = False
    """Print nothing but errors."""

    json_output: Json = False
    """Print one JSON object, as `evomal show --json` does, and nothing else."""

    data: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    settings: tyro.conf.OmitArgPrefixes[SearchSettings] = PRESETS["paper"]

    def run(self) -> int:
        """Search, show progress, print the leaderboard."""
        from evomal.runs.progress import LiveProgress, PlainProgress
        from evomal.runs.search import SearchInterrupted, search

        task = self.data.load(self.task)
        console = _console()
        progress = (LiveProgress if console.is_terminal else PlainProgress)(console)
        try:
            run = search(
                task,
                method=self.method,
                settings=self.settings,
                seed=self.seed,
                run_dir=self.run_dir,
                workers=self.workers,
                callbacks=[] if self.quiet or self.json_output else [progress],
            )
        except SearchInterrupted as interruption:
            self._report(interruption.run, console)
            return 130
        self._report(run, console)
        return 0

    def _report(self, run: Run, console: Console) -> None:
        from evomal.analysis.tables import run_overview
        from evomal.runs.store import BEST_LOSS

        if self.json_output:
            _print_json(run.summary())
        if self.quiet or self.json_output:
            return
        console.print(run_overview(run))
        if (run.run_dir / BEST_LOSS).exists():
            data_dir = f" --data-dir {self.data.data_dir}" if self.data.data_dir else ""
            split = f" --split {self.data.split}" if self.data.split != "honest" else ""
            console.print(
                f"The best loss is saved in {run.run_dir / BEST_LOSS}.\n"
                f"Next: evomal train {self.task} --loss {run.run_dir}{data_dir}{split}",
                soft_wrap=True,
            )


@dataclass(frozen=True)
class Show:
    """Show a run or a loss: leaderboard, formula, LaTeX, outcome counts."""

    what: tyro.conf.Positional[str]
    """A run directory, a loss file, or an expression in quotes."""

    json_output: Json = False
    """Print one JSON object and nothing else."""

    def run(self) -> int:
        """Print it."""
        from evomal.analysis.tables import loss_details, run_overview
        from evomal.runs.run import Run, describe_loss, is_run_dir, resolve_loss

        console = _console()
        if is_run_dir(self.what):
            run = Run(self.what)
            summary = run.summary()
            if self.json_output:
                _print_json(summary)
                return 0
            console.print(run_overview(run))
            if summary["best"] is not None:
                console.print("\nThe best loss")
                console.print(loss_details(summary["best"]))
            return 0
        details = describe_loss(resolve_loss(self.what, "identity"))
        if self.json_output:
            _print_json(details)
        else:
            console.print(loss_details(details))
        return 0


@dataclass(frozen=True)
class Train:
    """Train fresh models under a loss, beside the task's own loss, and report the test metric."""

    task: tyro.conf.Positional[str]
    """Name of a task; `evomal tasks` lists them."""

    loss: str
    """A loss file, a run directory, or an expression in quotes."""

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
        from evomal.training.meta_testing import compare

        for name, value in [
            ("seeds", self.seeds),
            ("steps", self.steps),
            ("threads", self.threads),
        ]:
            if value is not None and value < 1:
                raise InputError(f"--{name} must be at least 1, but is {value}.")
        task = self.data.load(self.task)
        loss = resolve_loss(self.loss, task.link)
        torch.set_num_threads(self.threads)
        console = _console()

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
        metric = getattr(task.metric, "__name__", "metric")
        if self.json_output:
            _print_json({"metric": metric, **comparison.to_dict()})
        elif not self.quiet:
            console.print(comparison_report(comparison, metric, task.split))
        return 0


_Command = Tasks | Methods | Search | Show | Train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 after bad input, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _parse(arguments).run()
    except InputError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parse(arguments: Sequence[str]) -> _Command:
    """The command with its options; the defaults of the settings are those of the preset."""
    settings = PRESETS[_preset(arguments)]
    search = Search(task=tyro.MISSING, settings=settings)
    subcommands: Any = Union[  # noqa: UP007
        Annotated[Tasks, tyro.conf.subcommand("tasks")],
        Annotated[Methods, tyro.conf.subcommand("methods")],
        Annotated[Search, tyro.conf.subcommand("search", default=search)],
        Annotated[Show, tyro.conf.subcommand("show")],
        Annotated[Train, tyro.conf.subcommand("train")],
    ]
    command: _Command = tyro.cli(
        subcommands,
        prog="evomal",
        description="Learn a symbolic loss function for a PyTorch model and data set.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
    )
    return command


def _preset(arguments: Sequence[str]) -> str:
    """The preset that is asked for, before anything else is parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    try:
        name: str = parser.parse_known_args(arguments)[0].preset
    except argparse.ArgumentError:  # the real parser will say so
        name = "paper"
    return name


def _console() -> Console:
    return Console(highlight=False, markup=False)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
