"""The work on one generation: groups of candidates, given to any number of workers.

What becomes of a candidate is decided elsewhere (`evomal.runs.decide`). Training on several tasks
is one piece of work per task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Protocol

from evomal.methods.base import Archive, Candidate, Outcome
from evomal.methods.settings import WorkSettings
from evomal.runs.decide import Decisions, Failure
from evomal.runs.dispatch import Dispatcher
from evomal.runs.executors import WorkError
from evomal.runs.work import screen_candidates, train_candidates
from evomal.training.engines.base import Training
from evomal.training.engines.choice import engine_type
from evomal.training.halving import LearningCurve, bars
from evomal.training.screening import Checkpoint, Screening
from evomal.training.settings import Pipeline
from evomal.training.stages import TRAINING

CHECKPOINT_SECONDS = 30.0
"""Between two checkpoints of a tuning: about as much work is lost when a process is killed."""

Group = tuple[Candidate, ...]
Numbers = tuple[int, ...]
Label = tuple[Literal["screening"], Group] | tuple[Literal["training"], Group, int]


class Proposer(Protocol):
    """Where candidates come from: a method, or a person; its archive has all earlier ones."""

    archive: Archive

    @property
    def settings(self) -> WorkSettings:
        """Settings of the work on candidates."""
        ...

    @property
    def pipeline(self) -> Pipeline:
        """Stages of every candidate before its training."""
        ...


class GenerationQueue:
    """The pending and running work of one generation.

    Parameters
    ----------
    method
        Its archive holds all earlier generations; this class only reads it.
    candidates
        In population order.
    dispatcher
        Does the work.
    tasks
        Number of tasks that a candidate is trained on.
    finished
        Outcomes of this generation that are already known, in a resumed run; the archive holds
        them, too.
    checkpoints
        Stored tuning states, by the candidate numbers of a group.
    save_checkpoint
        Called with these numbers and a new state.
    rates
        Factors of the tasks' learning rates; empty for their own.
    """

    def __init__(
        self,
        method: Proposer,
        candidates: Sequence[Candidate],
        dispatcher: Dispatcher,
        tasks: int = 1,
        finished: Sequence[Outcome] = (),
        checkpoints: Mapping[Numbers, bytes] = MappingProxyType({}),
        save_checkpoint: Callable[[Numbers, bytes], None] = lambda numbers, states: None,
        rates: Sequence[float] = (),
    ) -> None:
        settings = method.settings
        self._method = method
        self._engine = engine_type(settings)
        self._dispatcher = dispatcher
        self._candidates = candidates
        self._tasks = tasks
        self._rates = rates
        halved_steps = settings.fitness_steps if settings.halving else None
        self._decisions = Decisions(candidates, method.archive, halved_steps, finished)
        self._bars = self._bars_of_earlier_generations()
        self._to_screen = deque(self._chunks(self._decisions.new, set(self._decisions.outcomes)))
        self._checkpoints = {key: Checkpoint(states) for key, states in checkpoints.items()}
        self._save_checkpoint = save_checkpoint
        self._trainings: dict[int, dict[int, Training | Failure]] = {}  # under way, by task
        self._training_groups: deque[Group] | None = None
        self._next: deque[tuple[Group, int]] = deque()  # the trainings of one group

    def outcomes(self) -> Iterator[Outcome]:
        """The outcome of every candidate that is not finished, each as soon as it is known.

        Raises
        ------
        SearchStopped
            If the time is up.
        InputError
            If no worker can be had.
        """
        while not self._decisions.finished:
            yield from self._decisions.advance()
            while self._dispatcher.has_room and self._start_next():
                pass
            if self._dispatcher.is_busy:
                for label, result in self._dispatcher.finished():
                    yield from self._collect(label, result)

    def _chunks(self, candidates: Sequence[Candidate], known: Collection[int]) -> Iterator[Group]:
        """The engine's groups, the same whatever is finished; but those that are known."""
        start = 0
        for count in self._engine.group_sizes(len(candidates), self._method.settings.group_size):
            group = tuple(candidates[start : start + count])
            start += count
            if any(candidate.number not in known for candidate in group):
                yield group

    def _bars_of_earlier_generations(self) -> list[LearningCurve | None]:
        """For each task, which L_P stops a training at its rungs; None without halving."""
        settings = self._method.settings
        if not settings.halving:
            return [None] * self._tasks
        own = {candidate.number for candidate in self._candidates}
        judged = [o for o in self._method.archive.judged if o.candidate.number not in own]
        judged.sort(key=lambda outcome: outcome.candidate.number)
        last = judged[-settings.population_size :]
        return [
            bars([outcome.curves[task] for outcome in last], settings.fitness_steps)
            for task in range(self._tasks)
        ]

    def _start_next(self) -> bool:
        """Start the next piece of work, trainings first; False if there is none."""
        method, decisions = self._method, self._decisions
        if not self._next:
            group = self._group_to_train()
            self._trainings.update((candidate.number, {}) for candidate in group)
            self._next.extend((group, task) for task in range(self._tasks) if group)
        if self._next:
            group, task = self._next.popleft()
            done = decisions.outcomes  # finished candidates are retrained if their group is
            losses = [done.get(c.number, decisions.screening(c)).loss for c in group]
            self._dispatcher.start(
                ("training", group, task),
                train_candidates,
                losses,
                task,
                self._bars[task],
                self._rates,
                candidates=len(group),
            )
        elif self._to_screen:
            group = self._to_screen.popleft()
            checkpoint = self._checkpoints.get(_numbers(group))
            self._dispatcher.start(
                ("screening", group),
                screen_candidates,
                [candidate.loss for candidate in group],
                method.pipeline,
                checkpoint,
                CHECKPOINT_SECONDS,
                self._rates,
                candidates=len(group),
                spent=0.0 if checkpoint is None else checkpoint.seconds,
            )
        else:
            return False
        return True

    def _group_to_train(self) -> Group:
        """The next candidates to train together; none if there are none, or none may be trained.

        Where the engine trains groups, all candidates of the generation have to be decided first,
        so that the groups do not depend on what is finished when.
        """
        waiting = self._decisions.to_train
        left = self._trainings_left() - len(self._trainings)
        if left < 1 or not waiting:
            return ()
        if not self._engine.trains_together:
            return (waiting.popleft(),)
        if not self._decisions.all_decided:
            return ()
        if self._training_groups is None:
            outcomes = self._decisions.outcomes
            known = {n for n, outcome in outcomes.items() if outcome.seconds.training is not None}
            own = known | {candidate.number for candidate in waiting}
            trained = [c for c in self._candidates if c.number in own]
            self._training_groups = deque(self._chunks(trained, known))
        group = self._training_groups.popleft()
        if len(group) > left:
            self._training_groups.appendleft(group[int(left) :])
            group = group[: int(left)]
        for candidate in group:
            if candidate in waiting:
                waiting.remove(candidate)
        return group

    def _trainings_left(self) -> float:
        """How many candidates may be in training, so that no evaluation is one too many."""
        return self._dispatcher.stop.trainings_left(self._method.archive)

    def _collect(self, label: Label, result: Any) -> Iterator[Outcome]:
        """Take the result of a finished piece of work."""
        if label[0] == "screening":
            self._collect_screenings(label[1], result)
        else:
            yield from self._collect_trainings(label[1], label[2], result)

    def _collect_screenings(
        self, group: Group, result: list[Screening] | Checkpoint | WorkError
    ) -> None:
        """Take the result of a group; if something went wrong, its candidates are tried singly."""
        if isinstance(result, Checkpoint):
            self._checkpoints[_numbers(group)] = result
            self._save_checkpoint(_numbers(group), result.states)
            self._to_screen.appendleft(group)
            return
        self._checkpoints.pop(_numbers(group), None)
        if not isinstance(result, WorkError):
            for candidate, screening in zip(group, result, strict=True):
                self._decisions.screened(candidate, screening)
        elif len(group) == 1:
            self._decisions.screened(group[0], Failure(result.reason("its screening")))
        else:
            self._to_screen.extendleft((candidate,) for candidate in reversed(group))

    def _collect_trainings(
        self, group: Group, task: int, result: list[Training] | WorkError
    ) -> Iterator[Outcome]:
        """The same for trainings on one task."""
        if isinstance(result, WorkError) and len(group) > 1:
            self._next.extendleft(((candidate,), task) for candidate in reversed(group))
            return
        for place, candidate in enumerate(group):
            by_task = self._trainings[candidate.number]
            if isinstance(result, WorkError):
                by_task[task] = Failure(result.reason(TRAINING))
            else:
                by_task[task] = result[place]
            if len(by_task) == self._tasks:
                del self._trainings[candidate.number]
                values = [by_task[i] for i in range(self._tasks)]
                yield from self._decisions.trained(candidate, values)


def _numbers(group: Group) -> Numbers:
    return tuple(candidate.number for candidate in group)
