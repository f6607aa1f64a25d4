"""Trials of a base learner on a few rows.

An error in an ordinary step is a user error (`as_input_error`); other trials may fail (`tried`).
Results are cached in `Task.findings`, which copies of a task share, and which are sent to workers
with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from evomal.errors import InputError, named
from evomal.seeding import isolated_rng
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.data import Data
from evomal.tasks.inputs import equal, mapped
from evomal.tasks.optimizers import SGD
from evomal.tasks.parts import Part
from evomal.tasks.task import Task
from evomal.training.hypergradient.optimizer_step import State, states_of
from evomal.training.hypergradient.step import MetaStep
from evomal.training.numerics import DivergedError, is_out_of_memory
from evomal.training.optimizing import new_optimizer

T = TypeVar("T")

ROWS = 4
"""Number of rows in a trial of a base learner."""

_WARM_UP = 3  # steps before the step that is tried


@dataclass(frozen=True)
class Failed:
    """A trial raised an error or gave a wrong result."""

    reason: str


def spoils_inputs(task: Task) -> bool:
    """Whether the base learner changes its inputs in place."""

    def find() -> bool:
        inputs = few_rows(task, task.train).inputs
        before = mapped(torch.clone, inputs)
        with torch.no_grad(), isolated_rng(task.device, 0):
            task.call(task.new_model(seed=0), inputs)
        return not equal(inputs, before)

    return kept(task, "spoils inputs", find)  # the same on every device


def probe_step(task: Task, seed: int = 0) -> MetaStep:
    """A meta step on a few training rows, evaluated on a few validation rows.

    `seed` is the seed of the learner's randomness.
    """
    training, judging = (few_rows(task, data) for data in (task.train, task.validation))
    learner = task.new_model(seed=0)
    states = {} if isinstance(task.optimizer, SGD) else _warmed_up(task, training)
    return MetaStep(task, learner, [training], judging, seed, 0.5, spoils_inputs(task), states)


def _warmed_up(task: Task, batch: Data) -> dict[str, State]:
    """The state of the optimiser after steps under the task loss.

    From a fresh state, the derivative of a step of Adam is 0 up to rounding.
    """
    learner = task.new_model(seed=0)
    optimizer = new_optimizer(task, [p for p in learner.parameters() if p.requires_grad])
    with isolated_rng(task.device, 0):
        for _ in range(_WARM_UP):
            optimizer.zero_grad()
            pred = task.call(learner, mapped(torch.clone, batch.inputs))
            value = task.task_loss(pred, batch.targets.clone())
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return states_of(learner, optimizer)


def few_rows(task: Task, data: Part) -> Data:
    """A few rows, spread over a whole split."""
    count = min(ROWS, task.batch_size, len(data))
    rows = torch.linspace(0, len(data) - 1, count, device=task.device).long()
    with isolated_rng(task.device, 0):
        return task.batch(data, rows)


def kept(task: Task, key: object, find: Callable[[], T]) -> T:
    """A cached or new result about a task's base learner."""
    if key not in task.findings:
        task.findings[key] = find()
    value: T = task.findings[key]
    return value


@contextmanager
def as_input_error(say: Callable[[str], str]) -> Iterator[None]:
    """Raise an `InputError` for errors of a base learner, task loss or data set.

    Parameters
    ----------
    say
        Function from a description of the error to the message.

    Raises
    ------
    InputError
        Instead of errors in the block, except out-of-memory errors.
    """
    try:
        yield
    except InputError:
        raise
    except OWN_CODE_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise InputError(say(named(error))) from error


def tried(function: Callable[[], T]) -> T | Failed:
    """The result of a function that a learner need not support, or the reason why it fails.

    Required operations are tested before, with `as_input_error`.
    """
    try:
        return function()
    except DivergedError:
        return Failed("its first training step is not finite")
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return Failed(named(error))


def no_weights(task: Task, problem: str) -> str:
    """The message if a base learner does not support meta steps."""
    return (
        f"The weights of losses cannot be learned with the base learner of {task.name!r}: "
        f"differentiating through a training step fails on {len(few_rows(task, task.train))} "
        f"training rows and {len(few_rows(task, task.validation))} validation rows ({problem}); "
        "fix the model, or use the method gp-lfl, which learns no weights."
    )
