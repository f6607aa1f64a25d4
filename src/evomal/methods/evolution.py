"""EvoMAL and GP-LFL: genetic programming over expressions (paper, section 3.2.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from evomal.errors import InputError, quoted
from evomal.expressions import operators
from evomal.expressions.expression import Expression, parse
from evomal.losses.form import Form
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.base import Method, Outcome
from evomal.methods.settings import SearchSettings
from evomal.methods.stored import require, typed
from evomal.seeding import derive_generator
from evomal.training.settings import Pipeline


@dataclass(frozen=True)
class Individual:
    """A member of the population; `number` is that of the candidate which it was."""

    expression: Expression
    fitness: float
    number: int
    halted: bool = False

    @property
    def rank(self) -> tuple[bool, bool, float, int, int]:
        """Sorts the better first: fitness, then fewer nodes, then the earlier candidate.

        A halted one comes after those trained to the end, and before those without a fitness.
        """
        worst = math.isinf(self.fitness)
        return worst, self.halted, self.fitness, len(self.expression), self.number


class EvoMAL(Method):
    """Genetic programming for the structure, unrolled differentiation for the weights."""

    name: ClassVar[str] = "evomal"
    description: ClassVar[str] = "expressions by genetic programming, weights by gradient descent"
    pipeline: ClassVar[Pipeline] = Pipeline(tune=True, reject=True, match_gradients=True)

    def __init__(self, settings: SearchSettings, form: Form, seed: int) -> None:
        super().__init__(settings, form, seed)
        self.population: list[Individual] = []
        self._rng = derive_generator(seed, "variation")

    def _ask(self) -> list[SymbolicLoss]:
        offspring = self._offspring() if self.population else self._initial_population()
        return [SymbolicLoss.of_form(e, self.form, self.settings.activation) for e in offspring]

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        offspring = []
        for outcome in outcomes:
            loss = outcome.candidate.loss
            assert isinstance(loss, SymbolicLoss)
            number = outcome.candidate.number
            offspring.append(Individual(loss.expression, outcome.fitness, number, outcome.halted))
        self.population = self._elites() + offspring

    def _elites(self) -> list[Individual]:
        return sorted(self.population, key=lambda member: member.rank)[: self.settings.elites]

    def _initial_population(self) -> list[Expression]:
        rng, settings = self._rng, self.settings
        heights = settings.min_initial_height, settings.max_initial_height
        trees = operators.ramped_half_and_half(
            rng, settings.population_size, *heights, self.form.inputs
        )
        population = [operators.correct(rng, tree) for tree in trees]
        for i in range(len(population)):  # the correction can add an edge; there is no parent yet
            while population[i].height > settings.max_height:
                tree = operators.half_and_half(rng, *heights, self.form.inputs)
                population[i] = operators.correct(rng, tree)
        given = [parse(text, self.form.inputs) for text in settings.initial_losses]
        return [*given, *population[len(given) :]]  # all others are as they would be without

    def _offspring(self) -> list[Expression]:
        count = self.settings.population_size - self.settings.elites
        return [self._child() for _ in range(count)]

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
            f"the expression of {what} is none that the method could have made",
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
        """As numpy takes it."""
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


class GPLFL(EvoMAL):
    """Genetic programming alone: all weights are 1 (paper, section 4.1)."""

    name: ClassVar[str] = "gp-lfl"
    description: ClassVar[str] = "expressions by genetic programming, all weights 1"
    pipeline: ClassVar[Pipeline] = Pipeline(tune=False, reject=True, match_gradients=True)
    unused: ClassVar[tuple[str, ...]] = ("prescreen",)  # nothing is optimised between the screens
