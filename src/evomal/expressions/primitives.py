"""The table of primitives (paper, Table 1; protected forms as in the method's definition).

A row defines everything about a primitive. The functions take torch or sympy as their first
argument, so this module imports neither.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

EPSILON = 1e-7
"""ε of the protected logarithm and square root."""


@dataclass(frozen=True)
class Primitive:
    """One operation of the search space.

    Attributes
    ----------
    name
        Name in the prefix form.
    arity
        Number of arguments, 1 or 2.
    torch
        ``torch(torch_module, *tensors) -> tensor``, elementwise; finite in value and in gradient
        for every finite input that does not overflow.
    sympy
        ``sympy(sympy_module, epsilon, *expressions) -> expression``, the same function.
    commutative
        Whether the order of the arguments does not matter.
    factor
        The factor of the value for given factors of the arguments, as in ``|a x| = |a| |x|``;
        None if there is none. Only products accept a number as an argument.
    powers
        For every argument a power: the value is c > 0 times as large if each argument is c to its
        power times as large. None if there are none.
    """

    name: str
    arity: int
    torch: Callable[..., Any]
    sympy: Callable[..., Any]
    commutative: bool = False
    factor: Callable[..., Any] | None = None
    powers: tuple[float, ...] | None = None


_ROWS = [
    Primitive(
        "add",
        2,
        lambda _, a, b: a + b,
        lambda _, eps, a, b: a + b,
        commutative=True,
        powers=(1, 1),
    ),
    Primitive("sub", 2, lambda _, a, b: a - b, lambda _, eps, a, b: a - b, powers=(1, 1)),
    Primitive(
        "mul",
        2,
        lambda _, a, b: a * b,
        lambda _, eps, a, b: a * b,
        commutative=True,
        factor=lambda a, b: a * b,
        powers=(1, 0),
    ),
    Primitive(  # the analytic quotient
        "div",
        2,
        lambda t, a, b: a / t.sqrt(1 + b * b),
        lambda s, eps, a, b: a / s.sqrt(1 + b**2),
        powers=(1, 0),
    ),
    Primitive(
        "min",
        2,
        lambda t, a, b: t.minimum(a, b),
        lambda s, eps, a, b: s.Min(a, b),
        commutative=True,
        powers=(1, 1),
    ),
    Primitive(
        "max",
        2,
        lambda t, a, b: t.maximum(a, b),
        lambda s, eps, a, b: s.Max(a, b),
        commutative=True,
        powers=(1, 1),
    ),
    Primitive("sign", 1, lambda t, a: t.sign(a), lambda s, eps, a: s.sign(a)),
    Primitive(
        "square",
        1,
        lambda _, a: a * a,
        lambda _, eps, a: a**2,
        factor=lambda a: a * a,
        powers=(0.5,),
    ),
    Primitive("abs", 1, lambda t, a: t.abs(a), lambda s, eps, a: s.Abs(a), factor=abs, powers=(1,)),
    Primitive(
        "log",
        1,
        lambda t, a: t.log(t.abs(a) + EPSILON),
        lambda s, eps, a: s.log(s.Abs(a) + eps),
    ),
    Primitive(
        "sqrt",
        1,
        lambda t, a: t.sqrt(t.abs(a) + EPSILON),
        lambda s, eps, a: s.sqrt(s.Abs(a) + eps),
    ),
    Primitive("tanh", 1, lambda t, a: t.tanh(a), lambda s, eps, a: s.tanh(a)),
]

PRIMITIVES: dict[str, Primitive] = {row.name: row for row in _ROWS}
"""The function set, by name."""

VARIABLES: tuple[str, ...] = ("y", "f")
"""Terminals that are arguments of the loss: the target and the prediction."""

CONSTANTS: dict[str, float] = {"1": 1.0, "-1": -1.0}
"""Terminals that are numbers."""

TERMINALS: tuple[str, ...] = (*VARIABLES, *CONSTANTS)
"""The terminal set; a task can declare extra inputs of the loss, which are terminals too."""

_PARAMETERS = ("self", "pred", "target")  # of a loss that is called


def arity(node: str) -> int:
    """Number of arguments of a node; 0 if it is not a primitive."""
    return PRIMITIVES[node].arity if node in PRIMITIVES else 0


def is_input_name(name: str) -> bool:
    """Whether an extra input of a loss can have this name: a word without another meaning."""
    word = name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
    return word and not (name in PRIMITIVES or name in TERMINALS or name in _PARAMETERS)
