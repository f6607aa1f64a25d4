"""Sympy and LaTeX forms of expressions, simplified within a time limit.

Sympy's simplification can take minutes on a deep tree, so `printed_forms` uses a second process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evomal.expressions.expression import Expression, parse
from evomal.expressions.primitives import CONSTANTS, EPSILON, PRIMITIVES, VARIABLES
from evomal.expressions.sympy_process import TIME_LIMIT, ask, serve

_EPSILON = "1e-7"
assert float(_EPSILON) == EPSILON

SIGNIFICANT_DIGITS = 4
MOST_SIMPLIFIED_NODES = 15  # larger expressions take seconds each; only constants are folded


@dataclass(frozen=True)
class PrintRequest:
    """An expression to print; `weights` in prefix order, or None for all ones.

    `probabilities` means that y and f lie in [0, 1], so ``abs`` and ``sign`` can be eliminated.
    """

    expression: Expression
    weights: Sequence[float] | None = None
    probabilities: bool = False


@dataclass(frozen=True)
class PrintedForm:
    """An infix formula in Python and in LaTeX, with weights to four significant digits.

    The formula uses ``abs``, ``max`` and ``min``, ``log``, ``sqrt`` and ``tanh`` of `math`, and
    ``sign``. The ε of protected primitives is 1e-7 in Python and a symbol in LaTeX.
    """

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
        The expression to convert.
    weights
        One weight per edge in prefix order, or None for all ones.
    probabilities
        Whether the symbols y and f are declared non-negative rather than real.
    epsilon
        The ε of the protected primitives: a number or a sympy symbol.
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

    Weights remain factors: logarithms are not combined into logarithms of powers. Expressions that
    take longer than `time_limit` seconds, or are too deep for sympy, are printed in prefix form.
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
    """The prefix form with the weights on its edges, printed if sympy is too slow."""

    def combine(index: int, node: str, args: list[str]) -> str:
        text = f"{node}({', '.join(args)})" if args else node
        if request.weights is None or index == 0:
            return text
        return f"{request.weights[index - 1]:.{SIGNIFICANT_DIGITS}g}*{text}"

    text = request.expression.fold(combine)
    return PrintedForm(text, rf"\mathtt{{{text}}}")


def _simplified_form(request: PrintRequest) -> PrintedForm:
    import sympy

    exact = to_sympy(
        request.expression,
        request.weights,
        probabilities=request.probabilities,
        epsilon=epsilon_symbol(),
    )
    found = exact
    if len(request.expression) <= MOST_SIMPLIFIED_NODES:
        try:
            simple = sympy.simplify(exact)
            candidates = [exact, simple, sympy.expand_log(simple)]
            plain = [form for form in candidates if _is_plain(form)]
            found = min(plain, key=lambda form: form.count_ops(), default=exact)
        except (ArithmeticError, AttributeError, TypeError, ValueError):
            pass  # sympy fails on some nestings of Min, Max and sign
    digits: dict[Any, Any] = {}
    for weight in found.atoms(sympy.Float):
        short = sympy.Float(weight, SIGNIFICANT_DIGITS)
        digits[weight] = sympy.Integer(1) if float(str(short)) == 1 else short
    rounded = found.xreplace(digits)
    return PrintedForm(as_python(rounded), sympy.latex(rounded))


def _is_plain(form: Any) -> bool:
    """Whether a form uses only the operations of the primitives.

    Simplification can combine logarithms into logarithms of powers, and expand `sign`.
    """
    import sympy

    functions = (sympy.Abs, sympy.sign, sympy.log, sympy.tanh, sympy.Min, sympy.Max)
    for node in sympy.preorder_traversal(form):
        if node.is_Pow:
            if not (2 * node.exp).is_Integer:  # square roots are powers, too
                return False
        elif isinstance(node, sympy.log):
            if node.args[0].is_Mul or node.args[0].is_Pow:
                return False
        elif not (node.is_Atom or node.is_Add or node.is_Mul or isinstance(node, functions)):
            return False
    return True


def epsilon_symbol() -> Any:
    """The symbol ε, distinct from an extra input of the same name."""
    import sympy

    return sympy.Symbol("epsilon", positive=True)


def as_python(form: Any) -> str:
    """A sympy expression as Python code, with ε as a number."""
    from sympy.printing.str import StrPrinter

    epsilon = epsilon_symbol()

    class Printer(StrPrinter):  # type: ignore[misc]
        """Prints the names of Python's functions, and ε after the term that it protects."""

        def _print_Abs(self, node: Any) -> str:  # noqa: N802 - sympy looks methods up by class
            return f"abs({self._print(node.args[0])})"

        def _print_Max(self, node: Any) -> str:  # noqa: N802
            return f"max({self.stringify(node.args, ', ')})"

        def _print_Min(self, node: Any) -> str:  # noqa: N802
            return f"min({self.stringify(node.args, ', ')})"

        def _print_Symbol(self, node: Any) -> str:  # noqa: N802
            return _EPSILON if node == epsilon else str(node.name)

        def _as_ordered_terms(self, node: Any, order: Any = None) -> list[Any]:
            terms = super()._as_ordered_terms(node, order=order)
            return sorted(terms, key=lambda term: epsilon in (term, *term.args))

    text: str = Printer().doprint(form)
    return text


def _answer(fields: dict[str, Any]) -> dict[str, str]:
    """The helper process's answer to an encoded request."""
    expression = parse(fields.pop("expression"), tuple(fields.pop("inputs")))
    form = _simplified_form(PrintRequest(expression, **fields))
    return {"formula": form.formula, "latex": form.latex}


if __name__ == "__main__":
    serve(_answer)
