"""The genetic operators: heights, choice of nodes, the correction, reproducibility."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomal.expressions.expression import Expression, parse
from evomal.expressions.operators import (
    correct,
    half_and_half,
    one_point_crossover,
    ramped_half_and_half,
    random_tree,
    uniform_mutation,
)
from evomal.expressions.primitives import PRIMITIVES, TERMINALS
from strategies import BINARY, expressions, fast, generators, losses


def leaf_depths(expression: Expression) -> list[int]:
    depths, waiting = [], [0]
    for node in expression.nodes:
        depth = waiting.pop()
        if node in TERMINALS:
            depths.append(depth)
        else:
            waiting += [depth + 1] * PRIMITIVES[node].arity
    return depths


def assert_uniform(counts: Iterable[int], bound: float = 35.0) -> None:
    """Chi-square against equal shares; the bound is beyond the 99.99 % point of 8 bins."""
    counts = list(counts)
    expected = sum(counts) / len(counts)
    assert expected > 50
    assert sum((count - expected) ** 2 / expected for count in counts) < bound


# Random trees


@fast
@given(generators, st.integers(0, 3), st.integers(0, 3))
def test_full_and_grown_trees_keep_their_heights(
    rng: np.random.Generator, low: int, more: int
) -> None:
    full = random_tree(rng, low, low + more, full=True)
    assert set(leaf_depths(full)) == {low + more}
    grown = random_tree(rng, low, low + more, full=False)
    assert all(low <= depth <= low + more for depth in leaf_depths(grown))


def test_grown_trees_have_every_height_and_every_name() -> None:
    rng = np.random.default_rng(0)
    trees = [random_tree(rng, 1, 4, full=False) for _ in range(500)]
    assert {tree.height for tree in trees} == {1, 2, 3, 4}
    assert {node for tree in trees for node in tree.nodes} == {*PRIMITIVES, *TERMINALS}
    assert any(len(set(leaf_depths(tree))) > 1 for tree in trees)


def test_functions_and_terminals_are_drawn_uniformly() -> None:
    rng = np.random.default_rng(1)
    trees = [random_tree(rng, 2, 2, full=True) for _ in range(1000)]
    counts = Counter(node for tree in trees for node in tree.nodes)
    assert_uniform(counts[name] for name in TERMINALS)
    assert_uniform((counts[name] for name in PRIMITIVES), bound=42.0)


@pytest.mark.parametrize("size", [1, 6, 25, 300])
@pytest.mark.parametrize("heights", [[2, 3, 4], [1, 2, 3, 4], [3]], ids=str)
def test_ramped_half_and_half_gives_equal_shares(heights: list[int], size: int) -> None:
    rng = np.random.default_rng(size)
    trees = ramped_half_and_half(rng, size, heights[0], heights[-1])
    assert len(trees) == size
    assert {tree.height for tree in trees} <= set(heights)
    full = Counter(tree.height for tree in trees if len(set(leaf_depths(tree))) == 1)
    for rank, height in enumerate(heights, start=1):  # a grown tree can be low or full by chance
        assert full[height] >= size // len(heights) // 2
        assert sum(tree.height <= height for tree in trees) >= size // len(heights) * rank


def test_ramped_trees_are_grown_as_well() -> None:
    trees = ramped_half_and_half(np.random.default_rng(3), 300, 2, 4)
    assert 30 < sum(len(set(leaf_depths(tree))) > 1 for tree in trees) <= 150


def test_half_and_half_draws_every_height_full_and_grown() -> None:
    rng = np.random.default_rng(2)
    trees = [half_and_half(rng, 0, 2) for _ in range(600)]
    assert Counter(tree.height for tree in trees).keys() == {0, 1, 2}
    shapes = Counter(len(set(leaf_depths(tree))) for tree in trees if tree.height == 2)
    assert shapes[1] > shapes[2] > 0


# Crossover and mutation


@fast
@given(generators, expressions(3), expressions(3))
def test_crossover_exchanges_one_subtree(
    rng: np.random.Generator, first: Expression, second: Expression
) -> None:
    child = one_point_crossover(rng, first, second)
    assert child in {
        first.replace(i, second.subtree(j)) for i in range(len(first)) for j in range(len(second))
    }


@fast
@given(generators, expressions(4), st.integers(0, 3))
def test_mutation_replaces_one_subtree_by_a_low_one(
    rng: np.random.Generator, parent: Expression, height: int
) -> None:
    child = uniform_mutation(rng, parent, height)
    new = [child.subtree(i) for i in range(min(len(parent), len(child)))]
    assert any(
        parent.replace(i, subtree) == child and Expression(subtree).height <= height
        for i, subtree in enumerate(new)
    )


def test_crossover_chooses_the_replaced_node_uniformly() -> None:
    rng = np.random.default_rng(3)
    first, second = parse("div(mul(y, f), square(sub(y, f)))"), parse("-1")
    counts = Counter(one_point_crossover(rng, first, second) for _ in range(4000))
    places = [first.replace(i, second.nodes) for i in range(len(first))]
    assert counts.keys() == set(places)
    assert_uniform(counts[child] for child in places)


def test_crossover_chooses_the_given_node_uniformly() -> None:
    rng = np.random.default_rng(4)
    first, second = parse("-1"), parse("div(abs(y), min(tanh(f), 1))")
    counts = Counter(one_point_crossover(rng, first, second).nodes for _ in range(4000))
    given_ = [second.subtree(i) for i in range(len(second))]
    assert counts.keys() == set(given_)
    assert_uniform(counts[nodes] for nodes in given_)


def test_mutation_chooses_the_node_uniformly() -> None:
    rng = np.random.default_rng(5)
    parent = parse("div(mul(y, f), square(sub(y, f)))")
    counts = Counter(uniform_mutation(rng, parent, 0) for _ in range(16000))
    places = [parent.replace(i, ("-1",)) for i in range(len(parent))]  # a name it does not have
    assert_uniform(counts[child] for child in places)


def test_mutation_inserts_subtrees_of_every_height() -> None:
    rng = np.random.default_rng(6)
    heights = Counter(uniform_mutation(rng, parse("y"), 2).height for _ in range(600))
    assert heights.keys() == {0, 1, 2}


# The correction


@fast
@given(generators, expressions(4))
def test_correction_changes_one_terminal_at_most(
    rng: np.random.Generator, expression: Expression
) -> None:
    corrected = correct(rng, expression)
    assert corrected.uses_both_arguments()
    leaves = [i for i, node in enumerate(expression.nodes) if node in TERMINALS]
    if {"y", "f"} <= set(expression.nodes):
        assert corrected == expression
    else:
        assert corrected in {
            expression.replace(i, (name, *arguments))
            for i in leaves
            for name in BINARY
            for arguments in (("y", "f"), ("f", "y"))
        }


@fast
@given(generators, losses())
def test_correction_leaves_a_complete_expression_alone(
    rng: np.random.Generator, expression: Expression
) -> None:
    state = rng.bit_generator.state
    assert correct(rng, expression) == expression
    assert rng.bit_generator.state == state


@pytest.mark.parametrize("text", ["y", "f", "1", "-1"])
def test_correction_draws_primitive_and_order_uniformly(text: str) -> None:
    rng = np.random.default_rng(7)
    counts = Counter(correct(rng, parse(text)).nodes for _ in range(3000))
    outcomes = [(name, *args) for name in BINARY for args in (("y", "f"), ("f", "y"))]
    assert counts.keys() == set(outcomes)
    assert_uniform((counts[nodes] for nodes in outcomes), bound=42.0)


def test_correction_draws_the_terminal_uniformly() -> None:
    rng = np.random.default_rng(8)
    expression = parse("add(mul(y, 1), sub(-1, y))")
    counts: Counter[int] = Counter()
    for _ in range(2000):
        corrected = correct(rng, expression)
        counts[next(i for i, n in enumerate(corrected.nodes) if n != expression.nodes[i])] += 1
    assert set(counts) == {2, 3, 5, 6}
    assert_uniform(counts.values())


# Reproducibility

one, two = parse("add(mul(y, f), 1)"), parse("square(sub(f, abs(y)))")
DRAWS: dict[str, Callable[[np.random.Generator], object]] = {
    "random_tree": lambda rng: random_tree(rng, 1, 4, full=False),
    "half_and_half": lambda rng: half_and_half(rng, 0, 3),
    "ramped_half_and_half": lambda rng: ramped_half_and_half(rng, 5, 2, 4),
    "one_point_crossover": lambda rng: one_point_crossover(rng, one, two),
    "uniform_mutation": lambda rng: uniform_mutation(rng, one, 2),
    "correct": lambda rng: correct(rng, parse("mul(y, add(y, 1))")),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_equal_generators_draw_equally(draw: Callable[[np.random.Generator], object]) -> None:
    runs = [[draw(rng) for _ in range(30)] for rng in map(np.random.default_rng, (9, 9, 10))]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
