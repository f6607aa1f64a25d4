"""The recipe of a search: the learning rate at which the task loss learns best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evomal.runs.retrainings import TASK_LOSSES, Wanted
from evomal.training.learning import MOST, RATES, best_factor, further
from evomal.training.retraining import Retrained, Retraining

SEEDS = 3
"""Trainings for each learning rate."""

STAGE = "recipe"


@dataclass(frozen=True)
class Recipe:
    """How a task is trained during a search.

    Attributes
    ----------
    factor
        Of the task's learning rate.
    learning_rate
        Their product.
    fitness
        Mean L_P of the task loss on validation data, lower is better; None if it diverges at every
        learning rate tried. The factor is 1 then.
    tried
        The same by factor of the learning rate; None where any training diverged.
    """

    factor: float
    learning_rate: float
    fitness: float | None
    tried: Mapping[str, float | None]


def find_recipes(
    trainings: Callable[[Sequence[Wanted]], list[Retrained]],
    learning_rates: Sequence[float],
    steps: int,
) -> list[Recipe]:
    """Tune the learning rate of every task with the task loss.

    Parameters
    ----------
    trainings
        Does trainings.
    learning_rates
        The learning rate of every task.
    steps
        S_testing.
    """
    return [_recipe(trainings, task, rate, steps) for task, rate in enumerate(learning_rates)]


def _recipe(
    trainings: Callable[[Sequence[Wanted]], list[Retrained]], task: int, rate: float, steps: int
) -> Recipe:
    values: dict[float, float | None] = {}

    def try_out(factors: Sequence[float]) -> None:
        wanted = [
            (
                TASK_LOSSES,
                task,
                Retraining(STAGE, seed, factor, steps, (steps,), meta_testing=False),
            )
            for factor in factors
            for seed in range(SEEDS)
        ]
        found = trainings(wanted)
        for place, factor in enumerate(factors):
            mean = statistics.fmean(one.last for one in found[place * SEEDS : (place + 1) * SEEDS])
            values[factor] = mean if math.isfinite(mean) else None

    try_out(RATES)
    while len(values) < MOST and (following := further(values, None)) is not None:
        try_out([following])
    best = best_factor(values)
    tried = {f"{factor:g}": values[factor] for factor in sorted(values)}
    if best is None:
        return Recipe(1.0, rate, None, tried)
    return Recipe(best, best * rate, values[best], tried)
