"""How many steps of training a fitness is measured after, if the settings leave it open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from evomal.seeding import isolated_rng
from evomal.tasks.inputs import tensors_of
from evomal.tasks.task import Task
from evomal.training.settings import TrainingSettings

FEWEST = 100
"""Minimum number of steps, however expensive they are."""

LEAST_OPERATIONS = 7.5e6
"""Of a step: a tiny network takes about as long, because of everything around its products."""


Settings = TypeVar("Settings", bound=TrainingSettings)


def with_steps(settings: Settings, tasks: Sequence[Task]) -> Settings:
    """The settings with a number of `testing_steps`: their own, or as many as are affordable.

    A fitness after a few hundred steps predicts little about a training ten times as long, so
    these are the steps of the tasks' own trainings, as far as the forward passes of a training
    stay below `training_budget` floating-point operations. A count, not a timing: the same on every
    machine.
    """
    if settings.testing_steps is not None:
        return settings
    steps = min(_affordable(task, settings.training_budget) for task in tasks)
    return replace(settings, testing_steps=steps)


def _affordable(task: Task, budget: float) -> int:
    """Steps of one task, rounded down to two digits."""
    steps = max(FEWEST, min(task.testing_steps, int(budget / step_operations(task))))
    digits: int = 10 ** max(0, math.floor(math.log10(steps)) - 1)
    return min(task.testing_steps, steps // digits * digits)


def step_operations(task: Task) -> float:
    """Floating-point operations of the forward pass of a training batch.

    Those of matrix products and convolutions; at least two per parameter and row, for layers that
    torch does not count, and for every element of a sequence in recurrent ones; and at least
    `LEAST_OPERATIONS`.
    """
    from torch.utils.flop_counter import FlopCounterMode  # slow to import

    learner = task.new_model(seed=0)
    count = min(task.batch_size, len(task.train))
    with isolated_rng(task.device, 0), torch.no_grad():
        inputs = task.batch(task.train, slice(0, count)).inputs
        with FlopCounterMode(display=False) as counter:
            task.call(learner, inputs)
    parameters = sum(p.numel() for p in learner.parameters())
    recurrent = any(isinstance(module, nn.RNNBase) for module in learner.modules())
    length = (
        max(one.shape[1] if one.ndim > 1 else 1 for one in tensors_of(inputs)) if recurrent else 1
    )
    uncounted = 2 * parameters * count * length
    return float(max(counter.get_total_flops(), uncounted, LEAST_OPERATIONS))
