"""Suggested next steps: shell commands, or Python calls for tasks made in Python."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from evomal.runs.directory import as_argument
from evomal.runs.task_facts import TaskFacts
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
    name, options = _as_arguments(task)
    return f"`evomal check {name}{options}`"


def to_train(
    run_dir: str | os.PathLike[str], tasks: Sequence[TaskFacts], tuned_steps: int | None = None
) -> str:
    """The command or call that tests the best loss of a run on the first task's test data.

    With `tuned_steps`, all losses are tuned, in trainings of at most so many steps.
    """
    task = tasks[0]
    if task.origin is None:
        loss = f"evomal.Run({os.fspath(run_dir)!r}).best.loss"
        more = "seeds=range(3)"
        if tuned_steps is not None:
            more = f'seeds=range(5), tune=["learning-rate", "steps"], steps={tuned_steps}'
        return f"evomal.compare(task, {loss}, {more}) in Python"
    name, options = _as_arguments(task)
    if tuned_steps is not None:
        options += f" --seeds 5 --tune learning-rate,steps --steps {tuned_steps}"
    return f"evomal train {name} --loss {as_argument(run_dir)}{options}"


_NO_OPTIONS = "split_seed", "report"


def _as_arguments(task: TaskFacts) -> tuple[str, str]:
    """The name of a task for a command, and the options that recreate a built-in one."""
    origin = task.origin
    assert origin is not None
    if isinstance(origin, TaskSource):
        return as_argument(origin.name), ""
    options = "".join(
        f" --{field.name.replace('_', '-')} {as_argument(str(value))}"
        for field in dataclasses.fields(origin)
        if field.name not in _NO_OPTIONS and (value := getattr(origin, field.name)) != field.default
    )
    return as_argument(task.name), options
