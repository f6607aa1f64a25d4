"""The identity of a run: recorded when it starts, compared on resume."""

from __future__ import annotations

import dataclasses
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from evomal.errors import InputError
from evomal.methods.settings import SearchSettings
from evomal.runs.executors import torch_settings
from evomal.runs.known_losses import other_losses
from evomal.runs.next_steps import to_resume
from evomal.runs.record import RunFacts, common
from evomal.runs.task_facts import TaskFacts
from evomal.tasks.registry import load_task
from evomal.tasks.sanity.suspicions import task_yardsticks
from evomal.tasks.sources import TaskSource, load_own_task, source_of
from evomal.tasks.task import Task
from evomal.tasks.task_arguments import as_tasks


def begin_facts(
    tasks: Sequence[Task], method: str, settings: SearchSettings, engine_reason: str, seed: int
) -> dict[str, Any]:
    """The facts that a run records when it starts.

    `engine_reason` is the reason for the engine in the settings.
    """
    described = [
        {**task.description(), "origin": task.origin, "testing steps": task.testing_steps}
        for task in tasks
    ]
    return {
        "task": common([task["name"] for task in described]),
        "split": common([task["split"] for task in described]),
        "metric": common([task.performance_metric.name for task in tasks]),
        "form": tasks[0].form.to_dict(),
        "tasks": described,
        "method": method,
        "seed": seed,
        "settings": dataclasses.asdict(settings),
        "engine_reason": engine_reason,
        "known_losses": other_losses(tasks),
        "constant_fitness": _constant_fitness(tasks),
        "status": "running",
        "device": str(tasks[0].device),
        "versions": _versions(),
    }


def _constant_fitness(tasks: Sequence[Task]) -> float | None:
    """The fitness of constant predictions; None if it is not known for a task."""
    found = [task_yardsticks(task).constant for task in tasks]
    known = [value for value in found if value is not None]
    return fmean(known) if len(known) == len(found) else None


def tasks_of(
    facts: RunFacts,
    tasks: Task | Sequence[Task] | None,
    run_dir: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None,
) -> list[Task]:
    """The tasks of a run, checked to be unchanged."""
    described = facts.tasks
    if tasks is None:
        own = next((task.name for task in described if task.origin is None), None)
        if own is not None:
            raise InputError(
                f"The run was made with your own task {own!r}; resume it in Python: "
                f"{to_resume(run_dir, described).removesuffix(' in Python')}."
            )
        if data_dir is not None and all(isinstance(t.origin, TaskSource) for t in described):
            raise InputError(
                "The option data_dir is for built-in tasks only; omit it, as the run was made with "
                f"your own task {described[0].name!r}."
            )
        tasks = [load_again(task, facts.device, data_dir) for task in described]
    tasks = as_tasks(tasks)
    names = [task.name for task in described]
    if [task.name for task in tasks] != names:
        given = ", ".join(task.name for task in tasks)
        raise InputError(
            f"The run was made with {', '.join(names)}, not with {given}; resume it with the same "
            "tasks, or start a new run."
        )
    for task, before in zip(tasks, described, strict=True):
        now = task.description()
        changed = [name for name in now if before.description.get(name, before) != now[name]]
        if str(task.device) != facts.device:
            changed.append("device")
        if changed:
            raise InputError(
                f"The task {task.name!r} has changed since the run was started "
                f"({', '.join(changed)}); resume it with the same task, or start a new run."
            )
    return tasks


def load_again(
    task: TaskFacts, device: str, data_dir: str | os.PathLike[str] | None = None
) -> Task:
    """A built-in task as it was when the run was started, or an own task imported again."""
    assert task.origin is not None
    if isinstance(task.origin, TaskSource):
        name, folder, digest = dataclasses.astuple(task.origin)
        own = load_own_task(name, folder, device)
        now = source_of(own)
        if now is None or now.digest != digest:
            warnings.warn(
                f"The code of {name} has changed since the run was started; the run can only go "
                "on as before if it still makes the same task.",
                stacklevel=4,
            )
        return own
    origin = dataclasses.asdict(task.origin)
    return load_task(
        task.name, device=device, **origin | ({} if data_dir is None else {"data_dir": data_dir})
    )


def warn_of_versions(before: Mapping[str, str]) -> None:
    """Warn if the versions have changed since a run was started."""
    now = _versions()
    if before != now:
        changed = ", ".join(f"{name} {before[name]}" for name in now if before[name] != now[name])
        warnings.warn(
            f"The run was started with {changed}; with other versions, the last digits of the "
            "results can differ.",
            stacklevel=3,
        )


def _versions() -> dict[str, str]:
    import evomal

    return {
        "evomal": evomal.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "torch settings": " ".join(str(value) for value in torch_settings().values()),
    }
