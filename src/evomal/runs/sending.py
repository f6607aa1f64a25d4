"""Tasks on their way to worker processes."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evomal.errors import InputError
from evomal.tasks.data import Data
from evomal.tasks.lazy import LazyData
from evomal.tasks.sources import TaskSource, load_own_task, source_of
from evomal.tasks.task import Task


@dataclass(frozen=True)
class Import:
    """A task that workers import, so that its functions need not be picklable.

    Attributes
    ----------
    source
        Where it comes from.
    description
        The value of `Task.description`, by which a change of the code is noticed.
    data
        Its splits in memory by name; workers share it. They read the others by their own.
    """

    source: TaskSource
    description: Mapping[str, Any]
    data: Mapping[str, Data]


Sent = Task | Import


def sent(tasks: Sequence[Task]) -> list[Sent]:
    """The tasks in the form in which they are sent to workers, on the CPU."""
    return [_sent(task.to("cpu")) for task in tasks]


def received(tasks: Sequence[Sent], device: str | torch.device) -> list[Task]:
    """The tasks in a worker, on its device.

    Raises
    ------
    InputError
        If an imported task fails here, or has changed.
    """
    return [(_imported(task) if isinstance(task, Import) else task).to(device) for task in tasks]


def require_picklable(tasks: Sequence[Sent]) -> None:
    """Raise an `InputError` if a task cannot be sent to another process."""
    for task in tasks:
        if isinstance(task, Import):
            continue
        functions = (task.task_loss, task.metric, task.preprocess, task.augment, task.output)
        recipe = (task.optimizer, task.schedule)
        reported = [metric.function for metric in task.report]
        splits = (task.train, task.validation, task.test)
        lazy = [split for split in splits if isinstance(split, LazyData)]
        for part in (task.model, *functions, *recipe, *reported, *lazy):
            try:
                pickle.dumps(part)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise InputError(
                    f"The task {task.name!r} cannot be sent to worker processes ({error}); name "
                    'it as evomal.load_task("my_task.py:make_task"), define its functions and data '
                    "sets at the top level of a module, or use one worker."
                ) from error


def _sent(task: Task) -> Sent:
    source = source_of(task)
    if source is None:
        return task
    parts = {name: getattr(task, name) for name in ("train", "validation", "test")}
    data = {name: part for name, part in parts.items() if isinstance(part, Data)}
    return Import(source, task.description(), data)


def _imported(task: Import) -> Task:
    """The task, imported again; it keeps the data that was sent and frees its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the coordinator has given them
        own = load_own_task(task.source.name, task.source.folder, "cpu")
    now = own.description()
    changed = [name for name, value in task.description.items() if now[name] != value]
    if source_of(own) != task.source:
        changed.append("code")
    if changed:
        raise InputError(
            f"{task.source.name} made another task in a worker ({', '.join(changed)} changed); "
            "seed what it draws at random, and leave its code as it is during a run."
        )
    for name, part in task.data.items():
        setattr(own, name, part)
    return own
