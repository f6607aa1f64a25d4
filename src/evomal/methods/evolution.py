"""Genetic programming over expressions (paper, section 3.2.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from evomal import losses
from evomal.errors import InputError, quoted
from evomal.expressions import operators
from evomal.expressions.expression import Expression, parse
from evomal.expressions.operators import Tree
from evomal.expressions.weighted import WeightedExpression
from evomal.methods.base import TRAINED, Method, Outcome, Rank, by_structure, rank
from evomal.methods.genetic_settings import GeneticSettings
from evomal.methods.settings import ExpressionSettings
from evomal.methods.stored import StoredGenerator, require, typed
from evomal.seeding import derive_generator

if TYPE_CHECKING:
    from evomal.losses.form import Form
    from evomal.losses.meta import MetaLoss
    from evomal.losses.symbolic import SymbolicLoss


MOST_DRAWS = 20
"""How often a loss is drawn at most until it is one that was not seen before."""


def by_rounded_weights(loss: MetaLoss | None, number: int) -> str:
    """Identity of losses by structure alone where all weights are 1, as at the paper's start.

    Others also differ by their weights, rounded to two significant digits.
    """
    if not isinstance(loss, losses.SymbolicLoss) or bool((loss.phi == 1).all()):
        return by_structure(loss, number)
    return _weighted(loss).rounded


def _weighted(loss: SymbolicLoss) -> WeightedExpression:
    return WeightedExpression(loss.expression, tuple(loss.phi.tolist()))


@dataclass(frozen=True)
class Individual:
    """A member of the population.

    `number` is that of its candidate; `weights` are what its children inherit, None if they
    inherit none.
    """

    expression: Expression
    fitness: float
    number: int
    halted: bool = False
    weights: tuple[float, ...] | None = None

    def bare(self) -> Expression:
        """What its children are made of."""
        return self.expression

    def weighted(self) -> WeightedExpression:
        """What its children are made of, if they inherit weights."""
        assert self.weights is not None
        return WeightedExpression(self.expression, self.weights)

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
    return [  # the correction can add an edge; there is no parent yet
        tree if tree.height <= settings.max_height else draw_expression(rng, settings, inputs)
        for tree in population
    ]


def draw_expression(
    rng: np.random.Generator, settings: ExpressionSettings, inputs: Sequence[str]
) -> Expression:
    """One such expression, alone."""
    heights = settings.min_initial_height, settings.max_initial_height
    while True:
        tree = operators.correct(rng, operators.half_and_half(rng, *heights, inputs))
        if tree.height <= settings.max_height:
            return tree


class GeneticProgramming(Method):
    """Tournament selection, crossover, mutation and elitism, independent of the evaluation."""

    settings: GeneticSettings
    identity = staticmethod(by_rounded_weights)

    def __init__(self, settings: GeneticSettings, form: Form, seed: int) -> None:
        super().__init__(settings, form, seed)
        self.population: list[Individual] = []
        self._rng = derive_generator(seed, "variation")
        self._rounds = 0  # of replacements in this generation

    def _ask(self) -> list[SymbolicLoss]:
        self._rounds = 0
        trees = self._offspring() if self.population else self._initial_population()
        return self._new([self._loss(tree) for tree in trees])

    def _ask_more(self, outcomes: Sequence[Outcome]) -> list[SymbolicLoss]:
        if self._rounds == self.settings.replacements:
            return []
        self._rounds += 1
        trained = sum(outcome.status in TRAINED for outcome in outcomes)
        return self._new([self._drawn() for _ in range(self._places - trained)])

    @property
    def _places(self) -> int:
        """How many members of the population this generation brings."""
        return self.settings.offspring if self.population else self.settings.population_size

    def _drawn(self) -> SymbolicLoss:
        """A loss for one more place."""
        if self.population:
            return self._loss(self._child())
        return self._loss(draw_expression(self._rng, self.settings, self.form.inputs))

    def _new(self, drawn: Sequence[SymbolicLoss]) -> list[SymbolicLoss]:
        """The losses, with those that were seen before drawn anew if duplicates are replaced."""
        if not self.settings.replacements:
            return list(drawn)
        given = 0 if self.population or self._rounds else len(self.settings.initial_losses)
        kept = list(drawn[:given])
        seen = {self.identity(loss, 0) for loss in kept}
        for loss in drawn[given:]:
            for _ in range(MOST_DRAWS - 1):
                identity = self.identity(loss, 0)
                if identity not in seen and not self.archive.knows(identity, self._candidates):
                    break
                loss = self._drawn()
            seen.add(self.identity(loss, 0))
            kept.append(loss)
        return kept

    def _loss(self, tree: Expression | WeightedExpression) -> SymbolicLoss:
        activation = self.settings.activation
        if isinstance(tree, WeightedExpression):
            of, phi = tree.expression, tree.weights
            return losses.SymbolicLoss.of_form(of, self.form, activation, phi)
        return losses.SymbolicLoss.of_form(tree, self.form, activation)

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        chosen = sorted(outcomes, key=lambda one: (one.status not in TRAINED, one.rank))
        numbers = {outcome.candidate.number for outcome in chosen[: self._places]}
        places = [one for one in outcomes if one.candidate.number in numbers]
        self.population = self._elites() + [self._individual(outcome) for outcome in places]

    def _individual(self, outcome: Outcome) -> Individual:
        loss = outcome.candidate.loss
        assert isinstance(loss, losses.SymbolicLoss)
        weights = None
        if self.settings.inherit_weights:
            loss = outcome.loss if self._can_be_a_parent(outcome.loss) else loss
            weights = tuple(loss.phi.tolist())
        number = outcome.candidate.number
        return Individual(loss.expression, outcome.fitness, number, outcome.halted, weights)

    def _can_be_a_parent(self, loss: MetaLoss | None) -> TypeGuard[SymbolicLoss]:
        """Whether a final loss has weights to inherit; it may be higher than its candidate."""
        return (
            isinstance(loss, losses.SymbolicLoss)
            and loss.expression.height <= self.settings.max_height
            and bool(loss.phi.isfinite().all())
        )

    def _elites(self) -> list[Individual]:
        return sorted(self.population, key=lambda member: member.rank)[: self.settings.elites]

    def _initial_population(self) -> Sequence[Expression | WeightedExpression]:
        population = draw_population(self._rng, self.settings, self.form.inputs)
        given = self._initial_losses()
        return [*given, *population[len(given) :]]  # the others do not depend on given ones

    def _initial_losses(self) -> Sequence[Expression | WeightedExpression]:
        given = [parse(text, self.form.inputs) for text in self.settings.initial_losses]
        if not self.settings.initial_weights:
            return given
        return list(map(WeightedExpression, given, self.settings.initial_weights))

    def _offspring(self) -> Sequence[Expression | WeightedExpression]:
        return [self._child() for _ in range(self.settings.offspring)]

    def _child(self) -> Expression | WeightedExpression:
        if self.settings.inherit_weights:
            return self._child_of(Individual.weighted)
        return self._child_of(Individual.bare)

    def _child_of(self, tree: Callable[[Individual], Tree]) -> Tree:
        """A child of members of the population, as this function gives them."""
        rng, settings = self._rng, self.settings
        operator = rng.random()
        parent = tree(self._select())
        mutated = settings.crossover_rate + settings.mutation_rate
        if operator < settings.crossover_rate:
            child = operators.one_point_crossover(rng, parent, tree(self._select()))
        elif operator < mutated:
            height = settings.max_mutation_height
            child = operators.uniform_mutation(rng, parent, height, self.form.inputs)
        elif isinstance(parent, WeightedExpression) and (
            operator < mutated + settings.weight_mutation_rate
        ):
            child = operators.weight_mutation(rng, parent)
        else:
            child = parent
        child = operators.correct(rng, child)
        return child if child.height <= settings.max_height else parent

    def _select(self) -> Individual:
        """The winner of a tournament."""
        indices = self._rng.integers(len(self.population), size=self.settings.tournament_size)
        rivals: list[Individual] = [self.population[i] for i in indices]
        return min(rivals, key=lambda rival: rival.rank)

    def _state(self) -> dict[str, Any]:
        return {
            "generator": self._rng.bit_generator.state,
            "population": [
                {
                    "expression": str(member.expression),
                    "fitness": member.fitness if math.isfinite(member.fitness) else None,
                    "number": member.number,
                    "halted": member.halted,
                    "weights": member.weights,
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
        inherited = self.settings.inherit_weights
        count = None if stored.weights is None else len(stored.weights)
        require(
            count == (len(expression) - 1 if inherited else None),
            f"the weights of {what} do not match its expression",
        )
        fitness = math.inf if stored.fitness is None else stored.fitness
        return Individual(expression, fitness, stored.number, stored.halted, stored.weights)


@dataclass(frozen=True)
class _StoredMember:
    expression: str
    fitness: float | None
    number: int
    halted: bool
    weights: tuple[float, ...] | None


@dataclass(frozen=True)
class _Stored:
    generator: StoredGenerator
    population: tuple[_StoredMember, ...]
