"""Confirmation: the leading losses of a search are trained again, tuned like the task loss.

One fitness is one draw, after the steps of a search. So the leading losses, known losses and the
task loss are trained on fresh seeds for the length of a real training, each with its learning rate
and number of steps tuned. In four rounds:

1. all of them at `FACTORS` of the learning rate, one seed: the best `FINALISTS` go on;
2. the same on a second seed: it decides the learning rate and the steps of each;
3. on `SELECTION_SEEDS` further seeds: the best mean plus its standard error wins, so that of equal
   losses the stable one does;
4. on `VERDICT_SEEDS` further seeds, the winner against the task loss: the verdict.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from evomal.losses.files import loss_to_dict
from evomal.methods.settings import SearchSettings
from evomal.runs.retrainings import TASK_LOSS, TASK_LOSSES, Contender, Wanted
from evomal.runs.scale import Scale
from evomal.runs.verdict import Verdict, judge
from evomal.training.retraining import Retrained, Retraining

FACTORS = (0.3, 1.0, 3.0)
"""Of the learning rate of the search, evened out by the size of the gradient."""

CHECKPOINTS = 10
"""Evenly spaced numbers of steps at which a training may end."""

FINALISTS = 3
"""Losses beside the task loss that are tuned on a second seed."""

TUNING_SEEDS, SELECTION_SEEDS, VERDICT_SEEDS = 2, 3, 5

LONGER = 4
"""A training is at most so many times as long as those of the fitness."""

RESAMPLES = 200
"""Random samples of the validation rows, for the variation over rows."""

Trainings = Callable[[Sequence[Wanted]], list[Retrained]]


@dataclass(frozen=True)
class TunedRecipe:
    """How a loss is trained best on a task: learning rate and steps."""

    learning_rate: float
    steps: int


@dataclass(frozen=True)
class Entry:
    """A loss in the confirmation; L_P on validation data, lower is better.

    Attributes
    ----------
    name
        Of a known loss, ``"candidate 7"`` or ``"task loss"``.
    first
        The best value of the first round; None if every training diverged.
    recipes
        Its tuned recipe on every task; None if it is not a finalist.
    mean, error
        Mean and standard error over the seeds of the third round; None if it is not a finalist
        or diverged.
    """

    name: str
    first: float | None
    recipes: tuple[TunedRecipe, ...] | None = None
    mean: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Confirmation:
    """What the confirmation of a search found.

    Attributes
    ----------
    entries
        The losses, finalists first, best first.
    steps
        Most steps of a training.
    winner
        Name of the best loss; None if all diverged.
    loss
        The winner, as in a loss file.
    verdict
        The winner against the task loss.
    """

    entries: tuple[Entry, ...]
    steps: int
    winner: str | None
    loss: Mapping[str, Any] | None
    verdict: Verdict | None

    def entry(self, name: str) -> Entry:
        """The loss with this name."""
        return next(entry for entry in self.entries if entry.name == name)

    def to_dict(self, scale: Scale) -> dict[str, Any] | None:
        """The verdict as JSON values, in the direction of the metric; None without a winner."""
        if self.winner is None or self.verdict is None:
            return None
        recipes = {
            key: None if (tuned := self.entry(name).recipes) is None else list(map(asdict, tuned))
            for key, name in {"learned": self.winner, "task_loss": TASK_LOSS}.items()
        }
        return {
            "loss": self.winner,
            "metric": scale.names,
            "direction": scale.direction,
            **self.verdict.to_dict(scale),
            "recipes": recipes,
            "sentence": self.sentence(scale),
        }

    def sentence(self, scale: Scale) -> str:
        """The verdict in words."""
        if self.winner is None or self.verdict is None:
            return "Not shown to be better than the task loss: every loss diverged; use that."
        return self.verdict.sentence(scale, self.winner)


def longest_training(settings: SearchSettings, testing_steps: Iterable[int]) -> int:
    """Most steps of a training; `testing_steps` are those of the tasks' own trainings."""
    if settings.confirmation_steps is not None:
        return settings.confirmation_steps
    return min(*testing_steps, LONGER * settings.fitness_steps)


def expected_trainings(contenders: int) -> int:
    """Number of trainings on every task, if none of the losses diverges."""
    finalists = min(FINALISTS, contenders) + 1
    tuning = len(FACTORS) * (contenders + 1 + finalists)
    return tuning + SELECTION_SEEDS * finalists + 2 * VERDICT_SEEDS


def confirm(
    trainings: Trainings,
    contenders: Sequence[Contender],
    learning_rates: Sequence[float],
    steps: int,
) -> Confirmation:
    """Train the contenders and the task loss again, choose the best, and judge it.

    Parameters
    ----------
    trainings
        Does trainings.
    contenders
        The losses, preferred ones first if they are equal.
    learning_rates
        That of the search, for every task.
    steps
        Most steps of a training.
    """
    tasks = len(learning_rates)
    shape = _Tuning(trainings, tasks, steps)
    everyone = [*contenders, TASK_LOSSES]
    shape.train(everyone, seed=0)
    first = {one.name: shape.best(one) for one in everyone}
    ranked = sorted(contenders, key=lambda one: first[one.name])
    finalists = [one for one in ranked if math.isfinite(first[one.name])][:FINALISTS]
    if math.isfinite(first[TASK_LOSS]):
        finalists.append(TASK_LOSSES)
    shape.train(finalists, seed=1)
    entries = {one.name: Entry(one.name, _finite(first[one.name])) for one in everyone}
    chosen: dict[str, list[_Chosen]] = {}
    for one in list(finalists):
        recipes = shape.recipes(one)
        if recipes is None:
            finalists.remove(one)
            continue
        chosen[one.name] = recipes
        rates = [r.rate * own for r, own in zip(recipes, learning_rates, strict=True)]
        tuned = (TunedRecipe(*pair) for pair in zip(rates, (r.steps for r in recipes), strict=True))
        entries[one.name] = replace(entries[one.name], recipes=tuple(tuned))

    def repeated(
        who: Sequence[Contender], stage: str, seeds: int, resamples: int = 0
    ) -> list[list[list[Retrained]]]:
        """For every loss and seed, the training on every task at its recipe."""
        wanted = [
            (
                one,
                task,
                Retraining(
                    stage,
                    seed,
                    chosen[one.name][task].factor,
                    steps,
                    (chosen[one.name][task].steps,),
                    matched=True,
                    resamples=resamples,
                ),
            )
            for one in who
            for seed in range(seeds)
            for task in range(tasks)
        ]
        found = iter(trainings(wanted))
        return [[[next(found) for _ in range(tasks)] for _ in range(seeds)] for _ in who]

    for one, rows in zip(finalists, repeated(finalists, "selection", SELECTION_SEEDS), strict=True):
        values = [statistics.fmean(r.best for r in row) for row in rows]
        if all(map(math.isfinite, values)):
            error = statistics.stdev(values) / math.sqrt(len(values))
            mean = statistics.fmean(values)
            entries[one.name] = replace(entries[one.name], mean=mean, error=error)
    order = sorted(entries.values(), key=_rank)
    best = next((one for one in order if one.mean is not None and one.name != TASK_LOSS), None)
    if best is None:
        return Confirmation(tuple(order), steps, None, None, None)
    winner = next(one for one in contenders if one.name == best.name)
    assert winner.loss is not None
    pair = [winner, TASK_LOSSES] if TASK_LOSS in chosen else [winner]
    learned, *own = repeated(pair, "verdict", VERDICT_SEEDS, RESAMPLES)
    lost = [[Retrained((), 1.0)] * tasks] * VERDICT_SEEDS
    verdict = judge(learned, own[0] if own else lost)
    return Confirmation(tuple(order), steps, winner.name, loss_to_dict(winner.loss), verdict)


@dataclass(frozen=True)
class _Chosen:
    """A tuned recipe: factor in the grid, factor of the task's learning rate, and steps."""

    factor: float
    rate: float
    steps: int


class _Tuning:
    """Trainings at every factor of the learning rate, and what is best."""

    def __init__(self, trainings: Trainings, tasks: int, steps: int) -> None:
        self._trainings = trainings
        self._tasks = tasks
        self._steps = steps
        parts = range(1, CHECKPOINTS + 1)
        self._checkpoints = tuple(sorted({math.ceil(steps * k / CHECKPOINTS) for k in parts}))
        self._found: dict[tuple[str, int, float], list[Retrained]] = {}

    def train(self, who: Sequence[Contender], seed: int) -> None:
        """Train every loss at every factor on a seed."""
        wanted = [
            (
                one,
                task,
                Retraining(
                    *("tuning", seed, factor, self._steps, self._checkpoints),
                    matched=True,
                    stops_early=True,
                ),
            )
            for one in who
            for task in range(self._tasks)
            for factor in FACTORS
        ]
        for (one, task, todo), result in zip(wanted, self._trainings(wanted), strict=True):
            self._found.setdefault((one.name, task, todo.factor), []).append(result)

    def best(self, one: Contender) -> float:
        """The best value, mean over the tasks; infinite if a task has none."""
        return statistics.fmean(
            next((mean for mean, *_ in self._means(one, task)), math.inf)
            for task in range(self._tasks)
        )

    def recipes(self, one: Contender) -> list[_Chosen] | None:
        """The best recipe on every task; None if there is none."""
        found = []
        for task in range(self._tasks):
            means = self._means(one, task)
            if not means:
                return None
            _, _, fewer, factor = means[0]
            steps = -fewer
            rate = self._found[one.name, task, factor][0].factor
            found.append(_Chosen(factor, rate, steps))
        return found

    def _means(self, one: Contender, task: int) -> list[tuple[float, float, int, float]]:
        """What can be chosen, best first: mean, distance of the factor from 1, -steps, factor."""
        found = []
        for factor in FACTORS:
            curves = [result.curve for result in self._found[one.name, task, factor]]
            for steps, *values in zip(self._checkpoints, *curves, strict=False):  # the shortest
                found.append((statistics.fmean(values), abs(math.log(factor)), -steps, factor))
        return sorted(found)


def _rank(entry: Entry) -> tuple[bool, float, bool, float]:
    """Finalists first, by the upper end of their mean; then by the first round."""
    end = math.inf if entry.mean is None else entry.mean + (entry.error or 0.0)
    return entry.mean is None, end, entry.first is None, entry.first or 0.0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
