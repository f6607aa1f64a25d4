"""Suggested next steps: shell commands, or Python calls for the user's own tasks."""

from __future__ import annotations

import os
from collections.abc import Sequence

from evomal.runs.directory import as_argument
from evomal.runs.task_facts import TaskFacts


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
    return f"`evomal check {as_argument(task.name)}`"


def to_train(run_dir: str | os.PathLike[str], tasks: Sequence[TaskFacts]) -> str:
    """The command or call that trains with the best loss of a run, on the first task's data."""
    task = tasks[0]
    if task.origin is None:
        loss = f"evomal.Run({os.fspath(run_dir)!r}).best.loss"
        return f"evomal.compare(task, {loss}, seeds=range(3)) in Python"
    data_dir = task.origin.data_dir
    where = "" if data_dir is None else f" --data-dir {as_argument(data_dir)}"
    options = f" --split {task.split}" if task.split == "published" else ""
    if task.origin.metric is not None:
        options += f" --metric {as_argument(task.origin.metric)}"
    if task.origin.label_noise:
        options += f" --label-noise {task.origin.label_noise}"
    return f"evomal train {as_argument(task.name)} --loss {as_argument(run_dir)}{where}{options}"
