"""Settings of all methods, and of those with populations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from evomal.errors import InputError
from evomal.training.settings import (
    MOST_LOSSES,
    MOST_STEPS,
    TrainingSettings,
    require_choice,
    require_whole,
)

if TYPE_CHECKING:
    from evomal.losses.symbolic import SymbolicLoss

MOST_GROWTH = 20
"""Maximum height of a randomly drawn tree, which then has at most a million leaves."""

MOST_HEIGHT = 100
"""Maximum height of any tree."""


STANDARD: Mapping[str, Any] = {"testing_steps": None, "tune_recipe": True, "confirm": 5}
"""What the preset standard changes for every method."""

QUICK: Mapping[str, Any] = {**STANDARD, "training_budget": 1.5e10, "confirm": 3}
"""The same for the preset quick."""


@dataclass(frozen=True)
class WorkSettings(TrainingSettings):
    """Settings of the work on candidates.

    The defaults suit a method that trains one loss.
    """

    @property
    def generations(self) -> int:
        """Number of generations, including the first one."""
        return 1

    @property
    def population_size(self) -> int:
        """Losses per generation."""
        return 1

    @property
    def largest_generation(self) -> int:
        """Most candidates in a generation."""
        return self.population_size

    @property
    def offspring(self) -> int:
        """Candidates per generation after the first one."""
        return self.population_size

    @property
    def halving(self) -> bool:
        """Whether trainings that are worse than the median are stopped early."""
        return False


@dataclass(frozen=True)
class SearchSettings(WorkSettings):
    """Settings of every method; those of one method are in its subclass."""

    tune_recipe: bool = False
    """Tune the learning rate with the task loss on validation data first, and search with the best
    one; the paper searches with the task's."""

    confirm: int = 0
    """Number of leading losses to train again on fresh seeds after the search, beside known losses
    and the task loss, each with its learning rate and steps tuned; the best one is the result, with
    a verdict. 0: none, as in the paper, and the fitness of one training decides."""

    confirmation_steps: int | None = None
    """Most steps of these trainings; default those of the task's trainings, at most four times
    testing_steps."""

    def resolved(self, resolve: Callable[[str], SymbolicLoss], known: Sequence[str] = ()) -> Self:
        """A copy in which losses given as text are replaced by their expressions.

        `resolve` maps a text to its loss; `known` are the known losses that suit the tasks.
        """
        return self

    def validate(self, inputs: Sequence[str] = ()) -> None:
        """Raise an `InputError` for the first invalid setting.

        `inputs` are the extra inputs that losses may use.
        """
        super().validate()
        require_choice(self, "tune_recipe", True, False)
        require_whole(self, 0, 1000, "confirm")
        require_whole(self, 1, MOST_STEPS, "confirmation_steps")


@dataclass(frozen=True)
class PopulationSettings(SearchSettings):
    """Settings of a method that proposes generations of losses."""

    population_size: int = 25
    """Losses per generation."""

    generations: int = 50
    """Number of generations, including the initial one."""

    halving: bool = False
    """Stop a partial training after a quarter or half of its steps if it is worse than the median,
    at that point, of the latest trainings of earlier generations; the paper stops none."""

    def validate(self, inputs: Sequence[str] = ()) -> None:
        """Raise an `InputError` for the first invalid setting."""
        super().validate(inputs)
        require_whole(self, 1, MOST_LOSSES, "population_size")
        require_whole(self, 1, 1_000_000, "generations")
        require_choice(self, "halving", True, False)


@dataclass(frozen=True)
class ExpressionSettings(PopulationSettings):
    """Settings of a method that starts from randomly drawn expressions."""

    min_initial_height: int = 2
    """Minimum height of an initial tree, in edges."""

    max_initial_height: int = 4
    """Maximum height of an initial tree."""

    max_height: int = 10
    """Maximum height of any tree."""

    activation: Literal["identity", "softplus"] = "identity"
    """Output activation of the losses; softplus makes them non-negative."""

    def validate(self, inputs: Sequence[str] = ()) -> None:
        """Raise an `InputError` for the first invalid setting."""
        super().validate(inputs)
        require_whole(self, 0, MOST_GROWTH, "min_initial_height", "max_initial_height")
        require_whole(self, 0, MOST_HEIGHT, "max_height")
        if not 1 <= self.max_initial_height <= self.max_height:
            raise InputError("The setting max_initial_height must lie in 1 to max_height.")
        if self.min_initial_height > self.max_initial_height:
            raise InputError("The setting min_initial_height must not exceed max_initial_height.")
        require_choice(self, "activation", "identity", "softplus")
