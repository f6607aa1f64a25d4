"""Hypothesis strategies for expressions and weights, and the points that tests evaluate at."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from evomal import NeuralLoss, TaylorLoss
from evomal.expressions.expression import Expression
from evomal.expressions.primitives import PRIMITIVES, TERMINALS

BINARY = [name for name, row in PRIMITIVES.items() if row.arity == 2]

fast = settings(deadline=None, max_examples=60)
"""For properties that run torch on every example."""

generators: st.SearchStrategy[np.random.Generator] = st.integers(0, 2**32 - 1).map(
    np.random.default_rng
)


Nodes = tuple[str, ...]


def expressions(max_height: int = 4) -> st.SearchStrategy[Expression]:
    """Any valid expression of at most this height."""
    leaves: st.SearchStrategy[Nodes] = st.sampled_from([(name,) for name in TERMINALS])
    trees = leaves
    for _ in range(max_height):
        trees = leaves | _applications(trees)
    return trees.map(Expression)


def _applications(args: st.SearchStrategy[Nodes]) -> st.SearchStrategy[Nodes]:
    """A primitive over arguments drawn from `args`."""

    def apply(name: str) -> st.SearchStrategy[Nodes]:
        parts = st.tuples(*[args] * PRIMITIVES[name].arity)
        return parts.map(lambda drawn: (name, *(node for part in drawn for node in part)))

    return st.sampled_from(list(PRIMITIVES)).flatmap(apply)


@st.composite
def losses(draw: st.DrawFn, max_height: int = 4) -> Expression:
    """An expression of at most this height that contains both `y` and `f`."""
    expression = draw(expressions(max_height - 1))
    if {"y", "f"} <= set(expression.nodes):
        return expression
    leaves = [i for i, node in enumerate(expression.nodes) if node in TERMINALS]
    arguments = draw(st.sampled_from([("y", "f"), ("f", "y")]))
    pair = (draw(st.sampled_from(BINARY)), *arguments)
    return expression.replace(draw(st.sampled_from(leaves)), pair)


def weights_of(expression: Expression, seed: int = 0) -> Tensor:
    """φ ~ N(1, 0.5²) in float64, one weight per edge."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(1.0, 0.5, len(expression) - 1))


@st.composite
def weighted_losses(draw: st.DrawFn, max_height: int = 4) -> tuple[Expression, Tensor]:
    """An expression that contains both `y` and `f`, and random weights."""
    expression = draw(losses(max_height))
    return expression, weights_of(expression, draw(st.integers(0, 2**32 - 1)))


@st.composite
def networks(draw: st.DrawFn, /, **settings: Any) -> NeuralLoss:
    """A small network as a loss in float64, with weights as they are before any training."""
    hidden = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    return NeuralLoss(hidden=hidden, **settings).double().drawn(draw(generators))


@st.composite
def polynomials(draw: st.DrawFn, /, **settings: Any) -> TaylorLoss:
    """A Taylor polynomial as a loss in float64, φ ~ N(0, 1)."""
    loss = TaylorLoss(order=draw(st.integers(2, 5)), **settings).double()
    return loss.with_phi(draw(generators).normal(size=loss.size).tolist())


def pairs(values: list[float], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """All pairs of these values, as y and f."""
    y, f = torch.cartesian_prod(*[torch.tensor(values, dtype=dtype)] * 2).unbind(1)
    return y.contiguous(), f.contiguous()


PROBABILITIES = [0.0, 1e-9, 0.1, 0.5, 0.85, 1.0 - 1e-7, 1.0]
STANDARDISED = [-3.0, -1.0, -0.2, 0.0, 0.7, 1.0, 2.5]
