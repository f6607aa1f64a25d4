"""Genetic programming over expressions (paper, section 3.2.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from evomal import losses
from evomal.errors import InputError, quoted
from evomal.expressions import operators
from evomal.expressions.expression import Expression, parse
from evomal.methods.base import Method, Outcome, Rank, rank
from evomal.methods.settings import MOST_GROWTH, ExpressionSettings
from evomal.methods.stored import require, typed
from evomal.seeding import derive_generator
from evomal.training.settings import require_number, require_whole

if TYPE_CHECKING:
    from evomal.losses.form import Form
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

    initial_losses: tuple[str, ...] = ()
    """Losses to include in generation 0: quoted expressions, names of known losses, loss files or
    run directories."""

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

    def resolved(self, resolve: Callable[[str], str]) -> Self:
        """A copy with the initial losses as expressions."""
        return replace(self, initial_losses=tuple(map(resolve, self.initial_losses)))

    def validate(self, inputs: Sequence[str] = ()) -> None:
        """Raise an `InputError` for the first invalid setting."""
        super().validate(inputs)
        require_whole(self, 1, 10_000, "tournament_size")
        require_whole(self, 0, MOST_GROWTH, "max_mutation_height")
        require_number(self, 1, "crossover_rate", "mutation_rate", "elitism_rate", zero=True)
        if self.crossover_rate + self.mutation_rate > 1 or self.elitism_rate == 1:
            raise InputError(
                "The sum of crossover_rate and mutation_rate must not exceed 1, and elitism_rate "
                "must be below 1."
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

    @property
    def offspring(self) -> int:
        """Number of new losses per generation."""
        return self.population_size - self.elites


@dataclass(frozen=True)
class Individual:
    """A member of the population; `number` is the number of its candidate."""

    expression: Expression
    fitness: float
    number: int
    halted: bool = False

    @property
    def rank(self) -> Rank:
        """Sort key, better first."""
        return rank(self.fitness, len(self.expression), self.number, halted=self.halted)


def draw_population(
    rng: np.random.Generator, settings: ExpressionSettings, inputs: Sequence[str]
) -> list[Expression]:
    """Random expressions that use both arguments and respect the heights in the settings."""
    heights = settings.min_initial_height, settings.max_initial_height
    trees = operators.ramped_half_and_half(rng, settings.population_size, *heights, inputs)
    population = [operators.correct(rng, tree) for tree in trees]
    for i in range(len(population)):  # the correction can add an edge; there is no parent yet
        while population[i].height > settings.max_height:
            tree = operators.half_and_half(rng, *heights, inputs)
            population[i] = operators.correct(rng, tree)
    return population


class GeneticProgramming(Method):
    """Tournament selection, crossover, mutation and elitism, independent of the evaluation."""

    settings: GeneticSettings

    def __init__(self, settings: GeneticSettings, form: Form, seed: int) -> None:
        super().__init__(settings, form, seed)
        self.population: list[Individual] = []
        self._rng = derive_generator(seed, "variation")

    def _ask(self) -> list[SymbolicLoss]:
        offspring = self._offspring() if self.population else self._initial_population()
        return [
            losses.SymbolicLoss.of_form(e, self.form, self.settings.activation) for e in offspring
        ]

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        offspring = []
        for outcome in outcomes:
            loss = outcome.candidate.loss
            assert isinstance(loss, losses.SymbolicLoss)
            number = outcome.candidate.number
            offspring.append(Individual(loss.expression, outcome.fitness, number, outcome.halted))
        self.population = self._elites() + offspring

    def _elites(self) -> list[Individual]:
        return sorted(self.population, key=lambda member: member.rank)[: self.settings.elites]

    def _initial_population(self) -> list[Expression]:
        population = draw_population(self._rng, self.settings, self.form.inputs)
        given = [parse(text, self.form.inputs) for text in self.settings.initial_losses]
        return [*given, *population[len(given) :]]  # the others do not depend on given ones

    def _offspring(self) -> list[Expression]:
        return [self._child() for _ in range(self.settings.offspring)]

    def _child(self) -> Expression:
        rng, settings = self._rng, self.settings
        operator = rng.random()
        parent = self._select()
        if operator < settings.crossover_rate:
            child = operators.one_point_crossover(rng, parent, self._select())
        elif operator < settings.crossover_rate + settings.mutation_rate:
            height = settings.max_mutation_height
            child = operators.uniform_mutation(rng, parent, height, self.form.inputs)
        else:
            child = parent
        child = operators.correct(rng, child)
        return child if child.height <= settings.max_height else parent

    def _select(self) -> Expression:
        """The winner of a tournament."""
        indices = self._rng.integers(len(self.population), size=self.settings.tournament_size)
        rivals: list[Individual] = [self.population[i] for i in indices]
        return min(rivals, key=lambda rival: rival.rank).expression

    def _state(self) -> dict[str, Any]:
        return {
            "generator": self._rng.bit_generator.state,
            "population": [
                {
                    "expression": str(member.expression),
                    "fitness": member.fitness if math.isfinite(member.fitness) else None,
                    "number": member.number,
                    "halted": member.halted,
                }
                for member in self.population
            ],
        }

    def _load_state(self, state: Any) -> None:
        stored: _Stored = typed(_Stored, state, "the state of the method")
        size = self.settings.population_size if self.generation else 0
        require(
            len(stored.population) == size,
            f"the population of the method has {len(stored.population)} members, not {size}",
        )
        self._rng.bit_generator.state = stored.generator.checked()
        self.population = [self._member(i, member) for i, member in enumerate(stored.population)]

    def _member(self, place: int, stored: _StoredMember) -> Individual:
        what = f"member {place} of the population"
        try:
            expression = parse(stored.expression, self.form.inputs)
        except InputError as error:
            raise InputError(f"the expression of {what} is damaged: {error}") from error
        require(
            expression.uses_both_arguments() and expression.height <= self.settings.max_height,
            f"the expression of {what} is not one that the method can propose",
        )
        require(
            0 <= stored.number < self._candidates, f"{what} is candidate {quoted(stored.number)}"
        )
        fitness = math.inf if stored.fitness is None else stored.fitness
        return Individual(expression, fitness, stored.number, stored.halted)


@dataclass(frozen=True)
class _StoredMember:
    expression: str
    fitness: float | None
    number: int
    halted: bool


@dataclass(frozen=True)
class _StoredStream:
    state: int
    inc: int


@dataclass(frozen=True)
class _StoredGenerator:
    """The state of numpy's PCG64."""

    bit_generator: Literal["PCG64"]
    state: _StoredStream
    has_uint32: int
    uinteger: int

    def checked(self) -> dict[str, Any]:
        """The state in NumPy's format."""
        require(
            0 <= self.state.state < 2**128
            and 0 <= self.state.inc < 2**128
            and self.state.inc % 2 == 1
            and self.has_uint32 in (0, 1)
            and 0 <= self.uinteger < 2**32,
            "the random generator of the method has an impossible state",
        )
        return asdict(self)


@dataclass(frozen=True)
class _Stored:
    generator: _StoredGenerator
    population: tuple[_StoredMember, ...]
