"""The losses in the books for the tasks of a run."""

from __future__ import annotations

from collections.abc import Sequence

from evomal.losses.books import known_for
from evomal.tasks.functions import identity
from evomal.tasks.metrics import default_task_loss
from evomal.tasks.task import Task


def known_losses(tasks: Sequence[Task]) -> list[str]:
    """The names of the known losses that suit at least one of the tasks, as in `known_for`."""
    found: dict[str, None] = {}
    for task in tasks:
        positives = float(task.train.targets.double().mean()) if task.link == "sigmoid" else None
        found.update(dict.fromkeys(known_for(task.link, task.performance_metric.name, positives)))
    return list(found)


def other_losses(tasks: Sequence[Task]) -> list[str]:
    """The known losses that are not simply the task loss of the tasks."""
    found = known_losses(tasks)
    own = all(identity(t.task_loss) == identity(default_task_loss(t.form)) for t in tasks)
    return found[1:] if own else found
