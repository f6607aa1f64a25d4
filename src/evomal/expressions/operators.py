"""The genetic operators on expressions (paper, sections 3.2.2 and 3.2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from evomal.expressions.expression import Expression
from evomal.expressions.primitives import PRIMITIVES, TERMINALS, VARIABLES, arity
from evomal.expressions.weighted import WeightedExpression

Tree = TypeVar("Tree", Expression, WeightedExpression)
"""The operators take expressions with or without weights, and draw the same for both."""

WEIGHT_DEVIATION = 0.5
"""Standard deviation of the logarithm of the factors by which weights are mutated."""

_FUNCTIONS = tuple(PRIMITIVES)
_BINARY = tuple(name for name in PRIMITIVES if arity(name) == 2)


def random_tree(
    rng: np.random.Generator,
    min_height: int,
    height: int,
    *,
    full: bool,
    inputs: Sequence[str] = (),
) -> Expression:
    """A random tree: every leaf at depth `height` (full), or at `min_height` to `height` (grow).

    `inputs`, here and below, are names of extra inputs of the loss: terminals like all others.
    """
    terminals = (*TERMINALS, *inputs)
    terminal_ratio = len(terminals) / (len(terminals) + len(_FUNCTIONS))
    nodes: list[str] = []
    depths = [0]
    while depths:
        depth = depths.pop()
        is_leaf = depth == height or (
            not full and depth >= min_height and rng.random() < terminal_ratio
        )
        node = _choice(rng, terminals if is_leaf else _FUNCTIONS)
        nodes.append(node)
        depths.extend([depth + 1] * arity(node))
    return Expression(tuple(nodes))


def half_and_half(
    rng: np.random.Generator, min_height: int, max_height: int, inputs: Sequence[str] = ()
) -> Expression:
    """A full or grown tree with equal probability, its height limit uniform in the given range."""
    height = int(rng.integers(min_height, max_height + 1))
    full = bool(rng.random() < 0.5)
    return random_tree(rng, min_height, height, full=full, inputs=inputs)


def ramped_half_and_half(
    rng: np.random.Generator,
    size: int,
    min_height: int,
    max_height: int,
    inputs: Sequence[str] = (),
) -> list[Expression]:
    """`size` random trees, with heights in equal numbers and each height half full, half grown."""
    heights = range(min_height, max_height + 1)
    return [
        random_tree(rng, min_height, heights[i // 2 % len(heights)], full=i % 2 == 0, inputs=inputs)
        for i in range(size)
    ]


def one_point_crossover(rng: np.random.Generator, first: Tree, second: Tree) -> Tree:
    """The first child: a random subtree of `first` replaced by a random subtree of `second`."""
    here, there = int(rng.integers(len(first))), int(rng.integers(len(second)))
    return first.replace(here, second.subtree(there))


def uniform_mutation(
    rng: np.random.Generator, parent: Tree, max_height: int, inputs: Sequence[str] = ()
) -> Tree:
    """`parent` with a random subtree replaced by a new one of height 0 to `max_height`."""
    index = int(rng.integers(len(parent)))
    return parent.replace(index, half_and_half(rng, 0, max_height, inputs).nodes)


def weight_mutation(rng: np.random.Generator, parent: WeightedExpression) -> WeightedExpression:
    """`parent` with about half of the weights, at least one, times exp(N(0, 0.5²))."""
    weights = np.array(parent.weights)
    chosen = rng.random(len(weights)) < 0.5
    chosen[rng.integers(len(weights))] |= not chosen.any()
    factors = np.exp(rng.normal(0.0, WEIGHT_DEVIATION, len(weights)))
    return replace(parent, weights=tuple(np.where(chosen, weights * factors, weights).tolist()))


def correct(rng: np.random.Generator, expression: Tree) -> Tree:
    """The correction strategy: add `y` and `f` if one of them is missing (section 3.2.3).

    A random terminal is replaced by a random binary primitive over `y` and `f` in random order.
    An expression with both is returned unchanged.
    """
    if expression.uses_both_arguments():
        return expression
    leaves = [i for i, node in enumerate(expression.nodes) if arity(node) == 0]
    index = leaves[int(rng.integers(len(leaves)))]
    arguments: tuple[str, ...] = VARIABLES if rng.random() < 0.5 else VARIABLES[::-1]
    return expression.replace(index, (_choice(rng, _BINARY), *arguments))


def _choice(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]
