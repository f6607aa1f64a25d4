"""The written forms of expressions: the prefix form, sympy's, and the printed formulas."""

from __future__ import annotations

import math
import re

import pytest
import sympy
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomal.errors import InputError
from evomal.expressions import printing
from evomal.expressions.expression import Expression, parse
from evomal.expressions.primitives import PRIMITIVES, TERMINALS
from evomal.expressions.printing import PrintedForm, PrintRequest, printed_forms, to_sympy
from strategies import PROBABILITIES, STANDARDISED, expressions, fast, pairs, weights_of

# The prefix form


@fast
@given(expressions(5))
def test_parse_reads_what_str_writes(expression: Expression) -> None:
    assert parse(str(expression)) == expression


@fast
@given(expressions(3), st.data())
def test_white_space_is_without_meaning(expression: Expression, data: st.DataObject) -> None:
    spaces = st.sampled_from(["", " ", "\t", "\n", "  "])
    text = str(expression).replace(" ", "")
    for mark in "(,)":
        text = text.replace(mark, data.draw(spaces) + mark + data.draw(spaces))
    assert parse(data.draw(spaces) + text + data.draw(spaces)) == expression


def test_prefix_form_of_known_nodes() -> None:
    nodes = ("add", "square", "sub", "y", "f", "-1")
    assert str(Expression(nodes)) == "add(square(sub(y, f)), -1)"
    assert parse("add(square(sub(y, f)), -1)").nodes == nodes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends too early; expected a name"),
        (" \n", "ends too early; expected a name"),
        ("square", r"ends too early; expected '\('"),
        ("square(y", r"ends too early; expected '\)'"),
        ("add(y", "ends too early; expected ','"),
        ("add(y,", "ends too early; expected a name"),
        ("square y", r"Expected '\(' but found 'y' at position 8"),
        ("square(y))", r"Expected the end but found '\)' at position 10"),
        ("square()", r"Expected a name but found '\)' at position 8"),
        ("add(y)", r"Expected ',' but found '\)' at position 6"),
        ("add(y f)", "Expected ',' but found 'f' at position 7"),
        ("add(y, f, 1)", r"Expected '\)' but found ',' at position 9"),
        ("square(y, f)", r"Expected '\)' but found ',' at position 9"),
        ("f(y)", r"Expected the end but found '\(' at position 2"),
        ("(y)", r"Expected a name but found '\(' at position 1"),
        ("y f", "Expected the end but found 'f' at position 3"),
        ("y end", "Expected the end but found 'end' at position 3"),
        ("y name", "Expected the end but found 'name' at position 3"),
        ("abs(name)", "Unknown name 'name' at position 5"),
        ("cosh(y)", "Unknown name 'cosh' at position 1"),
        ("add(y, Y)", "Unknown name 'Y' at position 8"),
        ("add( \n y,  2)", "Unknown name '2' at position 12"),
        ("mul(-2, f)", "Unknown name '-2' at position 5"),
        ("1e3", "Unknown name '1e3' at position 1"),
        ("1.5", "Expected the end but found '.' at position 2"),
        ("- 1", "Expected a name but found '-' at position 1"),
        ("+1", r"Expected a name but found '\+' at position 1"),
        ("add(y; f)", "Expected ',' but found ';' at position 6"),
    ],
)
def test_malformed_text_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError) as caught:
        parse("exp(y)")
    assert all(name in str(caught.value) for name in (*PRIMITIVES, *TERMINALS))


@pytest.mark.parametrize("start", ["abs(", "min(f, "])
def test_a_thousand_levels_need_no_recursion(start: str) -> None:
    text = start * 1000 + "f" + ")" * 1000
    expression = parse(text)
    assert str(expression) == text
    assert expression.height == 1000
    assert expression.ends[-1] == len(expression)
    assert len(expression.canonical) == len(expression)
    assert expression.evaluate(torch.zeros(2), torch.ones(2)).tolist() == [1.0, 1.0]


# Sympy


def smallest_sign_argument(expression: Expression, y: Tensor, f: Tensor, phi: Tensor) -> float:
    """How near the arguments of `sign` come to the step, in the meta-loss network."""
    nearest = torch.inf
    for i, node in enumerate(expression.nodes):
        if node == "sign":
            below = Expression(expression.subtree(i + 1))
            value = below.evaluate(y, f, phi[i + 1 : i + len(below)]) * phi[i]
            nearest = min(nearest, value.abs().min().item())
    return nearest


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("probabilities", [False, True], ids=["real", "probabilities"])
@fast
@given(expression=expressions(3), seed=st.integers(0, 2**32 - 1))
def test_sympy_form_has_the_values_of_the_expression(
    weighted: bool, probabilities: bool, expression: Expression, seed: int
) -> None:
    y, f = pairs(PROBABILITIES if probabilities else STANDARDISED)
    phi = weights_of(expression, seed) if weighted else torch.ones(len(expression) - 1).double()
    # Sympy cancels terms exactly, so on the step of `sign` rounding decides.
    assume(smallest_sign_argument(expression, y, f, phi) > 1e-9)
    form = to_sympy(expression, phi.tolist() if weighted else None, probabilities=probabilities)
    domain = {"nonnegative": True} if probabilities else {"real": True}
    assert form.free_symbols <= set(sympy.symbols("y f", **domain))
    function = sympy.lambdify(sympy.symbols("y f", **domain), form, "numpy")
    found = torch.as_tensor(function(y.numpy(), f.numpy())).expand_as(f)
    torch.testing.assert_close(found.double(), expression.evaluate(y, f, phi), rtol=1e-6, atol=1e-9)


def test_epsilon_can_be_a_symbol() -> None:
    epsilon = sympy.Symbol("epsilon", positive=True)
    form = to_sympy(parse("sqrt(log(f))"), epsilon=epsilon)
    f = sympy.Symbol("f", real=True)
    assert form == sympy.sqrt(sympy.Abs(sympy.log(sympy.Abs(f) + epsilon)) + epsilon)


# Printed forms


def pasted(formula: str, y: Tensor, f: Tensor) -> Tensor:
    """The values of a printed formula as Python computes them."""
    names = {
        **{"abs": abs, "max": max, "min": min, "log": math.log, "sqrt": math.sqrt},
        **{"tanh": math.tanh, "sign": lambda x: (x > 0) - (x < 0), "__builtins__": {}},
    }
    code = compile(formula, "formula", "eval")
    points = zip(y.tolist(), f.tolist(), strict=True)
    values = [eval(code, {**names, "y": a, "f": b}) for a, b in points]
    return torch.tensor(values, dtype=torch.double)


PLAIN = [
    PrintRequest(parse("square(sub(y, f))")),
    PrintRequest(parse("mul(y, abs(log(f)))"), probabilities=True),
    PrintRequest(parse("mul(y, abs(log(f)))")),
    PrintRequest(parse("abs(mul(y, sqrt(f)))"), [2.0, 1.5, 0.25, 3.0], probabilities=True),
    PrintRequest(parse("mul(-1, f)"), [1.0, 1.234567]),
    PrintRequest(parse("mul(y, abs(log(f)))"), [1.0, 2.0, 0.5, 1.00001], probabilities=True),
    PrintRequest(parse("add(1, 1)")),
]
FORMULAS = [
    "(-f + y)**2",
    "y*abs(log(f + 1e-7))",
    "y*abs(log(abs(f) + 1e-7))",
    "0.75*y*sqrt(3.0*f + 1e-7)",
    "-1.235*f",
    "y*abs(log(f + 1e-7))",
    "2",
]
FIXED = [
    "add(square(sub(y, f)), tanh(mul(y, f)))",
    "mul(y, abs(log(mul(f, 1))))",
    "div(sub(y, f), sqrt(add(f, 1)))",
    "max(square(f), min(y, mul(f, y)))",
    "sub(log(add(y, 1)), mul(sign(f), sqrt(y)))",
    "abs(sub(tanh(f), mul(y, div(f, y))))",
    "square(add(mul(y, log(f)), mul(sub(1, y), f)))",
]
WEIGHTED = [
    PrintRequest(expression, weights_of(expression, seed).tolist(), probabilities)
    for seed, expression in enumerate(map(parse, FIXED))
    for probabilities in (False, True)
]


@pytest.fixture(scope="module")
def printed() -> dict[int, PrintedForm]:
    """The forms of all requests above by the request's id, from one call."""
    requests = [*PLAIN, *WEIGHTED]
    forms = printed_forms(requests, time_limit=60.0)
    assert len(forms) == len(requests)
    return {id(request): form for request, form in zip(requests, forms, strict=True)}


@pytest.mark.parametrize(("request_", "formula"), list(zip(PLAIN, FORMULAS, strict=True)))
def test_printed_formula_is_the_known_one(
    printed: dict[int, PrintedForm], request_: PrintRequest, formula: str
) -> None:
    assert printed[id(request_)].formula == formula


def test_latex_of_the_squared_error(printed: dict[int, PrintedForm]) -> None:
    assert printed[id(PLAIN[0])].latex == r"\left(- f + y\right)^{2}"


@pytest.mark.parametrize("request_", WEIGHTED, ids=lambda r: f"{r.expression}-{r.probabilities}")
def test_printed_formula_has_the_values_of_the_network(
    printed: dict[int, PrintedForm], request_: PrintRequest
) -> None:
    formula = printed[id(request_)].formula
    numbers = re.findall(r"\d+\.\d+", formula)
    assert numbers
    assert all(float(number) == float(f"{float(number):.4g}") for number in numbers)
    y, f = pairs([0.1, 0.35, 0.8] if request_.probabilities else [-2.0, -0.4, 0.3, 1.5])
    found = pasted(formula, y, f)
    assert request_.weights is not None
    expected = request_.expression.evaluate(y, f, torch.tensor(request_.weights).double())
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("probabilities", [False, True], ids=["real", "probabilities"])
@settings(deadline=None, max_examples=25)
@given(expression=expressions(3), seed=st.integers(0, 2**32 - 1))
def test_printed_formula_is_python_with_the_values_of_the_network(
    probabilities: bool, expression: Expression, seed: int
) -> None:
    """With all digits, so that nothing but the form can differ."""
    y, f = pairs(PROBABILITIES if probabilities else STANDARDISED)
    phi = weights_of(expression, seed)
    assume(smallest_sign_argument(expression, y, f, phi) > 1e-9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(printing, "SIGNIFICANT_DIGITS", 17)
        form = printing._simplified_form(PrintRequest(expression, phi.tolist(), probabilities))
    expected = expression.evaluate(y, f, phi)
    torch.testing.assert_close(pasted(form.formula, y, f), expected, rtol=1e-6, atol=1e-8)
    powers = re.findall(r"\*\*(\([^)]*\)|[^ ),*/]+)", form.formula)
    assert all(re.fullmatch(r"\d+|\(-?\d+/2\)", power) for power in powers)


@pytest.mark.parametrize(
    ("text", "weights", "formula"),
    [  # which sympy's simplification makes logarithms of powers and quotients
        (
            "mul(-1, add(mul(y, log(f)), mul(sub(1, y), log(sub(1, f)))))",
            [1.0, 1.0, 2.0, 0.5, 0.9, 2.0, 1.0, 0.8, 0.5, 1.0, 1.5, 1.0, 0.9, 1.1],
            "-0.9*y*log(2.0*f + 1e-7) + (1.2*y - 0.6)*log(abs(1.1*f - 0.9) + 1e-7)",
        ),
        ("mul(log(f), -1)", [2.0, 0.5, 0.7], "-1.4*log(0.5*f + 1e-7)"),
        ("add(log(f), log(y))", None, "log(f + 1e-7) + log(y + 1e-7)"),
        ("mul(y, abs(log(f)))", [1.3, 0.5, 2.0, 0.7], "1.3*y*abs(log(0.7*f + 1e-7))"),
        ("max(log(f), log(y))", [-0.5, 2.0, -1.5, 3.0], None),
    ],
)
def test_a_weight_stays_a_factor(
    text: str, weights: list[float] | None, formula: str | None
) -> None:
    found = printing._simplified_form(PrintRequest(parse(text), weights, probabilities=True))
    assert formula in (None, found.formula)
    assert "**" not in found.formula
    assert "/" not in found.formula


def test_an_extra_input_of_the_name_of_epsilon_is_not_epsilon() -> None:
    expression = parse("mul(epsilon, log(f))", ("epsilon",))
    form = printing._simplified_form(PrintRequest(expression, probabilities=True))
    assert form.formula == "epsilon*log(f + 1e-7)"


def test_printed_forms_are_reproducible(printed: dict[int, PrintedForm]) -> None:
    requests = [*PLAIN, *WEIGHTED]
    assert printed_forms(requests, time_limit=60.0) == [printed[id(r)] for r in requests]


def test_no_requests_give_no_forms() -> None:
    assert printed_forms([]) == []


def test_a_late_expression_is_printed_in_prefix_form() -> None:
    phi = [0.5, 1.23456, -2.0]
    requests = [PrintRequest(parse("square(sub(y, f))"), weights) for weights in (None, phi)]
    plain, weighted = printed_forms(requests, time_limit=1e-4)
    assert plain == PrintedForm("square(sub(y, f))", r"\mathtt{square(sub(y, f))}")
    assert weighted.formula == "square(0.5*sub(1.235*y, -2*f))"


def test_requests_after_one_that_sympy_cannot_answer_are_answered() -> None:
    too_deep = parse("tanh(" * 1000 + "f" + ")" * 1000)  # ends the helper with a RecursionError
    first, second, third = printed_forms([PLAIN[0], PrintRequest(too_deep), PLAIN[4]], 60.0)
    assert (first.formula, second.formula, third.formula) == (
        FORMULAS[0],
        str(too_deep),
        FORMULAS[4],
    )


def test_the_time_limit_holds_when_the_requests_fill_the_pipe() -> None:
    nodes: tuple[str, ...] = ("y",)
    for _ in range(12):
        nodes = ("add", *nodes, *nodes)
    requests = [PrintRequest(Expression(nodes))] * 6  # 200 kB, several times a pipe's buffer
    forms = printed_forms(requests, time_limit=1e-4)
    assert [form.formula for form in forms] == [str(request.expression) for request in requests]
