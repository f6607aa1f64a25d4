"""The command that checks a task before a search."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Group
from rich.table import Table
from rich.text import Text

from evomal.cli.options import DataOptions, Json, new_console, print_json
from evomal.errors import TaskWarning, printable

if TYPE_CHECKING:
    from evomal.runs.check import Check

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@dataclass(frozen=True)
class CheckTask:
    """Check a task before a search: data, metric, learning rate, engine and time.

    The exit status is 1 if there is a problem.
    """

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """Name of a task, such as diabetes/mlp (`evomal tasks` lists them), or your own as
    my_task.py:make_task or package.module:task."""

    method: Annotated[str, tyro.conf.arg(metavar="METHOD")] = "evomal"
    """Search method to prepare for; `evomal methods` lists them."""

    preset: Literal["standard", "quick", "paper"] = "standard"
    """Settings of the search to prepare for."""

    seconds: float = 10.0
    """About how long the short trainings may take."""

    json_output: Json = False
    """Print one JSON object and nothing else."""

    data: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)

    def run(self) -> int:
        """Check it and print what was found."""
        from evomal.runs.check import check_task

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TaskWarning)  # the check tells them in their place
            task = self.data.load(self.task)
        check = check_task(task, method=self.method, preset=self.preset, seconds=self.seconds)
        if self.json_output:
            print_json(check.to_dict())
        else:
            new_console().print(_report(check))
        return 1 if check.worst == "problem" else 0


def _report(check: Check) -> Group:
    """A line for each finding, and what to do next."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in check.findings:
        level = Text(finding.level, _STYLES[finding.level])
        table.add_row(level, finding.topic, Text(printable(finding.message)))
    ends = {
        "ok": "Nothing speaks against a search.",
        "warning": "Look at the warnings before a search.",
        "problem": "Solve the problems before a search.",
    }
    return Group(table, Text(), Text(ends[check.worst]))
