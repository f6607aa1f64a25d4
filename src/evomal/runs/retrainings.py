"""Trainings on fresh seeds, done by the workers of a run and kept in its store."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from evomal.losses.base import Loss
from evomal.methods.stored import typed
from evomal.runs.dispatch import Dispatcher
from evomal.runs.executors import WorkError
from evomal.runs.store import RunStore
from evomal.runs.task_loss import cannot_train
from evomal.runs.work import retrain_loss
from evomal.training.retraining import Retrained, Retraining

TASK_LOSS = "task loss"


@dataclass(frozen=True)
class Contender:
    """A loss that is trained on fresh seeds.

    Attributes
    ----------
    name
        Unique in a run: that of a known loss, ``"candidate 7"`` or ``"task loss"``.
    loss
        None means the task loss.
    """

    name: str
    loss: Loss | None


TASK_LOSSES = Contender(TASK_LOSS, None)

Wanted = tuple[Contender, int, Retraining]
"""A loss, the index of a task, and the training."""


class Retrainings:
    """Does trainings in parallel; those in the store are not repeated.

    Parameters
    ----------
    dispatcher
        Does the work.
    store
        Keeps every result as soon as it is known.
    tasks
        Names of the tasks.
    fitness_steps
        Steps of a training for which the time limit of a candidate is meant.
    rates
        Factors of their learning rates; empty for their own.
    report
        Called with the numbers of finished trainings and of all trainings of a call.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        store: RunStore,
        tasks: Sequence[str],
        fitness_steps: int,
        rates: Sequence[float] = (),
        report: Callable[[int, int], object] = lambda done, total: None,
    ) -> None:
        self._tasks = tasks
        self._dispatcher = dispatcher
        self._store = store
        self._fitness_steps = fitness_steps
        self._rates = rates
        self._report = report

    def __call__(self, wanted: Sequence[Wanted]) -> list[Retrained]:
        """The result of every training; one that fails counts as diverged, and is not kept.

        Raises
        ------
        SearchStopped
            If the time is up; finished trainings are kept.
        InputError
            If a task cannot be trained with its own loss, or no worker can be had.
        """
        if not wanted:
            return []
        known = self._store.retrainings()
        found: dict[int, Retrained] = {}
        for place, one in enumerate(wanted):
            if (key := _key(*one)) in known:
                found[place] = typed(Retrained, known[key], f"the training {key!r}")
        self._report(len(found), len(wanted))
        for place, result in self._done([p for p in range(len(wanted)) if p not in found], wanted):
            found[place] = result or Retrained((), wanted[place][2].factor)
            if result is not None:
                self._store.write_retraining(_key(*wanted[place]), asdict(result))
            self._report(len(found), len(wanted))
        return [found[place] for place in range(len(wanted))]

    def _done(
        self, places: Sequence[int], wanted: Sequence[Wanted]
    ) -> Iterator[tuple[int, Retrained | None]]:
        """Places and their results; None for a training that fails."""
        waiting = list(reversed(places))
        while waiting or self._dispatcher.is_busy:
            while waiting and self._dispatcher.has_room:
                place = waiting.pop()
                contender, task, todo = wanted[place]
                self._dispatcher.start(
                    place,
                    retrain_loss,
                    contender.loss,
                    task,
                    todo,
                    self._rates,
                    candidates=math.ceil(todo.steps / self._fitness_steps),
                )
            for place, result in self._dispatcher.finished():
                if isinstance(result, WorkError):
                    contender, task, _ = wanted[place]
                    if contender.loss is None:
                        raise cannot_train(self._tasks[task], result) from result
                    yield place, None
                else:
                    yield place, result


def _key(contender: Contender, task: int, todo: Retraining) -> str:
    return f"{todo.stage}, seed {todo.seed}, rate {todo.factor:g}, task {task}: {contender.name}"
