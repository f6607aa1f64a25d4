"""Settings of genetic programming (paper, section 3.2.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from evomal.errors import InputError, quoted
from evomal.expressions.expression import parse
from evomal.methods.settings import MOST_GROWTH, ExpressionSettings
from evomal.training.settings import require_choice, require_number, require_whole

if TYPE_CHECKING:
    from evomal.losses.symbolic import SymbolicLoss


@dataclass(frozen=True)
class GeneticSettings(ExpressionSettings):
    """Settings of genetic programming; the defaults are the paper's (section 3.2.2)."""

    tournament_size: int = 4
    """Losses per tournament."""

    crossover_rate: float = 0.7
    """Fraction of offspring from one-point crossover."""

    mutation_rate: float = 0.25
    """Fraction of offspring from uniform mutation; the rest are copies."""

    elitism_rate: float = 0.05
    """Fraction of the population carried over unchanged, at least one loss."""

    max_mutation_height: int = 2
    """Maximum height of a subtree inserted by mutation."""

    inherit_weights: bool = False
    """Children start from the tuned weights of their parents, and initial losses from their own; in
    the paper every loss starts near 1."""

    weight_mutation_rate: float = 0.0
    """Fraction of offspring that are a parent with about half of its weights multiplied by random
    factors; needs inherit_weights."""

    replacements: int = 0
    """Most candidates per place of a generation that replace duplicates, and children that were
    rejected, diverged or equivalent; with any, losses that were seen before are drawn anew."""

    known_losses: bool = False
    """Include losses in the books that suit the task in generation 0, after the initial losses; at
    most half of the population then is given."""

    initial_losses: tuple[str, ...] = ()
    """Losses to include in generation 0: quoted expressions, names of known losses, loss files or
    run directories."""

    initial_weights: tuple[tuple[float, ...], ...] = ()
    """Weights of the initial losses, one per edge, with inherit_weights; by default their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given: object = self.initial_losses
        if isinstance(given, str):
            given = (given,)
        if not (isinstance(given, list | tuple) and all(isinstance(text, str) for text in given)):
            raise InputError(
                f"The setting initial_losses must be a list of strings, got {quoted(given)}."
            )
        object.__setattr__(self, "initial_losses", tuple(given))
        weights: object = self.initial_weights
        if not (isinstance(weights, list | tuple) and all(map(_are_weights, weights))):
            raise InputError(
                "The setting initial_weights must be a list of lists of numbers, got "
                f"{quoted(weights)}."
            )
        floats = tuple(tuple(map(float, row)) for row in weights)
        object.__setattr__(self, "initial_weights", floats)

    def resolved(self, resolve: Callable[[str], SymbolicLoss], known: Sequence[str] = ()) -> Self:
        """A copy with the initial losses, the known ones included, as expressions.

        They come with their weights if children inherit weights. Known losses fill the population
        up to its half.
        """
        found = [resolve(text) for text in self.initial_losses]
        self._validate_initial_weights([loss.size for loss in found])
        starts = [self._start(loss) for loss in found]
        if self.initial_weights:
            starts = [
                (text, own) for (text, _), own in zip(starts, self.initial_weights, strict=True)
            ]
        for loss in map(resolve, known if self.known_losses else ()):
            start = self._start(loss)
            if start in starts or loss.expression.height > self.max_height:
                continue
            if len(starts) < self.population_size // 2:
                starts.append(start)
        return replace(
            self,
            initial_losses=tuple(text for text, _ in starts),
            initial_weights=tuple(own for _, own in starts) if self.inherit_weights else (),
        )

    def _start(self, loss: SymbolicLoss) -> tuple[str, tuple[float, ...]]:
        """The expression of an initial loss, and its weights if these count."""
        return str(loss.expression), tuple(loss.phi.tolist()) if self.inherit_weights else ()

    def validate(self, inputs: Sequence[str] = ()) -> None:
        """Raise an `InputError` for the first invalid setting."""
        super().validate(inputs)
        require_whole(self, 1, 10_000, "tournament_size")
        require_whole(self, 0, MOST_GROWTH, "max_mutation_height")
        require_whole(self, 0, 1000, "replacements")
        rates = "crossover_rate", "mutation_rate", "weight_mutation_rate"
        require_number(self, 1, *rates, "elitism_rate", zero=True)
        if math.fsum(getattr(self, rate) for rate in rates) > 1 or self.elitism_rate == 1:
            raise InputError(
                "The sum of crossover_rate, mutation_rate and weight_mutation_rate must not exceed "
                "1, and elitism_rate must be below 1."
            )
        require_choice(self, "inherit_weights", True, False)
        require_choice(self, "known_losses", True, False)
        if self.weight_mutation_rate and not self.inherit_weights:
            raise InputError(
                "The setting weight_mutation_rate has an effect only with inherit_weights; set "
                "inherit_weights, or leave it at 0."
            )
        if self.generations > 1 and self.offspring < 1:
            raise InputError(
                f"A population of {self.population_size} is carried over unchanged, so nothing new "
                "is searched after the first generation; raise population_size, or set "
                "generations to 1."
            )
        self._validate_initial_losses(tuple(inputs))

    def _validate_initial_losses(self, inputs: tuple[str, ...]) -> None:
        if len(self.initial_losses) > self.population_size:
            raise InputError(
                f"There are {len(self.initial_losses)} initial losses for a population of "
                f"{self.population_size}; raise population_size."
            )
        sizes = []
        for text in self.initial_losses:
            expression = parse(text, inputs)
            if not expression.uses_both_arguments():
                raise InputError(f"The initial loss {quoted(text)} must use both y and f.")
            if expression.height > self.max_height:
                raise InputError(
                    f"The initial loss {quoted(text)} has height {expression.height}, but "
                    f"max_height is {self.max_height}."
                )
            sizes.append(len(expression))
        self._validate_initial_weights(sizes)

    def _validate_initial_weights(self, sizes: Sequence[int]) -> None:
        given = [len(weights) for weights in self.initial_weights]
        if given and not self.inherit_weights:
            raise InputError(
                "The setting initial_weights has an effect only with inherit_weights; set "
                "inherit_weights, or omit it."
            )
        if given and given != [size - 1 for size in sizes]:
            raise InputError(
                "The setting initial_weights must have one list for every initial loss, with one "
                "weight per edge; omit it to use the weights of the losses."
            )

    @property
    def elites(self) -> int:
        """Number of losses carried over."""
        return max(1, int(self.elitism_rate * self.population_size))

    @property
    def offspring(self) -> int:
        """Number of new losses per generation."""
        return self.population_size - self.elites


def _are_weights(values: object) -> bool:
    return isinstance(values, list | tuple) and all(
        type(value) in (int, float) and math.isfinite(value) for value in values
    )
