"""Everything that can be set for a search, and the two presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evomal.errors import InputError, quoted, require_name
from evomal.expressions.expression import parse
from evomal.training.settings import (
    MOST_LOSSES,
    EvaluationSettings,
    require_choice,
    require_number,
    require_whole,
)

MOST_GROWTH = 20
"""Height of a tree that is drawn at random: at most, it has a million leaves."""

MOST_HEIGHT = 100
"""Of any tree."""


@dataclass(frozen=True)
class SearchSettings(EvaluationSettings):
    """Settings of a search; the defaults are the paper's (section 3.2.2)."""

    population_size: int = 25
    """Losses in a generation."""

    generations: int = 50
    """Number of generations, the initial one included."""

    tournament_size: int = 4
    """Losses that compete to become a parent."""

    crossover_rate: float = 0.7
    """Share of offspring by one-point crossover."""

    mutation_rate: float = 0.25
    """Share of offspring by uniform mutation; the rest is reproduced."""

    elitism_rate: float = 0.05
    """Share of the population carried over as it is, at least one loss."""

    min_initial_height: int = 2
    """Least height of an initial tree, in edges."""

    max_initial_height: int = 4
    """Greatest height of an initial tree."""

    max_mutation_height: int = 2
    """Greatest height of a subtree that mutation inserts."""

    max_height: int = 10
    """Greatest height of any tree."""

    activation: Literal["identity", "softplus"] = "identity"
    """Output activation of the losses; softplus makes them non-negative."""

    initial_losses: tuple[str, ...] = ()
    """Losses that take the first places of generation 0: expressions in quotes, names of known
    losses, loss files or run directories."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given: object = self.initial_losses
        if isinstance(given, str):
            given = (given,)
        if not (isinstance(given, list | tuple) and all(isinstance(text, str) for text in given)):
            raise InputError(
                f"The setting initial_losses must be a list of texts, but is {quoted(given)}."
            )
        object.__setattr__(self, "initial_losses", tuple(given))

    def validate(self, inputs: Sequence[str] = ()) -> None:
        """Raise an `InputError` for the first setting that makes no sense.

        `inputs` are the further inputs that the initial losses may use.
        """
        super().validate()
        require_whole(self, 1, MOST_LOSSES, "population_size")
        require_whole(self, 1, 1_000_000, "generations")
        require_whole(self, 1, 10_000, "tournament_size")
        require_whole(
            self, 0, MOST_GROWTH, "min_initial_height", "max_initial_height", "max_mutation_height"
        )
        require_whole(self, 0, MOST_HEIGHT, "max_height")
        if not 1 <= self.max_initial_height <= self.max_height:
            raise InputError("The setting max_initial_height must lie in 1 to max_height.")
        if self.min_initial_height > self.max_initial_height:
            raise InputError("The setting min_initial_height must not exceed max_initial_height.")
        require_number(self, 1, "crossover_rate", "mutation_rate", "elitism_rate", zero=True)
        if self.crossover_rate + self.mutation_rate > 1 or self.elitism_rate == 1:
            raise InputError(
                "The rates crossover_rate and mutation_rate must not exceed 1 together, and "
                "elitism_rate must be below 1."
            )
        require_choice(self, "activation", "identity", "softplus")
        self._validate_initial_losses(tuple(inputs))

    def require_offspring(self) -> None:
        """Raise an `InputError` if later generations hold nothing new: not wrong, but no search."""
        if self.generations > 1 and self.elites >= self.population_size:
            raise InputError(
                f"A population_size of {self.population_size} is carried over as it is, so that "
                "nothing new is searched after the first generation; raise population_size, or "
                "set generations to 1."
            )

    def _validate_initial_losses(self, inputs: tuple[str, ...]) -> None:
        if len(self.initial_losses) > self.population_size:
            raise InputError(
                f"There are {len(self.initial_losses)} initial losses for a population of "
                f"{self.population_size}; raise population_size."
            )
        for text in self.initial_losses:
            expression = parse(text, inputs)
            if not expression.uses_both_arguments():
                raise InputError(f"The initial loss {quoted(text)} must use both y and f.")
            if expression.height > self.max_height:
                raise InputError(
                    f"The initial loss {quoted(text)} has height {expression.height}, but "
                    f"max_height is {self.max_height}."
                )

    @property
    def elites(self) -> int:
        """Number of losses carried over."""
        return max(1, int(self.elitism_rate * self.population_size))


PRESETS: dict[str, SearchSettings] = {
    "paper": SearchSettings(),
    "quick": SearchSettings(
        population_size=20,
        generations=7,
        meta_steps=25,
        rejection_steps=100,
        prescreen=True,
        testing_steps=100,
    ),
}
"""`paper`: the published values. `quick`: a first look, in about two minutes on two cores."""


def choose_preset(name: str) -> SearchSettings:
    """The settings of a preset.

    Raises
    ------
    InputError
        If there is no such preset.
    """
    require_name("preset", name, PRESETS, "evomal.methods.settings.PRESETS lists them")
    return PRESETS[name]
