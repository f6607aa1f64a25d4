"""Suggested next steps: shell commands, or Python calls for tasks made in Python."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from evomal.runs.directory import as_argument
from evomal.runs.task_facts import TaskFacts
from evomal.tasks.registry import Origin
from evomal.tasks.sources import TaskSource


def to_resume(run_dir: str | os.PathLike[str], tasks: Sequence[TaskFacts]) -> str:
    """The command or call that continues a run."""
    if any(task.origin is None for task in tasks):
        given = "task" if len(tasks) == 1 else "tasks"
        return f"evomal.resume({os.fspath(run_dir)!r}, {given}) in Python"
    return f"evomal resume {as_argument(run_dir)}"


def to_check(tasks: Sequence[TaskFacts]) -> str:
    """The command or call that checks the first task."""
    task = tasks[0]
    if task.origin is None:
        return "evomal.check_task(task)"
    return f"`evomal check {_named(task)}`"


def to_train(run_dir: str | os.PathLike[str], tasks: Sequence[TaskFacts]) -> str:
    """The command or call that trains with the best loss of a run, on the first task's data."""
    task = tasks[0]
    if task.origin is None:
        loss = f"evomal.Run({os.fspath(run_dir)!r}).best.loss"
        return f"evomal.compare(task, {loss}, seeds=range(3)) in Python"
    return f"evomal train {_named(task, f' --loss {as_argument(run_dir)}')}"


_NO_OPTIONS = "split_seed", "report"


def _named(task: TaskFacts, first: str = "") -> str:
    """A task as a command takes it, with the options that recreate it after the `first` ones."""
    if isinstance(task.origin, TaskSource):
        return f"{as_argument(task.origin.name)}{first}"
    assert task.origin is not None
    return f"{as_argument(task.name)}{first}{_given(task.origin)}"


def _given(origin: Origin) -> str:
    """The options that recreate a built-in task."""
    return "".join(
        f" --{field.name.replace('_', '-')} {as_argument(str(value))}"
        for field in dataclasses.fields(origin)
        if field.name not in _NO_OPTIONS and (value := getattr(origin, field.name)) != field.default
    )
