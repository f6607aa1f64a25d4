"""One generation of candidates on any number of workers, decided in population order.

A candidate goes through the filters in their order, then partial training: equal to an earlier
candidate (paper, section 3.5.1), optimised (3.3), rejected (3.5.2), equal in its gradients
(3.5.3), or trained (3.5.4). Whether it equals an earlier one is decided when all earlier ones are,
so the outcome does not depend on how many workers there are or which is first.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import Any

from evomal.losses.base import Loss
from evomal.methods.base import Candidate, Method, Outcome
from evomal.runs.executors import Executor, result_of
from evomal.tasks.task import Task
from evomal.training.numerics import DivergedError
from evomal.training.screening import Screening, screen
from evomal.training.settings import EvaluationSettings
from evomal.training.training import fitness


class GenerationSchedule:
    """The candidates of one generation on their way to an outcome.

    Parameters
    ----------
    method
        Its archive knows all earlier generations; this class reads it and adds nothing.
    candidates
        In population order.
    executor
        Does the work.
    """

    def __init__(self, method: Method, candidates: Sequence[Candidate], executor: Executor) -> None:
        self._method = method
        self._executor = executor
        self._candidates = candidates
        self._screenings: dict[int, Screening] = {}
        self._outcomes: dict[int, Outcome] = {}  # of this generation, by number
        self._undecided = deque(candidates)
        self._first_with_key: dict[str, Candidate] = {}
        self._first_with_gradient: dict[str, Candidate] = {}
        self._followers: dict[int, list[Outcome]] = {}  # wait for the fitness of a candidate
        self._to_screen: deque[Candidate] = deque()
        self._to_train: deque[Candidate] = deque()
        self._running: dict[Future[Any], tuple[str, Candidate]] = {}
        for candidate in candidates:
            first = self._first_with_key.setdefault(candidate.key, candidate)
            is_new = first is candidate and method.archive.find(candidate) is None
            if is_new and candidate.loss is not None:
                self._to_screen.append(candidate)

    def outcomes(self) -> Iterator[Outcome]:
        """Every candidate's outcome, each as soon as it is known."""
        while len(self._outcomes) < len(self._candidates):
            yield from self._decide()
            while len(self._running) < self._executor.workers and self._start_next():
                pass
            if self._running:
                done, _ = wait(self._running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from self._collect(future)

    def _start_next(self) -> bool:
        """Give an idle worker the next piece of work, trainings first; False if there is none."""
        method = self._method
        if self._to_train:
            candidate = self._to_train.popleft()
            loss = None
            if candidate.loss is not None:
                loss = self._screenings[candidate.number].loss
            future: Future[Any] = self._executor.submit(
                train_candidate, loss, method.settings, method.seed
            )
            self._running[future] = "training", candidate
            return True
        if self._to_screen:
            candidate = self._to_screen.popleft()
            future = self._executor.submit(
                screen_candidate,
                candidate.loss,
                method.settings,
                method.seed,
                method.optimizes_weights,
                method.filters,
            )
            self._running[future] = "screening", candidate
            return True
        return False

    def _collect(self, future: Future[Any]) -> Iterator[Outcome]:
        """Take the result of a finished piece of work."""
        stage, candidate = self._running.pop(future)
        result = result_of(future)
        if stage == "screening":
            self._screenings[candidate.number] = result
            return
        value, seconds = result
        outcome = self._outcome(candidate)
        outcome = replace(
            outcome,
            status="evaluated" if math.isfinite(value) else "diverged",
            fitness=value,
            seconds={**outcome.seconds, "training": seconds},
        )
        yield from self._finish(outcome)

    def _decide(self) -> Iterator[Outcome]:
        """Decide as many candidates as possible, in population order."""
        while self._undecided:
            candidate = self._undecided[0]
            equal = self._method.archive.find(candidate)
            first = self._first_with_key[candidate.key]
            if equal is not None:
                yield from self._finish(
                    Outcome(
                        candidate, "duplicate", equal.fitness, equal.loss, equal.candidate.number
                    )
                )
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
        """Decide a screened candidate: rejected, diverged, equivalent, or to be trained."""
        screening = self._screenings[candidate.number]
        outcome = self._outcome(candidate)
        if screening.verdict != "promising":
            yield from self._finish(replace(outcome, status=screening.verdict))
            return
        key = screening.gradient_key or f"candidate {candidate.number}"
        equal = self._method.archive.find_gradient(key)
        first = self._first_with_gradient.setdefault(key, candidate)
        if equal is not None:
            number, value = equal.candidate.number, equal.fitness
            yield from self._finish(
                replace(outcome, status="equivalent", fitness=value, source=number)
            )
        elif first is not candidate:
            equivalent = replace(outcome, status="equivalent", source=first.number)
            yield from self._follow(first, equivalent)
        else:
            self._to_train.append(candidate)

    def _outcome(self, candidate: Candidate) -> Outcome:
        """What the screening says of a candidate, with the worst fitness."""
        screening = self._screenings.get(candidate.number)
        if screening is None:
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
            yield from self._finish(replace(follower, fitness=first.fitness, loss=loss))


def screen_candidate(
    tasks: Sequence[Task],
    loss: Loss,
    settings: EvaluationSettings,
    seed: int,
    optimize: bool,
    filters: bool,
) -> Screening:
    """Work for an executor: `screen`."""
    return screen(loss, tasks, settings, seed, optimize=optimize, filters=filters)


def train_candidate(
    tasks: Sequence[Task], loss: Loss | None, settings: EvaluationSettings, seed: int
) -> tuple[float, float]:
    """Work for an executor: the fitness of a loss, or of the task losses, and its seconds.

    The fitness is infinite if a training diverges.
    """
    start = time.perf_counter()
    losses = [task.task_loss if loss is None else loss for task in tasks]
    try:
        value = fitness(losses, tasks, settings.testing_steps, seed)
    except DivergedError:
        value = math.inf
    return value, time.perf_counter() - start
