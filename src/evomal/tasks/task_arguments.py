"""Checks of arguments that are tasks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from evomal.tasks import arguments
from evomal.tasks.task import Task


def as_tasks(tasks: Any) -> list[Task]:
    """One task, or several, as a list.

    Raises
    ------
    InputError
        If an element is not a task.
    """
    several = isinstance(tasks, Iterable) and not isinstance(tasks, str | nn.Module)
    found = list(tasks) if several else [tasks]
    for task in found:
        require_task(task)
    return found


def require_task(task: object) -> None:
    """Raise an `InputError` if the argument is not a task."""
    load = f"evomal.load_task({task!r})" if isinstance(task, str) else "evomal.load_task(name)"
    arguments.instance(task, "task", Task, f"made with {load} or evomal.Task(...)")
