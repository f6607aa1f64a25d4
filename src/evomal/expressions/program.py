"""Expressions as straight-line programs: the same values in fewer operations.

Every value is stored as a factor times a tensor, so that edge weights and constants are multiplied
as numbers where the primitive above allows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from evomal.expressions.expression import Expression
from evomal.expressions.primitives import CONSTANTS, PRIMITIVES

if TYPE_CHECKING:
    from torch import Tensor

Factor = Any
"""A number or a 0-dimensional tensor; None means 1."""

Step = tuple[str | None, str | None, float | None, int]
"""(primitive, input, constant, edge): one of the first three is given; the root's edge is -1."""

Term = tuple[Factor, "Tensor | None"]
"""A value as factor × tensor; without a tensor, only the factor."""


@lru_cache(maxsize=1024)  # a candidate before and after optimisation, and its duplicates
def steps_of(expression: Expression) -> tuple[Step, ...]:
    """The program of an expression: arguments precede the operations that use them."""
    return tuple(
        (
            node if node in PRIMITIVES else None,
            None if node in PRIMITIVES or node in CONSTANTS else node,
            CONSTANTS.get(node),
            index - 1,
        )
        for index, node in reversed(list(enumerate(expression.nodes)))
    )


def evaluate(
    steps: Sequence[Step],
    inputs: Mapping[str, Tensor],
    weights: Sequence[Factor] | None,
    like: Tensor,
) -> tuple[Factor, Tensor]:
    """The value of an expression as factor × tensor; equals `Expression.evaluate` up to rounding.

    Parameters
    ----------
    steps
        The program of the expression.
    inputs
        The tensors of `y`, `f` and extra inputs by name.
    weights
        φ as numbers, or as 0-dimensional tensors, which can be differentiated; None means ones.
    like
        A tensor with the dtype and device of constants, and the shape of the result.
    """
    import torch

    stack: list[Term] = []
    for node, name, constant, edge in steps:
        weight = None if weights is None or edge < 0 else weights[edge]
        if node is None:
            if name is None:
                stack.append((constant if weight is None else constant * weight, None))
            else:
                stack.append((weight, inputs[name]))
            continue
        primitive = PRIMITIVES[node]
        first, a = stack.pop()
        if primitive.arity == 1:
            if primitive.factor is not None and a is not None:
                factor = None if first is None else primitive.factor(first)
                tensor = primitive.torch(torch, a)
            else:
                factor = None
                tensor = primitive.torch(torch, _multiplied(first, a, torch, like))
        else:
            second, b = stack.pop()
            if primitive.factor is not None and (a is not None or b is not None):
                factor = _product(first, second)
                tensor = b if a is None else a if b is None else primitive.torch(torch, a, b)
            else:
                factor = None
                tensor = primitive.torch(
                    torch, _multiplied(first, a, torch, like), _multiplied(second, b, torch, like)
                )
        stack.append((_product(factor, weight), tensor))
    factor, tensor = stack[0]
    if tensor is None:
        tensor = torch.ones((), dtype=like.dtype, device=like.device)
    return factor, tensor if tensor.shape == like.shape else tensor.expand_as(like)


def _product(first: Factor, second: Factor) -> Factor:
    if second is None:
        return first
    return second if first is None else first * second


def _multiplied(factor: Factor, tensor: Tensor | None, torch: Any, like: Tensor) -> Tensor:
    """Factor × tensor as one tensor."""
    value: Tensor
    if tensor is not None:
        value = tensor if factor is None else tensor * factor
    elif isinstance(factor, float):
        value = torch.full((), factor, dtype=like.dtype, device=like.device)
    else:
        value = factor.to(like.dtype)
    return value
