"""Genetic programming: operators, selection, elites, presets."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from evomal.expressions import operators
from evomal.expressions.expression import Expression, parse
from evomal.losses.form import Form
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.base import Method
from evomal.methods.evolution import GeneticProgramming, Individual
from evomal.methods.evomal import EvoMAL, EvoMALSettings
from evomal.methods.registry import METHODS
from run_helpers import advance, new_outcome, tiny_settings_of

INF = math.inf
ONLY_SELECTION: dict[str, Any] = {"crossover_rate": 0.0, "mutation_rate": 0.0}

each_gp = pytest.mark.parametrize(
    "method", [name for name, cls in METHODS.items() if issubclass(cls, GeneticProgramming)]
)


def new_method(name: str, seed: int = 0, **settings: Any) -> Method:
    return METHODS[name](tiny_settings_of(name, **settings), Form("identity"), seed)


def new_gp(name: str = "evomal", seed: int = 0, **settings: Any) -> GeneticProgramming:
    method = new_method(name, seed, **settings)
    assert isinstance(method, GeneticProgramming)
    return method


def asked(method: GeneticProgramming) -> list[Expression]:
    losses = [candidate.loss for candidate in method.ask()]
    return [loss.expression for loss in losses if isinstance(loss, SymbolicLoss)]


@each_gp
def test_losses_have_the_activation_of_the_settings(method: str) -> None:
    gp = new_gp(method, activation="softplus")
    for _ in range(gp.generations):
        losses = [candidate.loss for candidate in advance(gp)]
        assert {loss.activation for loss in losses if loss is not None} == {"softplus"}


@each_gp
@pytest.mark.parametrize(
    ("size", "rate", "elites"), [(1, 0.0, 1), (10, 0.05, 1), (25, 0.05, 1), (40, 0.05, 2)]
)
def test_elites_are_carried_over_and_not_asked_again(
    method: str, size: int, rate: float, elites: int
) -> None:
    gp = new_gp(method, population_size=size, elitism_rate=rate, generations=5)
    assert len(advance(gp)) == len(gp.population) == size
    for _ in range(4):
        carried = sorted(gp.population, key=lambda member: member.rank)[:elites]
        candidates = advance(gp)
        assert len(candidates) == size - elites
        assert gp.population[:elites] == carried
        assert [m.number for m in gp.population[elites:]] == [c.number for c in candidates]
        assert len(gp.population) == size
        assert min(m.rank for m in gp.population) <= carried[0].rank


def test_a_halted_loss_ranks_behind_those_trained_to_the_end() -> None:
    gp = new_gp("evomal", population_size=5, elitism_rate=0.4, generations=2)
    candidates = gp.ask()
    fitness = [0.5, 0.1, INF, 0.2, 0.9]
    outcomes = [
        new_outcome(c, value, "halted" if value < 0.3 else "evaluated", halted=value < 0.3)
        for c, value in zip(candidates, fitness, strict=True)
    ]
    assert gp.tell(outcomes).mean == pytest.approx((0.5 + 0.9) / 2)
    ranked = sorted(gp.population, key=lambda member: member.rank)
    assert [member.fitness for member in ranked] == [0.5, 0.9, 0.1, 0.2, INF]
    again = new_gp("evomal", population_size=5, elitism_rate=0.4, generations=2)
    again.load_state_dict(json.loads(json.dumps(gp.state_dict())))
    assert again.population == gp.population


@pytest.mark.parametrize("seed", range(4))
def test_expressions_use_both_arguments_and_keep_the_height(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    heights = []

    def correct(rng: Any, expression: Expression) -> Expression:
        heights.append(corrected := operators_correct(rng, expression))
        return corrected

    operators_correct = operators.correct
    monkeypatch.setattr(operators, "correct", correct)
    limits: dict[str, Any] = {"max_initial_height": 2, "max_height": 3}
    gp = new_gp(seed=seed, population_size=30, generations=8, **limits)
    parents: set[Expression] = set()
    while not gp.finished:
        heights.clear()
        losses = [c.loss for c in advance(gp)]
        expressions = [loss.expression for loss in losses if isinstance(loss, SymbolicLoss)]
        for expression, corrected in zip(expressions, heights, strict=True):
            assert expression.uses_both_arguments()
            assert expression.height <= 3
            fell_back = corrected.height > 3
            assert expression in parents if fell_back else expression == corrected
        parents = {member.expression for member in gp.population}
    assert max(corrected.height for corrected in heights) > 3, "the limit was never met"


def test_the_initial_population_keeps_the_maximum_height() -> None:
    limits: dict[str, Any] = {"min_initial_height": 2, "max_initial_height": 2, "max_height": 2}
    expressions = asked(new_gp(population_size=60, **limits))
    assert max(expression.height for expression in expressions) == 2
    assert all(expression.uses_both_arguments() for expression in expressions)


def test_initial_heights_are_the_settings() -> None:
    limits: dict[str, Any] = {"min_initial_height": 3, "max_initial_height": 5}
    heights = {e.height for e in asked(new_gp(population_size=200, **limits))}
    assert heights <= {3, 4, 5, 6}  # the correction can add one
    assert {3, 4, 5} <= heights


@pytest.mark.parametrize("rates", [(0.7, 0.25), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.2, 0.5)])
def test_operators_are_used_at_their_rates(
    rates: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: Counter[str] = Counter()

    def counting(name: str) -> None:
        original: Callable[..., Expression] = getattr(operators, name)

        def wrapper(rng: Any, *args: Any) -> Expression:
            used[name] += 1
            return original(rng, *args)

        monkeypatch.setattr(operators, name, wrapper)

    counting("one_point_crossover")
    counting("uniform_mutation")
    gp = new_gp(population_size=1600, crossover_rate=rates[0], mutation_rate=rates[1])
    advance(gp)
    parents = {member.expression for member in gp.population}
    children = asked(gp)
    for name, rate in zip(("one_point_crossover", "uniform_mutation"), rates, strict=True):
        deviation = math.sqrt(len(children) * rate * (1 - rate))
        assert abs(used[name] - rate * len(children)) <= 4 * deviation
    copies = sum(child in parents for child in children)
    assert copies >= len(children) - used.total()
    if sum(rates) == 0:
        assert copies == len(children)
    else:
        assert copies < len(children)


def test_mutation_inserts_subtrees_of_the_height_that_is_set() -> None:
    gp = new_gp(
        population_size=400,
        crossover_rate=0.0,
        mutation_rate=1.0,
        max_mutation_height=0,
        max_initial_height=2,
    )
    advance(gp)
    tallest = max(member.expression.height for member in gp.population)
    assert max(child.height for child in asked(gp)) <= tallest + 1  # by the correction


def set_population(gp: GeneticProgramming, *members: tuple[str, float, int]) -> None:
    gp.population = [Individual(parse(text), fitness, n) for text, fitness, n in members]


@pytest.mark.parametrize(
    ("members", "winner"),
    [
        ([("sub(y, f)", 2.0, 0), ("mul(y, f)", 1.0, 1), ("add(y, f)", 3.0, 2)], "mul(y, f)"),
        ([("abs(sub(y, f))", 1.0, 0), ("sub(f, y)", 1.0, 1)], "sub(f, y)"),
        ([("add(y, f)", 1.0, 7), ("sub(f, y)", 1.0, 4), ("mul(y, f)", 1.0, 9)], "sub(f, y)"),
        ([("add(y, f)", INF, 0), ("abs(sub(f, y))", 1e30, 1)], "abs(sub(f, y))"),
        ([("abs(mul(y, f))", INF, 0), ("sub(f, y)", INF, 1), ("add(y, f)", INF, 2)], "sub(f, y)"),
    ],
    ids=["fitness", "nodes", "number", "infinite", "all infinite"],
)
def test_the_best_wins_a_tournament(members: list[tuple[str, float, int]], winner: str) -> None:
    for order in (members, members[::-1]):
        gp = new_gp(tournament_size=200, **ONLY_SELECTION)
        set_population(gp, *order)
        assert {str(child) for child in asked(gp)} == {winner}


def test_a_tournament_of_one_selects_uniformly_and_one_of_four_by_rank() -> None:
    names = [f"{unary}(sub(y, f))" for unary in ("abs", "log", "sqrt", "tanh", "square")]
    for size in (1, 4):
        gp = new_gp(population_size=4001, tournament_size=size, **ONLY_SELECTION)
        set_population(gp, *((name, float(i), i) for i, name in enumerate(names)))
        counts = Counter(str(child) for child in asked(gp))
        for rank, name in enumerate(names):
            at_least = [((len(names) - i) / len(names)) ** size for i in (rank, rank + 1)]
            expected = 4000 * (at_least[0] - at_least[1])
            assert abs(counts[name] - expected) < 4 * math.sqrt(expected) + 1


def test_the_paper_preset_is_what_the_method_says() -> None:
    expected = {
        "population_size": 25,
        "generations": 50,
        "min_initial_height": 2,
        "max_initial_height": 4,
        "tournament_size": 4,
        "crossover_rate": 0.70,
        "mutation_rate": 0.25,
        "max_mutation_height": 2,
        "elitism_rate": 0.05,
        "max_height": 10,
        "activation": "identity",
        "meta_steps": 250,
        "meta_learning_rate": 1e-3,
        "base_steps": 1,
        "meta_batch": "validation",
        "rejection_batch": 100,
        "rejection_steps": None,  # the task's own: 100 for MNIST, 1000 otherwise
        "testing_steps": 500,
        "threads": 1,
    }
    ours = {"prescreen": False, "initial_losses": (), "engine": "auto", "group_size": None}
    ours |= {"match_scale": False}
    ours |= {"precision": "full", "halving": False, "meta_start": "auto", "meta_snapshots": 16}
    ours |= {"inherit_weights": False, "weight_mutation_rate": 0.0, "initial_weights": ()}
    ours |= {"known_losses": False, "replacements": 0, "training_budget": 5e10}
    ours |= {"tune_recipe": False, "confirm": 0, "confirmation_steps": None}
    assert asdict(EvoMAL.presets["paper"]) == {**expected, **ours}


@pytest.mark.parametrize("preset", ["standard", "quick"])
def test_the_other_presets_still_search(preset: str) -> None:
    settings = EvoMAL.presets[preset]
    assert isinstance(settings, EvoMALSettings)
    assert settings.population_size >= 12
    assert settings.generations >= 5
    assert settings.meta_steps >= 25
    assert settings.testing_steps is None
    assert settings.tune_recipe
    assert settings.confirm >= 3
