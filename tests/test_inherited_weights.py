"""Weights that pass from parents to children: the operators, identities, whole searches."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomal import InputError, Run, resume, search
from evomal.expressions import operators
from evomal.expressions.expression import Expression, parse
from evomal.expressions.weighted import WeightedExpression
from evomal.losses.form import Form
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.evolution import GeneticProgramming, by_rounded_weights
from evomal.methods.evomal import EvoMALSettings
from evomal.methods.registry import METHODS
from run_helpers import TINY, Recorder, known_to, new_outcome, tiny_settings_of, without_timing
from strategies import STANDARDISED, expressions, fast, generators, losses, pairs, weighted_losses
from tasks_for_tests import regression_task

SEARCH: dict[str, Any] = {
    **TINY,
    "seed": 3,
    "generations": 4,
    "population_size": 6,
    "inherit_weights": True,
    "crossover_rate": 0.4,
    "mutation_rate": 0.3,
    "weight_mutation_rate": 0.2,
}


def weighted(text: str, *weights: float) -> WeightedExpression:
    return WeightedExpression(parse(text), weights)


@st.composite
def trees(draw: st.DrawFn) -> WeightedExpression:
    expression, weights = draw(weighted_losses())
    return WeightedExpression(expression, tuple(weights.tolist()))


def values(tree: WeightedExpression, **inputs: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(tree.weights, dtype=torch.float64)
    return tree.expression.evaluate(*pairs(STANDARDISED), weights, inputs)


# Expressions with weights


def test_subtrees_leave_the_weight_above_them_behind() -> None:
    tree = weighted("add(mul(y, f), abs(sub(y, 1)))", 2, 3, 4, 5, 6, 7, 8)
    assert tree.subtree(0) == tree
    assert tree.subtree(1) == weighted("mul(y, f)", 3, 4)
    assert tree.subtree(2) == weighted("y") == tree.subtree(6)
    assert tree.subtree(4) == weighted("abs(sub(y, 1))", 6, 7, 8)


def test_a_replaced_subtree_takes_over_the_weight_above_it() -> None:
    tree = weighted("add(mul(y, f), abs(f))", 2, 3, 4, 5, 6)
    other = weighted("square(sub(y, f))", 7, 8, 9)
    assert tree.replace(1, other) == weighted("add(square(sub(y, f)), abs(f))", 2, 7, 8, 9, 5, 6)
    assert tree.replace(5, other) == weighted(
        "add(mul(y, f), abs(square(sub(y, f))))", 2, 3, 4, 5, 6, 7, 8, 9
    )
    assert tree.replace(0, other) == other
    assert tree.replace(4, ("sqrt", "y")) == weighted("add(mul(y, f), sqrt(y))", 2, 3, 4, 5, 1)


@fast
@given(trees(), trees(), st.data())
def test_a_joined_tree_computes_with_the_part_in_place(
    tree: WeightedExpression, other: WeightedExpression, data: st.DataObject
) -> None:
    here = data.draw(st.integers(0, len(tree) - 1))
    assert tree.replace(here, tree.subtree(here)) == tree
    there = data.draw(st.integers(0, len(other) - 1))
    part = other.subtree(there)
    expected = values(tree.replace(here, ("part",)), part=values(part))
    assert torch.equal(values(tree.replace(here, part)).nan_to_num(), expected.nan_to_num())


@fast
@given(losses(), losses(), st.integers(0, 2**32 - 1))
def test_the_operators_draw_the_same_with_and_without_weights(
    first: Expression, second: Expression, seed: int
) -> None:
    def children(first: Any, second: Any) -> list[Any]:
        rng = np.random.default_rng(seed)
        crossed = operators.one_point_crossover(rng, first, second)
        mutated = operators.uniform_mutation(rng, first, 2)
        corrected = operators.correct(rng, first.replace(0, ("tanh", "1")))
        return [crossed, mutated, corrected, rng.random()]

    def with_ones(expression: Expression) -> WeightedExpression:
        return WeightedExpression(expression, (1.0,) * (len(expression) - 1))

    *bare, draw = children(first, second)
    *carried, same_draw = children(with_ones(first), with_ones(second))
    assert carried == [with_ones(child) for child in bare]
    assert draw == same_draw


@fast
@given(trees(), generators)
def test_mutated_weights_are_multiplied_by_positive_factors(
    tree: WeightedExpression, rng: np.random.Generator
) -> None:
    child = operators.weight_mutation(rng, tree)
    assert child.expression == tree.expression
    assert child.weights != tree.weights
    signs = [math.copysign(1, weight) for weight in tree.weights]
    assert [math.copysign(1, weight) for weight in child.weights] == signs


def test_about_half_of_the_weights_mutate_by_log_normal_factors() -> None:
    rng = np.random.default_rng(0)
    tree = weighted("square(sub(y, f))", 1, 1, 1)
    weights = np.array([operators.weight_mutation(rng, tree).weights for _ in range(4000)])
    changed = weights != 1
    assert changed.any(axis=1).all()
    at_random = 1 / 2 + 1 / 8 / 3  # one of three if none was drawn
    assert changed.mean() == pytest.approx(at_random, abs=0.02)
    logarithms = np.log(weights[changed])
    assert logarithms.mean() == pytest.approx(0, abs=0.03)
    assert logarithms.std() == pytest.approx(0.5, abs=0.02)


# Identity


def identity(text: str, *weights: float) -> str:
    return by_rounded_weights(SymbolicLoss(text, list(weights) or None), 0)


def test_losses_differ_by_their_weights_up_to_two_digits() -> None:
    assert (
        identity("add(y, f)") == identity("add(f, y)", 1, 1) == SymbolicLoss("add(y, f)").structure
    )
    assert identity("add(y, f)", 2, 3) == identity("add(y, f)", 2.004, 2.97)
    assert identity("add(y, f)", 2, 3) == identity("add(f, y)", 3, 2)
    texts = [("add(y, f)",), ("add(y, f)", 2, 3), ("add(f, y)", 2, 3), ("add(y, f)", 2.1, 3)]
    texts += [("sub(y, f)", 2, 3), ("sub(f, y)", 2, 3), ("add(y, f)", -2, 3)]
    assert len({identity(text, *weights) for text, *weights in texts}) == len(texts)  # type: ignore[arg-type]
    assert by_rounded_weights(None, 0) == "task loss"


@fast
@given(expressions(), st.integers(0, 99))
def test_rounded_weights_do_not_depend_on_the_order_of_arguments(
    expression: Expression, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = tuple(rng.choice([0.5, 1.0, 2.0], len(expression) - 1).tolist())
    tree = WeightedExpression(expression, weights)
    for index, node in enumerate(expression.nodes):
        if node in ("add", "mul", "min", "max"):
            first, second = index + 1, expression.ends[index + 1]
            one, other = tree.subtree(first), tree.subtree(second)
            swapped = tree.replace(second, one).replace(first, other)
            moved = list(swapped.weights)
            second = swapped.expression.ends[index + 1]
            moved[first - 1], moved[second - 1] = moved[second - 1], moved[first - 1]
            swapped = WeightedExpression(swapped.expression, tuple(moved))
            assert swapped.rounded == tree.rounded


def test_only_bare_losses_start_with_noise() -> None:
    rng = np.random.default_rng(0)
    bare = SymbolicLoss("square(sub(y, f))")
    assert 0 < float((bare.initial_phi(rng) - 1).abs().max()) < 0.01
    loss = bare.with_phi([2.0, 1.0, 0.5])
    assert torch.equal(loss.initial_phi(rng), loss.phi)


# Genetic programming


def new_gp(name: str = "evomal", **settings: Any) -> GeneticProgramming:
    settings = {"inherit_weights": True, "population_size": 9, "generations": 3, **settings}
    method = METHODS[name](tiny_settings_of(name, **settings), Form("identity"), 0)
    assert isinstance(method, GeneticProgramming)
    return method


def tuned(gp: GeneticProgramming) -> dict[int, SymbolicLoss]:
    """One generation whose losses all end with weights of their own; these losses."""
    candidates, outcomes = gp.ask(), []
    found = {}
    for candidate in candidates:
        assert isinstance(candidate.loss, SymbolicLoss)
        phi = candidate.number + torch.arange(1.0, candidate.loss.size)
        found[candidate.number] = candidate.loss.with_phi(phi)
        outcomes.append(new_outcome(candidate, 1.0, loss=found[candidate.number]))
        gp.archive.add(outcomes[-1])
    gp.tell(outcomes)
    return found


def test_a_copy_starts_where_its_parent_ended() -> None:
    gp = new_gp(crossover_rate=0.0, mutation_rate=0.0)
    ended = [(str(loss.expression), loss.phi.tolist()) for loss in tuned(gp).values()]
    again = new_gp(crossover_rate=0.0, mutation_rate=0.0)
    again.load_state_dict(json.loads(json.dumps(gp.state_dict())))
    assert again.population == gp.population
    for method in (gp, again):
        for candidate in method.ask():
            loss = candidate.loss
            assert isinstance(loss, SymbolicLoss)
            assert (str(loss.expression), loss.phi.tolist()) in ended
            assert torch.equal(loss.initial_phi(np.random.default_rng(0)), loss.phi)


def test_a_loss_without_usable_weights_hands_on_those_it_started_with() -> None:
    gp = new_gp(population_size=2, max_height=3, max_initial_height=2)
    first, second = gp.ask()
    assert isinstance(first.loss, SymbolicLoss)
    broken = first.loss.with_phi(torch.full_like(first.loss.phi, 2.0))
    broken.phi[0] = math.nan
    high = SymbolicLoss("abs(abs(abs(abs(sub(y, f)))))")
    outcomes = [
        new_outcome(first, math.inf, "diverged", loss=broken),
        new_outcome(second, 1.0, loss=high),
    ]
    gp.tell(outcomes)
    for member, candidate in zip(gp.population, (first, second), strict=True):
        assert isinstance(candidate.loss, SymbolicLoss)
        assert member.expression == candidate.loss.expression
        assert member.weights == (1.0,) * (candidate.loss.size - 1)


def test_without_the_setting_nothing_is_inherited() -> None:
    gp = new_gp(inherit_weights=False)
    tuned(gp)
    assert all(member.weights is None for member in gp.population)
    for candidate in gp.ask():
        assert candidate.loss is not None
        assert bool((candidate.loss.phi == 1).all())


@pytest.mark.parametrize("damage", [None, [1.0]])
def test_weights_that_do_not_match_are_refused(damage: Any) -> None:
    gp = new_gp()
    tuned(gp)
    state = json.loads(json.dumps(gp.state_dict()))
    state["method"]["population"][0]["weights"] = damage
    with pytest.raises(InputError, match="the weights of member 0 of the population do not match"):
        new_gp().load_state_dict(state)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_mutation_rate": 0.1, "mutation_rate": 0.1}, "only with inherit_weights; set"),
        (
            {"weight_mutation_rate": 0.1, "inherit_weights": True},
            "sum of crossover_rate, mutation_rate and weight_mutation_rate",
        ),
        (
            {"initial_losses": ("sub(y, f)",), "initial_weights": [[1, 2]]},
            "only with inherit_weights; set",
        ),
        (
            {
                "initial_losses": ("sub(y, f)",),
                "initial_weights": [[1]],
                "inherit_weights": True,
            },
            "one list for every initial loss",
        ),
        ({"initial_weights": [["x"]]}, "must be a list of lists of numbers"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EvoMALSettings(**settings).validate()


# Whole searches


def everything(run: Run) -> Any:
    outcomes = [
        (o.candidate.identity, o.status, o.fitness, None if o.loss is None else o.loss.to_dict())
        for o in run.outcomes
    ]
    return without_timing(run.summary()), outcomes


@pytest.mark.usefixtures("instant_formulas")
@pytest.mark.parametrize("method", ["evomal", "gp-lfl"])
def test_a_search_inherits_weights_and_can_be_resumed(method: str, tmp_path: Path) -> None:
    texts = ["mul(square(sub(y, f)), 1)", "pinball:0.9"]
    arguments: dict[str, Any] = {**known_to(method, SEARCH), "method": method, "seed": 3}
    arguments |= {"initial_losses": texts}
    whole = search(regression_task(), run_dir=tmp_path / "whole", **arguments)
    stop = [Recorder("candidate", 13)]
    with pytest.raises(KeyboardInterrupt):
        search(regression_task(), run_dir=tmp_path / "run", callbacks=stop, **arguments)
    assert everything(resume(tmp_path / "run", regression_task())) == everything(whole)
    pinball, *later = [outcome.candidate.loss for outcome in whole.outcomes[1:]]
    assert pinball is not None
    assert pinball.phi[[0, 3]].tolist() == pytest.approx([0.9, 0.1])
    assert any(loss is not None and not bool((loss.phi == 1).all()) for loss in later[4:])
