"""What can be set for a search: for every method, and for those that have populations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from evomal.errors import InputError
from evomal.training.settings import (
    MOST_LOSSES,
    TrainingSettings,
    require_choice,
    require_whole,
)

MOST_GROWTH = 20
"""Height of a tree that is drawn at random: at most, it has a million leaves."""

MOST_HEIGHT = 100
"""Of any tree."""


@dataclass(frozen=True)
class SearchSettings(TrainingSettings):
    """Settings that every method has; what only some read is in their own subclasses.

    On its own, it is that of a method which trains one loss.
    """

    @property
    def generations(self) -> int:
        """Number of generations, the first one included."""
        return 1

    @property
    def population_size(self) -> int:
        """Losses in a generation."""
        return 1

    @property
    def offspring(self) -> int:
        """Candidates of every generation but the first one."""
        return self.population_size

    @property
    def halving(self) -> bool:
        """Whether trainings are stopped that are worse than the median."""
        return False

    def resolved(self, resolve: Callable[[str], str]) -> Self:
        """The same, with every loss that is given by a text as the expression that it stands for.

        `resolve` makes the one into the other.
        """
        return self

    def validate(self, inputs: Sequence[str] = ()) -> None:
        """Raise an `InputError` for the first setting that makes no sense.

        `inputs` are the further inputs that losses may use.
        """
        super().validate()


@dataclass(frozen=True)
class PopulationSettings(SearchSettings):
    """Of a method that proposes generations of losses."""

    population_size: int = 25
    """Losses in a generation."""

    generations: int = 50
    """Number of generations, the initial one included."""

    halving: bool = False
    """Stop a partial training after a quarter or half of its steps where it is worse than the
    median, at that point, of the last trainings of earlier generations that came so far; the paper
    stops none."""

    def validate(self, inputs: Sequence[str] = ()) -> None:
        """Raise an `InputError` for the first setting that makes no sense."""
        super().validate(inputs)
        require_whole(self, 1, MOST_LOSSES, "population_size")
        require_whole(self, 1, 1_000_000, "generations")
        require_choice(self, "halving", True, False)


@dataclass(frozen=True)
class ExpressionSettings(PopulationSettings):
    """Of a method whose losses are expressions that it draws at random, at least to begin with."""

    min_initial_height: int = 2
    """Least height of an initial tree, in edges."""

    max_initial_height: int = 4
    """Greatest height of an initial tree."""

    max_height: int = 10
    """Greatest height of any tree."""

    activation: Literal["identity", "softplus"] = "identity"
    """Output activation of the losses; softplus makes them non-negative."""

    def validate(self, inputs: Sequence[str] = ()) -> None:
        """Raise an `InputError` for the first setting that makes no sense."""
        super().validate(inputs)
        require_whole(self, 0, MOST_GROWTH, "min_initial_height", "max_initial_height")
        require_whole(self, 0, MOST_HEIGHT, "max_height")
        if not 1 <= self.max_initial_height <= self.max_height:
            raise InputError("The setting max_initial_height must lie in 1 to max_height.")
        if self.min_initial_height > self.max_initial_height:
            raise InputError("The setting min_initial_height must not exceed max_initial_height.")
        require_choice(self, "activation", "identity", "softplus")
