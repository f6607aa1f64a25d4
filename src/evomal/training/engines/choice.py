"""The choice of the engine of a run, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

import torch

from evomal.errors import InputError
from evomal.tasks.task import Task
from evomal.training.engines.base import Engine
from evomal.training.engines.batched import BatchedEngine
from evomal.training.engines.loop import LoopEngine
from evomal.training.engines.stacked import StackedEngine
from evomal.training.horizon import with_steps
from evomal.training.meta_start import starts_fresh
from evomal.training.settings import TrainingSettings, TuningSettings
from evomal.training.support import require_trainable, unsuitable
from evomal.training.workbench import Workbench

Settings = TypeVar("Settings", bound=TrainingSettings)

ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (LoopEngine, BatchedEngine, StackedEngine)
}

GROUP_ON_CPU = 4
"""Losses per group; twice as many save 3 to 10 %, but keep only half as many workers busy."""

MOST_PARAMETERS = 100_000_000
"""Maximum number of parameters of a group's learners, of which there are four copies."""


class Choice(NamedTuple, Generic[Settings]):
    """Settings with the chosen engine and group size, and the reason."""

    settings: Settings
    reason: str


def engine_type(settings: TrainingSettings) -> type[Engine]:
    """The engine class of the settings; the loop if none has been chosen yet."""
    return ENGINES.get(settings.engine, LoopEngine)


def engine_on(bench: Workbench) -> Engine:
    """The engine of a run on a worker's workbench."""
    return engine_type(bench.settings)(bench)


def with_engine(settings: Settings, tasks: Sequence[Task], *, tunes: bool) -> Choice[Settings]:
    """The settings with ``"auto"`` replaced by an engine and its group size, and decided steps.

    A fixed rule. If weights are tuned through one training step: stacked on a GPU, batched on CPUs
    or if stacking is not supported, provided that all base learners support it and a group has at
    most `MOST_PARAMETERS` parameters. Otherwise the loop.

    Parameters
    ----------
    settings
        Validated settings.
    tasks
        The tasks of the run.
    tunes
        Whether the method tunes weights.

    Raises
    ------
    InputError
        If a base learner cannot be trained or differentiated, or does not support the requested
        engine or precision.
    """
    settings = with_steps(settings, tasks)
    tasks = [task.in_precision(settings.precision) for task in tasks]
    base_steps = settings.base_steps if tunes and isinstance(settings, TuningSettings) else None
    for task in tasks:
        require_trainable(task, base_steps=base_steps)
        if tunes and isinstance(settings, TuningSettings):
            starts_fresh(task, settings)
    _require_precision(settings, tasks)
    on_cpu = all(task.device.type == "cpu" for task in tasks)
    size = settings.group_size or (GROUP_ON_CPU if on_cpu else None)
    if settings.engine == "auto":
        engine, reason = _chosen(settings, tasks, size, base_steps, on_cpu=on_cpu)
    else:
        engine, reason = ENGINES[settings.engine], "as requested"
        if base_steps not in (None, 1) and engine.tunes_in_groups:
            raise InputError(f"The engine {engine.name} supports only base_steps of 1; use loop.")
        for task in tasks:
            problem = engine.problem(task)
            if problem is not None:
                raise unsuitable(task, engine.name, problem)
    size = size if engine.tunes_in_groups else 1
    return Choice(replace(settings, engine=engine.name, group_size=size), reason)


def _chosen(
    settings: TrainingSettings,
    tasks: Sequence[Task],
    size: int | None,
    base_steps: int | None,
    *,
    on_cpu: bool,
) -> tuple[type[Engine], str]:
    """The best engine for the tasks and the device, and the reason."""
    if base_steps is None:
        return LoopEngine, "the method does not tune weights"
    if base_steps != 1:
        return LoopEngine, "more than one base step is differentiated"
    largest = max(_trained_parameters(task) for task in tasks)
    if (size or 1) * largest > MOST_PARAMETERS:
        return LoopEngine, f"a group's base learners have over {MOST_PARAMETERS:,} parameters"
    device = "CPU" if on_cpu else "GPU"
    fastest: list[type[Engine]] = [BatchedEngine] if on_cpu else [StackedEngine, BatchedEngine]
    problems: list[str] = []
    for engine in fastest:
        problem = next((p for p in map(engine.problem, tasks) if p is not None), None)
        if problem is None:
            learners = "the base learner supports" if len(tasks) == 1 else "base learners support"
            return engine, "; ".join([device, f"{learners} it", *problems])
        problems.append(f"not {engine.name}: {problem}")
    return LoopEngine, "; ".join([device, *problems])


def _trained_parameters(task: Task) -> int:
    return sum(p.numel() for p in task.new_model(0).parameters() if p.requires_grad)


def _require_precision(settings: TrainingSettings, tasks: Sequence[Task]) -> None:
    if settings.precision != "bfloat16":
        return
    for task in tasks:
        if any(p.dtype != torch.float32 for p in task.new_model(0).parameters()):
            raise InputError(
                "The precision bfloat16 needs base learners with float32 parameters, but that of "
                f"{task.name} has other dtypes."
            )
