"""How people read fitness, which is always minimised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evomal.tasks.direction import Direction, MaybeFloat, in_words, own_value


@dataclass(frozen=True)
class Scale:
    """The metrics of a run's tasks, one by one, and their directions.

    Fitness is their mean, with those negated that are maximised. If all are, people read the mean
    itself.
    """

    metrics: Sequence[str]
    directions: Sequence[Direction]

    @property
    def direction(self) -> Direction:
        """Whether what people read is maximised."""
        return "minimize" if "minimize" in self.directions else "maximize"

    @property
    def better(self) -> str:
        """What is better: lower or higher."""
        return "lower" if self.direction == "minimize" else "higher"

    @property
    def title(self) -> str:
        """What the values are called: fitness if they are minimised."""
        return "fitness" if self.direction == "minimize" else self.names

    @property
    def names(self) -> str:
        """The metrics in words."""
        named = [
            in_words(metric) if direction == self.direction else f"negative {in_words(metric)}"
            for metric, direction in zip(self.metrics, self.directions, strict=True)
        ]
        return " and ".join(dict.fromkeys(named))

    def value(self, fitness: MaybeFloat) -> MaybeFloat:
        """What people read; None for None. It is its own inverse."""
        return own_value(fitness, self.direction)
