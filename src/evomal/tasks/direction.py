"""How people read metrics; without torch, because the command line prints its help with it."""

from __future__ import annotations

from typing import Literal, TypeVar

Direction = Literal["minimize", "maximize"]
MaybeFloat = TypeVar("MaybeFloat", float, float | None)


def own_value(fitness: MaybeFloat, direction: Direction) -> MaybeFloat:
    """What people read of a minimised value: the metric in its own direction; None for None."""
    if fitness is None or direction == "minimize":
        return fitness
    return 0.0 - fitness  # never -0


def in_words(metric: str) -> str:
    """The name of a metric in words."""
    return "metric" if metric == "<lambda>" else metric.replace("_", " ")
