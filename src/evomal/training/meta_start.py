"""States of a training under the task loss, from which meta steps start.

From a fresh state, the first step of Adam is the sign of the gradient, so its derivative in φ is 0
almost everywhere. Meta steps therefore start from states that a real training passes through. For
SGD they may too; the paper's meta steps start from fresh base learners.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from evomal.errors import InputError
from evomal.tasks.optimizers import SGD
from evomal.tasks.task import Task
from evomal.training.hypergradient.optimizer_step import State, states_of
from evomal.training.loop import train
from evomal.training.numerics import DivergedError
from evomal.training.optimizing import rate_factor
from evomal.training.settings import TuningSettings

MOST_BYTES = 2**30
"""Memory of the snapshots of a task on a worker; at least one is kept."""

MISSING = "the training under the task loss, in whose states meta steps start,"
"""Name in a `DivergedError` of a training without a snapshot."""


@dataclass(frozen=True)
class Snapshot:
    """A state of a training.

    Attributes
    ----------
    progress
        Fraction of the training completed.
    rate
        Factor of the learning rate at this point of the schedule.
    tensors
        The base learner's parameters and buffers by name.
    states
        The optimiser's state of every trainable parameter by name.
    """

    progress: float
    rate: float
    tensors: Mapping[str, Tensor]
    states: Mapping[str, State]

    def learner(self, task: Task) -> nn.Module:
        """A base learner in this state, in train mode."""
        learner = task.new_model(seed=0)
        with torch.no_grad():
            for name, tensor in _tensors(learner):
                tensor.copy_(self.tensors[name])
        return learner


def starts_fresh(task: Task, settings: TuningSettings) -> bool:
    """Whether the meta steps of a task start from fresh base learners.

    Raises
    ------
    InputError
        If the settings ask for this with an adaptive optimiser, through one step of which nothing
        can be learned.
    """
    plain = isinstance(task.optimizer, SGD)
    if settings.meta_start == "fresh" and settings.base_steps == 1 and not plain:
        raise InputError(
            f"With {type(task.optimizer).__name__}, the optimizer of {task.name!r}, meta steps "
            "from a fresh state learn nothing, because the first step is only the sign of the "
            "gradient; set meta_start to training, or base_steps above 1."
        )
    return settings.meta_start == "fresh" or (settings.meta_start == "auto" and plain)


def snapshots(task: Task, settings: TuningSettings, seed: int) -> list[Snapshot]:
    """States of one training of S_testing steps under the task loss, evenly spaced in time.

    The first is its beginning for SGD at a constant rate, and later for other optimisers and for
    schedules, which may begin at a rate of 0; the last is before its end.
    If the training diverges, only those before it does, which may be none.
    """
    steps, count = settings.fitness_steps, _count(task, settings)
    if isinstance(task.optimizer, SGD) and task.schedule is None:
        places = [k * steps // count for k in range(count)]
    else:
        places = [max(1, k * steps // (count + 1)) for k in range(1, count + 1)]
    optimizers: list[torch.optim.Optimizer] = []
    found: list[Snapshot] = []

    def keep(taken: int, learner: nn.Module) -> bool:
        progress = min(taken, steps - 1) / steps
        tensors = {name: tensor.detach().clone() for name, tensor in _tensors(learner)}
        states = states_of(learner, optimizers[0])
        found.append(Snapshot(progress, rate_factor(task, progress), tensors, states))
        return taken != places[-1]

    observers = {taken: partial(keep, taken) for taken in places}
    stream = (seed, "meta-start", task.name)
    with suppress(DivergedError), sdpa_kernel(SDPBackend.MATH):  # whatever the caller's
        train(
            *(task, task.task_loss, steps),
            stream=stream,
            observers=observers,
            started=optimizers.append,
        )
    return found


def _count(task: Task, settings: TuningSettings) -> int:
    """The number of snapshots; an optimiser holds at most twice the size of the parameters."""
    size = 3 * sum(tensor.nbytes for _, tensor in _tensors(task.new_model(seed=0)))
    return max(1, min(settings.meta_snapshots, MOST_BYTES // size))


def _tensors(learner: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from learner.named_parameters()
    yield from learner.named_buffers()
