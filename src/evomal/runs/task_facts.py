"""The tasks of a stored run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomal.losses.form import Form
from evomal.methods.stored import require, typed
from evomal.tasks.direction import Direction
from evomal.tasks.registry import Origin
from evomal.tasks.sources import TaskSource

_DESCRIPTION: dict[str, Any] = {
    "name": str,
    "split": str,
    "form": Form,
    "progress inputs": tuple[str, ...],
    "metric": Any,
    "direction": Direction,
    "task loss": Any,
    "preprocess": Any,
    "augment": Any,
    "optimizer": Mapping[str, Any],
    "schedule": Any,
    "clip norm": float | None,
    "batch size": int,
    "rejection steps": int,
    "testing steps": int,
    "model": str,
    "data": str,
}
"""Minimum fields of a task's description in this format version."""

_ORIGIN = Origin | TaskSource | None


@dataclass(frozen=True)
class TaskFacts:
    """A task of a run.

    Attributes
    ----------
    name, split
        Attributes of the task.
    origin
        How to recreate it, or where to import it from; None if it was made in Python.
    testing_steps
        Training steps of meta-testing, when the run was started.
    description
        The value of `Task.description`.
    """

    name: str
    split: str
    origin: Origin | TaskSource | None
    testing_steps: int
    description: Mapping[str, Any]


def read_task(stored: Mapping[str, Any], form: Form) -> TaskFacts:
    """A task of a run; all tasks share the form."""
    for name, kind in (*_DESCRIPTION.items(), ("origin", _ORIGIN)):
        require(name in stored, f"a task lacks {name!r}")
        typed(kind, stored[name], f"a task's {name!r}")
    require(typed(Form, stored["form"], "a task's form") == form, "the tasks have different forms")
    rate = stored["optimizer"].get("learning_rate")
    typed(float, rate, "the 'learning_rate' of a task's optimizer")
    apart = ("origin", "testing steps")
    description = {name: value for name, value in stored.items() if name not in apart}
    origin = typed(_ORIGIN, stored["origin"], "a task's origin")
    steps = stored["testing steps"]
    return TaskFacts(stored["name"], stored["split"], origin, steps, description)
