"""Sympy and LaTeX forms of expressions, simplified within a time limit.

Sympy's simplification can take minutes on a deep tree, so `printed_forms` asks a second process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evomal.expressions.expression import Expression, parse
from evomal.expressions.primitives import CONSTANTS, EPSILON, PRIMITIVES, VARIABLES
from evomal.expressions.sympy_process import TIME_LIMIT, ask, serve

SIGNIFICANT_DIGITS = 4
MOST_SIMPLIFIED_NODES = 15  # a larger one is only put together, which folds constants: seconds each


@dataclass(frozen=True)
class PrintRequest:
    """An expression to print; `weights` in prefix order, or None for all ones.

    `probabilities` says that both y and f lie in [0, 1], which lets ``abs`` and ``sign`` vanish.
    """

    expression: Expression
    weights: Sequence[float] | None = None
    probabilities: bool = False


@dataclass(frozen=True)
class PrintedForm:
    """An infix formula and its LaTeX, weights to four significant digits; ε stands for 1e-7."""

    formula: str
    latex: str


def to_sympy(
    expression: Expression,
    weights: Sequence[float] | None = None,
    *,
    probabilities: bool = False,
    epsilon: Any = EPSILON,
) -> Any:
    """The expression, or its meta-loss network, as an unsimplified sympy expression.

    Parameters
    ----------
    expression
        What to convert.
    weights
        One weight per edge in prefix order, or None for all ones.
    probabilities
        Whether the symbols y and f are declared non-negative rather than real.
    epsilon
        What stands for ε in the protected primitives: a number or a sympy symbol.
    """
    import sympy

    domains = dict.fromkeys(VARIABLES, {"nonnegative": True} if probabilities else {"real": True})

    def combine(index: int, node: str, args: list[Any]) -> Any:
        if node in PRIMITIVES:
            value = PRIMITIVES[node].sympy(sympy, epsilon, *args)
        elif node in CONSTANTS:
            value = sympy.Integer(int(CONSTANTS[node]))
        else:
            value = sympy.Symbol(node, **domains.get(node, {"real": True}))
        return value if weights is None or index == 0 else value * sympy.Float(weights[index - 1])

    return expression.fold(combine)


def printed_forms(
    requests: Sequence[PrintRequest], time_limit: float = TIME_LIMIT
) -> list[PrintedForm]:
    """Simplified formulas and LaTeX of many expressions, in order.

    An expression that takes longer than `time_limit` seconds is printed in prefix form.
    """
    forms: list[PrintedForm] = []
    while len(forms) < len(requests):
        waiting = list(map(_encode, requests[len(forms) :]))
        forms += [PrintedForm(**answer) for answer in ask(__name__, waiting, time_limit)]
        if len(forms) < len(requests):
            forms.append(prefix_form(requests[len(forms)]))
    return forms


def _encode(request: PrintRequest) -> dict[str, object]:
    weights = None if request.weights is None else list(request.weights)
    return {
        "expression": str(request.expression),
        "inputs": request.expression.inputs,
        "weights": weights,
        "probabilities": request.probabilities,
    }


def prefix_form(request: PrintRequest) -> PrintedForm:
    """What is printed when sympy is too slow: the prefix form with the weights at its edges."""

    def combine(index: int, node: str, args: list[str]) -> str:
        text = f"{node}({', '.join(args)})" if args else node
        if request.weights is None or index == 0:
            return text
        return f"{request.weights[index - 1]:.{SIGNIFICANT_DIGITS}g}*{text}"

    text = request.expression.fold(combine)
    return PrintedForm(text, rf"\mathtt{{{text}}}")


def _simplified_form(request: PrintRequest) -> PrintedForm:
    import sympy

    epsilon = sympy.Symbol("epsilon", positive=True)
    exact = to_sympy(
        request.expression, request.weights, probabilities=request.probabilities, epsilon=epsilon
    )
    try:
        small = len(request.expression) <= MOST_SIMPLIFIED_NODES
        simple = sympy.simplify(exact) if small else exact
    except (ArithmeticError, AttributeError, TypeError, ValueError):
        simple = exact  # sympy fails on some nestings of Min, Max and sign
    if simple.has(sympy.Piecewise) or simple.count_ops() >= exact.count_ops():
        simple = exact  # simplification can take `sign` apart and multiply polynomials out
    digits: dict[Any, Any] = {}
    for weight in simple.atoms(sympy.Float):
        short = sympy.Float(weight, SIGNIFICANT_DIGITS)
        digits[weight] = sympy.Integer(1) if float(str(short)) == 1 else short
    rounded = simple.xreplace(digits)
    return PrintedForm(str(rounded), sympy.latex(rounded))


def _answer(fields: dict[str, Any]) -> dict[str, str]:
    """What the helper process says to an encoded request."""
    expression = parse(fields.pop("expression"), tuple(fields.pop("inputs")))
    form = _simplified_form(PrintRequest(expression, **fields))
    return {"formula": form.formula, "latex": form.latex}


if __name__ == "__main__":
    serve(_answer)
