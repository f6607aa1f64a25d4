"""One generation of candidates on any number of workers, decided in population order.

A candidate goes through the filters in their order, then partial training: equal to an earlier
candidate (paper, section 3.5.1), optimised (3.3), rejected (3.5.2), equal in its gradients
(3.5.3), or trained (3.5.4). Whether it equals an earlier one is decided when all earlier ones are,
so the outcome does not depend on how many workers there are or which is first. Training on several
tasks is one piece of work per task.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from evomal.methods.base import Candidate, Method, Outcome
from evomal.runs.dispatch import Dispatcher
from evomal.runs.executors import WorkError
from evomal.runs.work import screen_candidates, train_candidates
from evomal.training.engines.base import Training
from evomal.training.engines.choice import engine_type
from evomal.training.halving import LearningCurve, bars, halted
from evomal.training.screening import Screening
from evomal.training.stages import TRAINING, diverged

Group = tuple[Candidate, ...]
Label = tuple[Literal["screening"], Group] | tuple[Literal["training"], Group, int]


class GenerationSchedule:
    """The candidates of one generation on their way to an outcome.

    Parameters
    ----------
    method
        Its archive knows all earlier generations; this class reads it and adds nothing.
    candidates
        In population order.
    dispatcher
        Does the work.
    tasks
        Number of tasks that a candidate is trained on.
    finished
        Outcomes of this generation that are known already, in a run that is resumed; the archive
        knows them too.
    """

    def __init__(
        self,
        method: Method,
        candidates: Sequence[Candidate],
        dispatcher: Dispatcher,
        tasks: int = 1,
        finished: Sequence[Outcome] = (),
    ) -> None:
        self._method = method
        self._engine = engine_type(method.settings)
        self._dispatcher = dispatcher
        self._candidates = candidates
        self._tasks = tasks
        self._outcomes = {outcome.candidate.number: outcome for outcome in finished}
        self._undecided = deque(c for c in candidates if c.number not in self._outcomes)
        self._screenings: dict[int, Screening | WorkError] = {}
        self._trainings: dict[int, dict[int, Training | WorkError]] = {}
        self._bars = self._bars_of_earlier_generations()
        self._first_with_key: dict[str, Candidate] = {}
        self._first_with_gradient: dict[str, Candidate] = {}
        self._followers: dict[int, list[Outcome]] = {}  # wait for the fitness of a candidate
        self._to_screen: deque[Group] = deque(self._groups(finished))
        self._to_train: deque[Candidate] = deque()
        self._training_groups: deque[Group] | None = None
        self._next: deque[tuple[Group, int]] = deque()  # the trainings of one group
        for candidate in self._undecided:
            self._first_with_key.setdefault(candidate.key, candidate)

    def _groups(self, finished: Sequence[Outcome]) -> Iterator[Group]:
        """The candidates to screen, in groups that are the same whatever is finished already."""
        own = {outcome.candidate.number for outcome in finished}
        seen: set[str] = set()
        new: list[Candidate] = []
        for candidate in self._candidates:
            equal = self._method.archive.find(candidate)
            is_old = equal is not None and equal.candidate.number not in own
            if not is_old and candidate.key not in seen and candidate.loss is not None:
                new.append(candidate)
            seen.add(candidate.key)
        yield from self._chunks(new, own)

    def _chunks(self, candidates: Sequence[Candidate], known: Collection[int]) -> Iterator[Group]:
        """The engine's groups, but those all of whose candidates are known."""
        settings = self._method.settings
        start = 0
        for count in self._engine.group_sizes(len(candidates), settings.group_size):
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
            bars([outcome.curves[task] for outcome in last], settings.testing_steps)
            for task in range(self._tasks)
        ]

    def outcomes(self) -> Iterator[Outcome]:
        """The outcome of every candidate that is not finished, each as soon as it is known.

        Raises
        ------
        SearchStopped
            If the time is up.
        InputError
            If no worker can be had.
        """
        while len(self._outcomes) < len(self._candidates):
            yield from self._decide()
            while self._dispatcher.has_room and self._start_next():
                pass
            if self._dispatcher.is_busy:
                for label, result in self._dispatcher.finished():
                    yield from self._collect(label, result)

    def _start_next(self) -> bool:
        """Start the next piece of work, trainings first; False if there is none."""
        method = self._method
        if not self._next:
            group = self._group_to_train()
            self._trainings.update((candidate.number, {}) for candidate in group)
            self._next.extend((group, task) for task in range(self._tasks) if group)
        if self._next:
            group, task = self._next.popleft()
            done = self._outcomes  # a candidate can be trained again for the sake of its group
            losses = [done.get(c.number, self._outcome(c)).loss for c in group]
            self._dispatcher.start(
                ("training", group, task),
                train_candidates,
                losses,
                task,
                self._bars[task],
                candidates=len(group),
            )
        elif self._to_screen:
            group = self._to_screen.popleft()
            self._dispatcher.start(
                ("screening", group),
                screen_candidates,
                [candidate.loss for candidate in group],
                method.pipeline,
                candidates=len(group),
            )
        else:
            return False
        return True

    def _group_to_train(self) -> Group:
        """The next candidates to train together; none if there are none, or none may be trained.

        Where the engine trains groups, all candidates of the generation have to be decided first,
        so that the groups do not depend on what is finished when.
        """
        left = self._trainings_left() - len(self._trainings)
        if left < 1 or not self._to_train:
            return ()
        if not self._engine.trains_together:
            return (self._to_train.popleft(),)
        if self._undecided:
            return ()
        if self._training_groups is None:
            known = {n for n, outcome in self._outcomes.items() if "training" in outcome.seconds}
            waiting = {candidate.number for candidate in self._to_train}
            trained = [c for c in self._candidates if c.number in known | waiting]
            self._training_groups = deque(self._chunks(trained, known))
        group = self._training_groups.popleft()
        if len(group) > left:
            self._training_groups.appendleft(group[int(left) :])
            group = group[: int(left)]
        self._to_train = deque(c for c in self._to_train if c not in group)
        return group

    def _trainings_left(self) -> float:
        """How many candidates may be in training, so that no evaluation is one too many."""
        return self._dispatcher.stop.trainings_left(self._method.archive)

    def _collect(self, label: Label, result: Any) -> Iterator[Outcome]:
        """Take the result of a finished piece of work."""
        if label[0] == "screening":
            self._collect_screenings(label[1], result)
            return
        _, group, task = label
        if isinstance(result, WorkError) and len(group) > 1:
            self._next.extendleft(((candidate,), task) for candidate in reversed(group))
            return
        for place, candidate in enumerate(group):
            results = self._trainings[candidate.number]
            results[task] = result if isinstance(result, WorkError) else result[place]
            if len(results) == self._tasks:
                del self._trainings[candidate.number]
                if candidate.number not in self._outcomes:
                    values = [results[i] for i in range(self._tasks)]
                    yield from self._finish(self._trained(candidate, values))

    def _collect_screenings(self, group: Group, result: list[Screening] | WorkError) -> None:
        """Take the result of a group; if something went wrong, its candidates are tried singly."""
        if not isinstance(result, WorkError):
            for candidate, screening in zip(group, result, strict=True):
                self._screenings[candidate.number] = screening
        elif len(group) == 1:
            self._screenings[group[0].number] = result
        else:
            self._to_screen.extendleft((candidate,) for candidate in reversed(group))

    def _trained(self, candidate: Candidate, results: Sequence[Training | WorkError]) -> Outcome:
        """The outcome of a candidate that was trained on every task."""
        outcome = self._outcome(candidate)
        curves, training = [], 0.0
        for result in results:
            if isinstance(result, WorkError):
                return replace(outcome, status="failed", reason=result.reason(TRAINING))
            curves.append(result.curve)
            training += result.seconds
        outcome = replace(outcome, seconds={**outcome.seconds, "training": training})
        fitness = sum(curve[-1] for curve in curves) / len(curves)
        if not math.isfinite(fitness):
            reasons = (r.reason for r in results if isinstance(r, Training) and r.reason)
            return replace(outcome, reason=next(reasons, diverged(TRAINING)))
        settings = self._method.settings
        if not settings.halving:
            return replace(outcome, status="evaluated", fitness=fitness)
        stopped = any(halted(curve, settings.testing_steps) for curve in curves)
        return replace(
            outcome,
            status="halted" if stopped else "evaluated",
            fitness=fitness,
            curves=tuple(curves),
            halted=stopped,
        )

    def _decide(self) -> Iterator[Outcome]:
        """Decide as many candidates as possible, in population order."""
        while self._undecided:
            candidate = self._undecided[0]
            equal = self._method.archive.find(candidate)
            first = self._first_with_key[candidate.key]
            if equal is not None:
                number = equal.candidate.number
                outcome = Outcome(candidate, "duplicate", equal.fitness, equal.loss, number)
                yield from self._finish(replace(outcome, halted=equal.halted))
            elif first is not candidate:
                outcome = Outcome(candidate, "duplicate", math.inf, None, first.number)
                yield from self._follow(first, outcome)
            elif candidate.loss is None:
                self._to_train.append(candidate)
            elif candidate.number in self._screenings:
                yield from self._judge(candidate)
            else:
                return
            self._undecided.popleft()

    def _judge(self, candidate: Candidate) -> Iterator[Outcome]:
        """Decide a screened candidate: rejected, diverged, failed, equivalent, or to be trained."""
        screening = self._screenings[candidate.number]
        outcome = self._outcome(candidate)
        if isinstance(screening, WorkError):
            reason = screening.reason("its screening")
            yield from self._finish(replace(outcome, status="failed", reason=reason))
            return
        if screening.verdict != "promising":
            judged = replace(outcome, status=screening.verdict, reason=screening.reason)
            yield from self._finish(judged)
            return
        key = screening.gradient_key or f"candidate {candidate.number}"
        equal = self._method.archive.find_gradient(key)
        first = self._first_with_gradient.setdefault(key, candidate)
        if equal is not None:
            outcome = replace(outcome, status="equivalent", source=equal.candidate.number)
            yield from self._finish(replace(outcome, fitness=equal.fitness, halted=equal.halted))
        elif first is not candidate:
            equivalent = replace(outcome, status="equivalent", source=first.number)
            yield from self._follow(first, equivalent)
        else:
            self._to_train.append(candidate)

    def _outcome(self, candidate: Candidate) -> Outcome:
        """What the screening says of a candidate, with the worst fitness."""
        screening = self._screenings.get(candidate.number)
        if screening is None or isinstance(screening, WorkError):
            return Outcome(candidate, "diverged", math.inf, candidate.loss)
        return Outcome(
            candidate,
            "diverged",
            math.inf,
            screening.loss,
            correlation=screening.correlation,
            gradient_key=screening.gradient_key,
            seconds=screening.seconds,
        )

    def _follow(self, first: Candidate, outcome: Outcome) -> Iterator[Outcome]:
        """Let a candidate take over the fitness of another of this generation, once it is known."""
        self._followers.setdefault(first.number, []).append(outcome)
        if first.number in self._outcomes:
            yield from self._finish_followers(self._outcomes[first.number])

    def _finish(self, outcome: Outcome) -> Iterator[Outcome]:
        self._outcomes[outcome.candidate.number] = outcome
        yield outcome
        yield from self._finish_followers(outcome)

    def _finish_followers(self, first: Outcome) -> Iterator[Outcome]:
        for follower in self._followers.pop(first.candidate.number, []):
            loss = first.loss if follower.status == "duplicate" else follower.loss
            handed_over = replace(follower, fitness=first.fitness, halted=first.halted, loss=loss)
            yield from self._finish(handed_over)
