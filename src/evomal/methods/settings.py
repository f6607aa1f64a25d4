"""Everything that can be set for a search, and the two presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evomal.errors import InputError
from evomal.expressions.expression import parse
from evomal.training.settings import EvaluationSettings, require_at_least


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

    def validate(self, inputs: Sequence[str] = ()) -> None:
        """Raise an `InputError` for the first setting that makes no sense.

        `inputs` are the further inputs that the initial losses may use.
        """
        super().validate()
        require_at_least(self, 1, "population_size", "generations", "tournament_size")
        heights = "min_initial_height", "max_initial_height", "max_mutation_height", "max_height"
        require_at_least(self, 0, *heights)
        if not 1 <= self.max_initial_height <= self.max_height:
            raise InputError("The setting max_initial_height must lie in 1 to max_height.")
        if self.min_initial_height > self.max_initial_height:
            raise InputError("The setting min_initial_height must not exceed max_initial_height.")
        rates = self.crossover_rate, self.mutation_rate, self.elitism_rate
        if not (
            all(0 <= rate <= 1 for rate in rates)
            and self.crossover_rate + self.mutation_rate <= 1
            and self.elitism_rate < 1
        ):
            raise InputError(
                "The rates must not be negative, crossover_rate + mutation_rate must not exceed 1, "
                "and elitism_rate must be below 1."
            )
        if self.activation not in ("identity", "softplus"):
            raise InputError("The setting activation must be identity or softplus.")
        self._validate_initial_losses(tuple(inputs))

    def _validate_initial_losses(self, inputs: tuple[str, ...]) -> None:
        if len(self.initial_losses) > self.population_size:
            raise InputError(
                f"There are {len(self.initial_losses)} initial losses for a population of "
                f"{self.population_size}; raise population_size."
            )
        for text in self.initial_losses:
            expression = parse(text, inputs)
            if not expression.uses_both_arguments():
                raise InputError(f"The initial loss {text} must use both y and f.")
            if expression.height > self.max_height:
                raise InputError(
                    f"The initial loss {text} has height {expression.height}, but max_height is "
                    f"{self.max_height}."
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
