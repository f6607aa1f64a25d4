"""δ in closed form: the paper's derivations, and sympy's results for any expression.

Sympy runs in a second process with a time limit; its failures are None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from evomal.expressions.expression import parse
from evomal.expressions.primitives import EPSILON
from evomal.expressions.printing import (
    MOST_SIMPLIFIED_NODES,
    SIGNIFICANT_DIGITS,
    as_python,
    epsilon_symbol,
    to_sympy,
)
from evomal.expressions.sympy_process import TIME_LIMIT, ask, serve

if TYPE_CHECKING:
    from evomal.losses.symbolic import SymbolicLoss

_NEAR = Fraction(
    1, 10**9
)  # distances from the limit at which the signs inside abs, sign, min and max are determined
_NESTING = 10  # maximum number of those
_LONGEST = 24  # characters of an exact value; longer ones are printed as decimal numbers


def delta_cross_entropy(y: float, f: float) -> float:
    """δ of cross-entropy: y / f (eq. 27)."""
    return y / f


def delta_label_smoothing(y: float, f: float, classes: int, smoothing: float) -> float:
    """δ of label smoothing: (y (1 - ξ) + ξ/C) / f (eq. 33)."""
    return (y * (1 - smoothing) + smoothing / classes) / f


def delta_absolute_cross_entropy(y: float, f: float, phi_0: float, phi_1: float) -> float:
    """δ of absolute cross-entropy (eq. 23, with the φ₀ that it omits).

    -φ₀ y log(φ₁ f) / (f |log(φ₁ f)|), which is ±φ₀ y / f.
    """
    slope = math.log(phi_1 * f)
    return -phi_0 * y * slope / (f * abs(slope))


@dataclass(frozen=True)
class ClosedForm:
    """δ of one output as a formula in f, and its values, by sympy.

    Attributes
    ----------
    formula
        -∂ℓ/∂f with ε → 0, or with ε = 1e-7 where that limit is not finite.
    null_epoch, zero_error
        Its exact value at f = 1/C, and its limit as f → 1 (target) or 0 (elsewhere), such as
        ``"10"``, ``"log(10) - 1"`` or ``"inf"``.
    null_epoch_value, zero_error_value
        The same as numbers.
    """

    formula: str
    null_epoch: str
    zero_error: str
    null_epoch_value: float
    zero_error_value: float


def closed_forms(
    loss: SymbolicLoss, classes: int, time_limit: float = TIME_LIMIT
) -> tuple[ClosedForm | None, ClosedForm | None]:
    """δ at the target (y = 1) and elsewhere (y = 0), each None if sympy fails."""
    questions = [
        {
            "expression": str(loss.expression),
            "weights": loss.phi.tolist(),
            "classes": classes,
            "softplus": loss.activation == "softplus",
            "y": y,
        }
        for y in (1, 0)
    ]
    answers: list[Any] = []
    while len(answers) < 2:
        answers += ask(__name__, questions[len(answers) :], time_limit)
        if len(answers) < 2:
            answers.append(None)
    target, non_target = (None if answer is None else ClosedForm(**answer) for answer in answers)
    return target, non_target


class _NoClosedFormError(Exception):
    """Sympy cannot derive δ, or it is not a number."""


def _answer(question: dict[str, Any]) -> dict[str, Any] | None:
    """The helper process's answer."""
    try:
        return _derived(**question)
    except _NoClosedFormError:
        return None


def _by_sympy(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of sympy, which can raise almost anything on what it does not support."""
    try:
        return function(*arguments)
    except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise _NoClosedFormError from error


def _derived(
    expression: str, weights: list[float], classes: int, softplus: bool, y: int
) -> dict[str, Any]:
    import sympy

    f, epsilon = sympy.Symbol("f", positive=True), epsilon_symbol()
    plain = all(weight == 1 for weight in weights)
    tree = parse(expression)
    loss = to_sympy(tree, None if plain else weights, probabilities=True, epsilon=epsilon)
    loss = sympy.nsimplify(loss, rational=True).subs(
        {sympy.Symbol("y", nonnegative=True): y, sympy.Symbol("f", nonnegative=True): f}
    )
    loss = sympy.log(1 + sympy.exp(loss)) if softplus else loss
    delta = _by_sympy(_without_epsilon, -sympy.diff(loss, f), epsilon)
    if len(tree) <= MOST_SIMPLIFIED_NODES:
        simple = _by_sympy(sympy.simplify, delta)  # which can expand `sign`
        if not simple.has(sympy.Piecewise) and simple.count_ops() < delta.count_ops():
            delta = simple
    null = sympy.Rational(1, classes)
    rest = sympy.Symbol("t", positive=True)  # sympy gets some roots wrong in limits from below
    near_end = delta.subs(f, 1 - rest if y else rest)
    signed = _by_sympy(_with_signs, near_end, rest)
    limit = _by_sympy(sympy.limit, signed, rest, 0, "+")
    fields: dict[str, Any] = {"formula": _shortened(delta)}
    for name, value in (("null_epoch", delta.subs(f, null)), ("zero_error", limit)):
        number = _by_sympy(float, value)  # fails unless it is a real number
        if math.isnan(number) or (math.isinf(number) and value.is_finite is not False):
            raise _NoClosedFormError
        text = str(_by_sympy(sympy.simplify, value))
        exact = math.isfinite(number) and not value.has(sympy.Float) and len(text) <= _LONGEST
        fields[name] = text if exact else f"{number:.10g}"
        fields[f"{name}_value"] = number
    return fields


def _without_epsilon(delta: Any, epsilon: Any) -> Any:
    """δ with ε → 0, if that is finite at an ordinary f; otherwise with ε."""
    import sympy

    bare = delta.subs(epsilon, 0)
    if bare.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return delta.subs(epsilon, sympy.Float(EPSILON))
    return bare


def _with_signs(delta: Any, t: Any) -> Any:
    """δ close to t = 0, where no argument of abs, sign, min or max changes its sign."""
    import sympy

    def value(argument: Any) -> Any:
        return sympy.N(argument.subs(t, sympy.Rational(_NEAR)), 30)

    for _ in range(_NESTING):
        rules = {node: sympy.sign(value(node.args[0])) for node in delta.atoms(sympy.sign)}
        for node in delta.atoms(sympy.Abs):
            rules[node] = node.args[0] * sympy.sign(value(node.args[0]))
        for node in delta.atoms(sympy.Heaviside):
            rules[node] = sympy.Integer(int(value(node.args[0]) > 0))
        for node in delta.atoms(sympy.Max):
            rules[node] = max(node.args, key=value)
        for node in delta.atoms(sympy.Min):
            rules[node] = min(node.args, key=value)
        if not rules:
            break
        delta = delta.xreplace(rules)
    return delta


def _shortened(delta: Any) -> str:
    """A form with numbers to four significant digits."""
    import sympy

    numbers = {
        number: sympy.Float(number, SIGNIFICANT_DIGITS)
        for number in delta.atoms(sympy.Rational, sympy.Float)
        if len(str(number)) > SIGNIFICANT_DIGITS + 1
    }
    return as_python(delta.xreplace(numbers))


if __name__ == "__main__":
    serve(_answer)
