"""Expressions with their weights, which the genetic operators cut and join like the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from evomal.expressions.expression import Expression
from evomal.expressions.primitives import PRIMITIVES


@dataclass(frozen=True)
class WeightedExpression:
    """An expression and φ, with the interface of `Expression` that the genetic operators use.

    Attributes
    ----------
    expression
        The nodes.
    weights
        One weight per edge: ``weights[i - 1]`` belongs to node i, on the edge to its parent.
    """

    expression: Expression
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.weights) == len(self.expression) - 1

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self.expression)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the nodes in prefix order."""
        return self.expression.nodes

    @property
    def height(self) -> int:
        """Edges on the longest path from the root to a terminal."""
        return self.expression.height

    def uses_both_arguments(self) -> bool:
        """Whether both `y` and `f` occur."""
        return self.expression.uses_both_arguments()

    def subtree(self, index: int) -> WeightedExpression:
        """The subtree whose root is node `index`, without the weight above it."""
        inside = self.weights[index : self.expression.ends[index] - 1]
        return WeightedExpression(Expression(self.expression.subtree(index)), inside)

    def replace(
        self, index: int, subtree: WeightedExpression | Sequence[str]
    ) -> WeightedExpression:
        """The expression with the subtree at node `index` replaced.

        The edge above it keeps its weight; the weights of bare nodes are 1.
        """
        if isinstance(subtree, WeightedExpression):
            nodes, inside = subtree.nodes, subtree.weights
        else:
            nodes, inside = tuple(subtree), (1.0,) * (len(subtree) - 1)
        after = self.weights[self.expression.ends[index] - 1 :]
        weights = (*self.weights[:index], *inside, *after)
        return WeightedExpression(self.expression.replace(index, nodes), weights)

    @cached_property
    def rounded(self) -> str:
        """Equal for expressions with equal weights, each rounded to two significant digits.

        As in `Expression.canonical`, the order of the arguments of commutative primitives makes
        no difference.
        """

        def sort(index: int, node: str, args: list[tuple[str, ...]]) -> tuple[str, ...]:
            if args and PRIMITIVES[node].commutative:
                args = sorted(args)
            weight = f"{self.weights[index - 1]:.2g} " if index else ""
            return (weight + node, *(name for arg in args for name in arg))

        nodes = self.expression.fold(sort)
        return ", ".join(nodes)
