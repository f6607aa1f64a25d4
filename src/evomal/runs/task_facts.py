"""The tasks of a stored run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomal.losses.form import Form
from evomal.methods.stored import require, typed
from evomal.tasks.metrics import Direction
from evomal.tasks.registry import Split

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
    "model": str,
    "data": str,
}
"""Minimum fields of a task's description in this format version."""


@dataclass(frozen=True)
class Origin:
    """The arguments of `evomal.load_task` that recreate a built-in task."""

    split: Split
    split_seed: int
    data_dir: str | None
    metric: str | None
    report: tuple[str, ...]
    label_noise: float


@dataclass(frozen=True)
class TaskFacts:
    """A task of a run.

    Attributes
    ----------
    name, split
        Attributes of the task.
    origin
        How to recreate it; None for a user's task.
    description
        The value of `Task.description`.
    """

    name: str
    split: str
    origin: Origin | None
    description: Mapping[str, Any]


def read_task(stored: Mapping[str, Any], form: Form) -> TaskFacts:
    """A task of a run; all tasks share the form."""
    for name, kind in (*_DESCRIPTION.items(), ("origin", Origin | None)):
        require(name in stored, f"a task lacks {name!r}")
        typed(kind, stored[name], f"a task's {name!r}")
    require(typed(Form, stored["form"], "a task's form") == form, "the tasks have different forms")
    rate = stored["optimizer"].get("learning_rate")
    typed(float, rate, "the 'learning_rate' of a task's optimizer")
    description = {name: value for name, value in stored.items() if name != "origin"}
    origin = typed(Origin | None, stored["origin"], "a task's origin")
    return TaskFacts(stored["name"], stored["split"], origin, description)
