"""Options and output shared by several commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from evomal.errors import InputError, printable, quoted

if TYPE_CHECKING:
    from evomal.runs.run import Run
    from evomal.tasks.task import Task

Json = Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="json")]
Switch = tyro.conf.FlagCreatePairsOff[bool]
"""A flag that is off by default."""


@dataclass(frozen=True)
class DataOptions:
    """Options for the data and the device."""

    data_dir: Path | None = None
    """Folder of the data sets; default EVOMAL_DATA, otherwise the user's cache folder."""

    split: Literal["honest", "published"] = "honest"
    """How tables are split; published repeats the paper's leaky split, for its Table 3 only."""

    metric: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Metric to learn a loss for: a scorer of scikit-learn, such as balanced_accuracy or f1_macro,
    or error_rate, mse, mae, rmse, pinball:0.9; default the task's."""

    label_noise: float = 0.0
    """Fraction of the training and validation labels that are replaced by another class."""

    download: Switch = False
    """Download missing data."""

    optimizer: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Base optimiser of a built-in task: sgd, adam or adamw; default the task's."""

    learning_rate: float | None = None
    """Learning rate of a built-in task; default that of the optimiser."""

    batch_size: int = 128
    """Rows in a training batch of a built-in task."""

    device: Annotated[str | None, tyro.conf.arg(metavar="DEVICE")] = None
    """Device: cpu, cuda, or auto for a GPU if available; default auto for a built-in task, for your
    own what its code says."""

    def load(self, name: str, report: Sequence[str] = (), split_seed: int = 0) -> Task:
        """The task of that name; `report` has the metrics that are reported beside its own."""
        from evomal.tasks.registry import load_task
        from evomal.tasks.sources import is_source

        usual = None if is_source(name) else "auto"

        return load_task(
            name,
            data_dir=self.data_dir,
            split=self.split,
            split_seed=split_seed,
            metric=self.metric,
            report=report,
            label_noise=self.label_noise,
            download=self.download,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            device=usual if self.device is None else self.device,
        )


class _Terminal(Console):
    """A console that escapes control characters."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of a renderable; rich's own cursor movements pass unchanged."""
        for segment in super().render(renderable, options):
            text = "\n".join(map(printable, segment.text.split("\n")))
            yield segment if segment.control else Segment(text, segment.style)


def new_console() -> Console:
    """A console on standard output."""
    return _Terminal(highlight=False, markup=False)


def print_run(run: Run, console: Console) -> None:
    """Print the overview of a run and how to resume it; the command is not wrapped."""
    from evomal.cli.tables import line, run_overview
    from evomal.runs.next_steps import to_resume

    console.print(run_overview(run))
    if run.facts.status not in ("finished", "running"):
        command = to_resume(run.run_dir, run.facts.tasks)
        console.print(line(f"To continue: {command}"), soft_wrap=True)


def require_option(name: str, value: int | None, least: int, most: int) -> None:
    """Raise an `InputError` if an option is out of range; None passes."""
    if value is not None and not least <= value <= most:
        raise InputError(
            f"--{name} must be a whole number from {least} to {most}, got {quoted(value)}."
        )


def comma_separated(text: str) -> list[str]:
    """The parts of a text between commas that are outside parentheses; none of an empty text."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts] if text else []


def print_json(value: Any) -> None:
    """Print one line of JSON on stdout."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
