"""Confirmation: the leading losses of a search are trained again, tuned like the task loss.

One fitness is one draw, after the steps of a search. So the leading losses, known losses and the
task loss are trained on fresh seeds for the length of a real training, each with its learning rate
and number of steps tuned. In four rounds:

1. all of them at `FACTORS` of the learning rate, one seed: the best `FINALISTS` go on;
2. the same on a second seed: it decides the two best learning rates of each, with their steps;
3. both on `SELECTION_SEEDS` further seeds: the best mean plus its standard error wins, so that of
   equal losses the stable one does;
4. on `VERDICT_SEEDS` further seeds, the winner against the task loss: the verdict.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from evomal.losses.files import loss_to_dict
from evomal.methods.settings import SearchSettings
from evomal.runs.retrainings import TASK_LOSS, TASK_LOSSES, Contender, Wanted
from evomal.runs.scale import Scale
from evomal.runs.verdict import Verdict, judge
from evomal.training.retraining import Retrained, Retraining
from evomal.training.tuning import Grid, Recipe

FACTORS = (0.3, 1.0, 3.0)
"""Of the learning rate of the search, evened out by the size of the gradient."""

FINALISTS = 3
"""Losses beside the task loss that are tuned on a second seed."""

TUNING_SEEDS, SELECTION_SEEDS, VERDICT_SEEDS = 2, 5, 5

RECIPES = 2
"""Learning rates of a finalist that are tried on further seeds, each with its best steps."""

LONGER = 4
"""A training is at most so many times as long as those of the fitness."""

RESAMPLES = 200
"""Random samples of the validation rows, for the variation over rows."""

Trainings = Callable[[Sequence[Wanted]], list[Retrained]]


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
    recipes: tuple[Recipe, ...] | None = None
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

    def entries_in(self, scale: Scale) -> list[dict[str, Any]]:
        """The losses as JSON values, in the direction of the metric."""
        return [
            {**asdict(one), "first": scale.value(one.first), "mean": scale.value(one.mean)}
            for one in self.entries
        ]

    def sentence(self, scale: Scale) -> str:
        """The verdict in words."""
        if self.winner is None or self.verdict is None:
            return "Not shown to be better than the task loss: every loss diverged; use that."
        return self.verdict.sentence(scale, self.winner)


def most_steps(settings: SearchSettings, of_tasks: Sequence[int]) -> int:
    """Most steps of a training of the confirmation; `of_tasks` are the tasks' testing steps."""
    if settings.confirmation_steps is not None:
        return settings.confirmation_steps
    return min(*of_tasks, LONGER * settings.fitness_steps)


def trainings_needed(contenders: int) -> int:
    """Trainings of a confirmation on each task, most of which end early."""
    finalists = min(contenders, FINALISTS) + 1
    tuning = len(FACTORS) * (contenders + 1 + (TUNING_SEEDS - 1) * finalists)
    return tuning + RECIPES * SELECTION_SEEDS * finalists + 2 * VERDICT_SEEDS


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
    tuning = _Tuning(trainings, len(learning_rates), steps)
    everyone = [*contenders, TASK_LOSSES]
    tuning.train(everyone, seed=0)
    first = {one.name: tuning.best(one) for one in everyone}
    ranked = sorted(contenders, key=lambda one: first[one.name])
    finalists = [one for one in ranked if math.isfinite(first[one.name])][:FINALISTS]
    tuning.train([*finalists, TASK_LOSSES], seed=1)
    options = [(one, option) for one in finalists for option in tuning.options(one)]
    own = tuning.options(TASK_LOSSES) or [tuning.untuned]
    options += [(TASK_LOSSES, option) for option in own]
    selection = tuning.repeated(options, "selection", SELECTION_SEEDS)
    entries = {one.name: Entry(one.name, _finite(first[one.name])) for one in everyone}
    best: dict[str, _Option] = {TASK_LOSS: own[0]}
    for (one, option), rows in zip(options, selection, strict=True):
        entry = _entry(entries[one.name], option, rows, learning_rates)
        if _rank(entry) < _rank(entries[one.name]):
            entries[one.name], best[one.name] = entry, option
    order = sorted(entries.values(), key=_rank)
    names = [one.name for one in order if one.mean is not None and one.name != TASK_LOSS]
    if not names:
        return Confirmation(tuple(order), steps, None, None, None)
    winner = next(one for one in contenders if one.name == names[0])
    assert winner.loss is not None
    pair = [(one, best[one.name]) for one in (winner, TASK_LOSSES)]
    verdict = judge(*tuning.repeated(pair, "verdict", VERDICT_SEEDS, RESAMPLES))
    return Confirmation(tuple(order), steps, winner.name, loss_to_dict(winner.loss), verdict)


def _entry(
    entry: Entry,
    option: _Option,
    rows: Sequence[Sequence[Retrained]],
    learning_rates: Sequence[float],
) -> Entry:
    """An entry with the results of the third round for one of its recipes."""
    values = [statistics.fmean(one.last for one in row) for row in rows]
    if not all(map(math.isfinite, values)):
        return entry
    recipes = (
        Recipe(chosen.rate * own, chosen.steps)
        for chosen, own in zip(option, learning_rates, strict=True)
    )
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return replace(entry, recipes=tuple(recipes), mean=statistics.fmean(values), error=error)


@dataclass(frozen=True)
class _Chosen:
    """A tuned recipe: factor in the grid, factor of the task's learning rate, and steps."""

    factor: float
    rate: float
    steps: int


_Option = Sequence[_Chosen]
"""One recipe for every task."""


class _Tuning:
    """Trainings at every factor of the learning rate, what is best, and its repetition."""

    def __init__(self, trainings: Trainings, tasks: int, steps: int) -> None:
        self._trainings = trainings
        self._tasks = range(tasks)
        self._steps = steps
        self._checkpoints = tuple(Grid.of(["steps"], steps).checkpoints)
        self._found: dict[tuple[str, int, float], list[Retrained]] = {}

    @property
    def untuned(self) -> _Option:
        """The recipe of the search, to the last step."""
        return [_Chosen(1.0, 1.0, self._steps) for _ in self._tasks]

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
            for task in self._tasks
            for factor in FACTORS
        ]
        for (one, task, todo), result in zip(wanted, self._trainings(wanted), strict=True):
            self._found.setdefault((one.name, task, todo.factor), []).append(result)

    def best(self, one: Contender) -> float:
        """The best value, mean over the tasks; infinite if a task has none."""
        return statistics.fmean(
            min(self._best(one, task, factor)[0] for factor in FACTORS) for task in self._tasks
        )

    def options(self, one: Contender) -> list[_Option]:
        """The best recipes, at different learning rates."""
        by_task = []
        for task in self._tasks:
            ranked = sorted(
                (self._best(one, task, factor)[0], abs(math.log(factor)), factor)
                for factor in FACTORS
            )
            by_task.append(
                [
                    _Chosen(
                        factor,
                        self._found[one.name, task, factor][0].factor,
                        self._best(one, task, factor)[1],
                    )
                    for value, _, factor in ranked[:RECIPES]
                    if math.isfinite(value)
                ]
            )
        return [list(option) for option in zip(*by_task, strict=False)]

    def repeated(
        self,
        options: Sequence[tuple[Contender, _Option]],
        stage: str,
        seeds: int,
        resamples: int = 0,
    ) -> list[list[list[Retrained]]]:
        """For every option and seed, the training on every task."""
        wanted = [
            (
                one,
                task,
                Retraining(
                    *(stage, seed, option[task].factor, self._steps, (option[task].steps,)),
                    matched=True,
                    resamples=resamples,
                ),
            )
            for one, option in options
            for seed in range(seeds)
            for task in self._tasks
        ]
        found = iter(self._trainings(wanted))
        return [[[next(found) for _ in self._tasks] for _ in range(seeds)] for _ in options]

    def _best(self, one: Contender, task: int, factor: float) -> tuple[float, int]:
        """The best mean over the seeds at this factor, and its steps: of equal ones, the most."""
        curves = [result.values for result in self._found[one.name, task, factor]]
        found = [
            (statistics.fmean(values), -steps)
            for steps, *values in zip(self._checkpoints, *curves, strict=False)  # the shortest
        ]
        mean, fewer = min(found, default=(math.inf, -self._steps))
        return mean, -fewer


def _rank(entry: Entry) -> tuple[bool, float, bool, float]:
    """Finalists first, by the upper end of their mean; then by the first round."""
    end = math.inf if entry.mean is None else entry.mean + (entry.error or 0.0)
    return entry.mean is None, end, entry.first is None, entry.first or 0.0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
