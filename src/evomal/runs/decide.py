"""Decisions about the candidates of a generation: an automaton without I/O.

A candidate passes the filters in their order, then training: seen before (paper, section 3.5.1),
optimised (3.3), rejected (3.5.2), equal in its gradients to an earlier one (3.5.3), trained
(3.5.4). A candidate is decided after all earlier ones in the population, so that decisions do not
depend on the order of results, or on which were finished before a run was resumed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from evomal.methods.base import Archive, Candidate, Outcome
from evomal.training.engines.base import Training
from evomal.training.halving import halted
from evomal.training.screening import Screening
from evomal.training.stages import TRAINING, StageSeconds, diverged


@dataclass(frozen=True)
class Failure:
    """Failed work on a candidate, with the reason."""

    reason: str


class Decisions:
    """The candidates of one generation and their progress towards an outcome.

    The caller reports results to `screened` and `trained`, and takes outcomes from `advance`.

    Parameters
    ----------
    candidates
        In population order.
    archive
        Has the outcomes of earlier generations; those of this generation make no difference.
    halved_steps
        Steps of a training that is evaluated at its rungs; None if trainings have none.
    finished
        Known outcomes of this generation, in a resumed run.

    Attributes
    ----------
    outcomes
        Known outcomes of this generation, by number.
    to_train
        Queue of candidates to train, in population order.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        archive: Archive,
        halved_steps: int | None,
        finished: Sequence[Outcome] = (),
    ) -> None:
        self.outcomes = {outcome.candidate.number: outcome for outcome in finished}
        self.to_train: deque[Candidate] = deque()
        self._candidates = candidates
        self._archive = archive
        self._halved_steps = halved_steps
        self._undecided = deque(c for c in candidates if c.number not in self.outcomes)
        self._screenings: dict[int, Screening | Failure] = {}
        self._followers: dict[int, list[Outcome]] = {}  # waiting for the fitness of a candidate
        self._first_of: dict[str, Candidate] = {}
        for candidate in candidates:
            self._first_of.setdefault(candidate.identity, candidate)
        self._first_with_gradient: dict[str, Candidate] = {}
        for outcome in sorted(finished, key=lambda outcome: outcome.candidate.number):
            if outcome.gradient_key is not None:
                self._first_with_gradient.setdefault(outcome.gradient_key, outcome.candidate)

    @property
    def finished(self) -> bool:
        """Whether every candidate has its outcome."""
        return len(self.outcomes) == len(self._candidates)

    @property
    def all_decided(self) -> bool:
        """Whether every candidate has been either selected for training or decided."""
        return not self._undecided

    @property
    def new(self) -> list[Candidate]:
        """The new candidates with a loss to screen, finished or not."""
        return [
            candidate
            for candidate in self._candidates
            if self._first_of[candidate.identity] is candidate
            and candidate.loss is not None
            and self._of_earlier_generation(self._archive.find(candidate)) is None
        ]

    def screened(self, candidate: Candidate, result: Screening | Failure) -> None:
        """Take the result of a candidate's screening."""
        self._screenings[candidate.number] = result

    def screening(self, candidate: Candidate) -> Outcome:
        """The outcome of a candidate's screening, with the worst fitness until it is trained."""
        screening = self._screenings.get(candidate.number)
        if not isinstance(screening, Screening):
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

    def advance(self) -> Iterator[Outcome]:
        """Decide as many candidates as possible; return the new outcomes."""
        while self._undecided:
            candidate = self._undecided[0]
            first = self._first_of[candidate.identity]
            earlier = self._of_earlier_generation(self._archive.find(candidate))
            if earlier is not None or first is not candidate:
                duplicate = Outcome(candidate, "duplicate", math.inf, None)
                yield from self._hand_over(earlier or first, duplicate)
            elif candidate.loss is None:
                self.to_train.append(candidate)
            elif candidate.number in self._screenings:
                yield from self._judge(candidate, self._screenings[candidate.number])
            else:
                return
            self._undecided.popleft()

    def trained(
        self, candidate: Candidate, results: Sequence[Training | Failure]
    ) -> Iterator[Outcome]:
        """Take a candidate's trainings on every task; return the new outcomes."""
        if candidate.number not in self.outcomes:
            yield from self._finish(self._after_training(candidate, results))

    def _judge(self, candidate: Candidate, screening: Screening | Failure) -> Iterator[Outcome]:
        """Decide a screened candidate: failed, rejected, diverged, equivalent, or to be trained."""
        outcome = self.screening(candidate)
        if isinstance(screening, Failure):
            yield from self._finish(replace(outcome, status="failed", reason=screening.reason))
        elif screening.verdict != "promising":
            verdict, reason = screening.verdict, screening.reason
            yield from self._finish(replace(outcome, status=verdict, reason=reason))
        elif (key := screening.gradient_key) is None:
            self.to_train.append(candidate)
        else:
            first = self._first_with_gradient.setdefault(key, candidate)
            earlier = self._of_earlier_generation(self._archive.find_gradient(key))
            if earlier is not None or first is not candidate:
                equivalent = replace(outcome, status="equivalent")
                yield from self._hand_over(earlier or first, equivalent)
            else:
                self.to_train.append(candidate)

    def _after_training(
        self, candidate: Candidate, results: Sequence[Training | Failure]
    ) -> Outcome:
        outcome = self.screening(candidate)
        trainings = []
        for result in results:
            if isinstance(result, Failure):
                return replace(outcome, status="failed", reason=result.reason)
            trainings.append(result)
        training = StageSeconds(training=sum(one.seconds for one in trainings))
        outcome = replace(outcome, seconds=outcome.seconds + training)
        curves = tuple(training.curve for training in trainings)
        fitness = sum(curve[-1] for curve in curves) / len(curves)
        if not math.isfinite(fitness):
            reasons = (training.reason for training in trainings if training.reason)
            return replace(outcome, reason=next(reasons, diverged(TRAINING)))
        outcome = replace(outcome, status="evaluated", fitness=fitness)
        steps = self._halved_steps
        if steps is None:
            return outcome
        if any(halted(curve, steps) for curve in curves):
            outcome = replace(outcome, status="halted", halted=True)
        return replace(outcome, curves=curves)

    def _of_earlier_generation(self, outcome: Outcome | None) -> Outcome | None:
        """An outcome from the archive, unless it is of this generation."""
        if outcome is None or outcome.candidate.number >= self._candidates[0].number:
            return None
        return outcome

    def _hand_over(self, source: Outcome | Candidate, outcome: Outcome) -> Iterator[Outcome]:
        """Copy the fitness of an earlier candidate, once it is known."""
        if isinstance(source, Candidate):
            known = self.outcomes.get(source.number)
            if known is None:
                self._followers.setdefault(source.number, []).append(outcome)
                return
            source = known
        loss = source.loss if outcome.status == "duplicate" else outcome.loss
        yield from self._finish(
            replace(
                outcome,
                fitness=source.fitness,
                halted=source.halted,
                loss=loss,
                source=source.candidate.number,
            )
        )

    def _finish(self, outcome: Outcome) -> Iterator[Outcome]:
        self.outcomes[outcome.candidate.number] = outcome
        yield outcome
        for follower in self._followers.pop(outcome.candidate.number, []):
            yield from self._hand_over(outcome, follower)
