"""The loss of TaylorGLO: its polynomial by hand, its derivatives, what it says of itself."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from evomal import SymbolicLoss, TaylorLoss
from evomal.errors import InputError
from evomal.losses.form import Form
from handcrafted_losses import classes, draw

PHI = [0.5, -0.25, 2.0, -3.0, 1.5, 0.75, -1.25, 4.0]


def of_order(order: int, dtype: torch.dtype = torch.float64, **settings: Any) -> TaylorLoss:
    size = 2 + order * (order + 1) // 2
    return TaylorLoss(draw(size, seed=order, dtype=dtype), order=order, **settings)


def test_the_polynomial_of_the_paper_by_hand() -> None:
    """φ₂b + ½φ₃b² + ⅙φ₄b³ + φ₅ab + ½φ₆ab² + ½φ₇a²b, with a = 1.5 and b = 0.5."""
    loss = TaylorLoss(torch.tensor(PHI).double())
    value = loss.elementwise(torch.tensor(2.0).double(), torch.tensor(0.25).double(), loss.phi)
    expected = 2 * 0.5 - 3 * 0.25 / 2 + 1.5 * 0.125 / 6
    expected += 0.75 * 1.5 * 0.5 - 1.25 * 1.5 * 0.25 / 2 + 4 * 2.25 * 0.5 / 2
    assert value.item() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_terms_are_ordered_by_the_power_of_a_then_of_b(order: int) -> None:
    pairs = itertools.product(range(order), range(1, order + 1))
    exponents = [(j, i) for j, i in pairs if i + j <= order]
    loss = of_order(order)
    assert loss.size == len(loss.phi) == 2 + len(exponents)
    y, f = draw(20, seed=7), draw(20, seed=8)
    a, b = y - loss.phi[0], f - loss.phi[1]
    expected = torch.zeros_like(y)
    for (j, i), coefficient in zip(exponents, loss.phi[2:], strict=True):
        expected += coefficient * a**j * b**i / (math.factorial(j) * math.factorial(i))
    torch.testing.assert_close(loss.elementwise(y, f, loss.phi), expected, rtol=1e-12, atol=1e-12)
    if order == 3:
        assert exponents == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1)]


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_gradients_by_all_arguments(order: int) -> None:
    loss = of_order(order)
    leaves = [x.clone().requires_grad_() for x in (draw(4), draw(4, seed=1), loss.phi)]
    assert torch.autograd.gradcheck(loss.elementwise, leaves)
    assert torch.autograd.gradgradcheck(loss.elementwise, leaves)


def test_it_is_an_expression_too() -> None:
    """(y − ½)(f − 2) + 3(f − 2)², by the language of `SymbolicLoss`."""
    taylor = TaylorLoss([0.5, 2.0, 0.0, 6.0, 0.0, 1.0, 0.0, 0.0], link="softmax").double()
    text = "add(mul(sub(y, 1), sub(f, 1)), square(sub(f, 1)))"
    phi = [1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 2.0, 3.0, 1.0, 1.0, 2.0]
    symbolic = SymbolicLoss(text, phi, link="softmax").double()
    pred, target = draw(5, 3), classes(5, count=3)
    values, slopes = [], []
    for loss in (taylor, symbolic):
        leaf = pred.clone().requires_grad_()
        values.append(loss(leaf, target))
        slopes.append(torch.autograd.grad(values[-1], leaf)[0])
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_by_default_it_is_the_squared_error_without_what_has_no_gradient(order: int) -> None:
    y, f = draw(20), draw(20, seed=1)
    loss = TaylorLoss(order=order).double()
    expected = (y - f).square() - y.square()
    torch.testing.assert_close(loss.elementwise(y, f, loss.phi), expected)


def test_first_weights_are_its_own() -> None:
    loss = TaylorLoss(PHI)
    phi = loss.initial_phi(np.random.default_rng(0))
    assert torch.equal(phi, loss.phi)
    phi.zero_()
    assert loss.phi.tolist() == PHI


FUNCTIONS: dict[str, Any] = {"__builtins__": {}}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_the_formula_can_be_pasted(order: int, dtype: torch.dtype) -> None:
    loss = of_order(order, dtype)
    y, f = draw(10), draw(10, seed=1)
    formula = loss.describe()["formula"]
    expected = loss.elementwise(y, f, loss.phi.double())
    torch.testing.assert_close(
        eval(formula, FUNCTIONS, {"y": y, "f": f}), expected, rtol=1e-6, atol=1e-6
    )
    assert "- -" not in formula
    assert "+ -" not in formula


@pytest.mark.parametrize(
    ("phi", "formula", "latex"),
    [
        ([0.0] * 8, "0", "0"),
        ([0.0, 0.0, 0, 2, 0, -2, 0, 0], "2/2*f**2 - 2*y*f", r"\frac{2}{2} f^{2} - 2 y f"),
        (
            [0.5, -1e-9, -1, 0, 0, 0, 0, 2.5e-7],
            "-1*(f + 1e-9) + 2.5e-7/2*(y - 0.5)**2*(f + 1e-9)",
            r"-1 \left(f + 1 \cdot 10^{-9}\right) + \frac{2.5 \cdot 10^{-7}}{2} "
            r"\left(y - 0.5\right)^{2} \left(f + 1 \cdot 10^{-9}\right)",
        ),
    ],
)
def test_formulas_by_hand(phi: list[float], formula: str, latex: str) -> None:
    described = TaylorLoss(phi).describe()
    assert (described["formula"], described["latex"]) == (formula, latex)


def test_what_it_says_of_itself() -> None:
    loss = TaylorLoss(PHI, link="softmax")
    assert (loss.size, loss.structure) == (8, "taylor(3)")
    described = loss.describe()
    assert described.keys() == {"formula", "latex", "python", "parameters", "link", "inputs", "phi"}
    assert (described["parameters"], described["phi"]) == (8, PHI)
    assert described["python"] == (
        'evomal.TaylorLoss(phi=[0.5, -0.25, 2.0, -3.0, 1.5, 0.75, -1.25, 4.0], link="softmax")'
    )
    other = TaylorLoss.of_form(Form("softmax", ("w",), (1.0, 2.0), 1), order=2)
    assert (other.structure, other.required_inputs, other.inputs) == ("taylor(2)", (), ("w",))
    pred, target = draw(4, 2), classes(4, count=2)
    assert torch.equal(other(pred, target, w=0.5), other(pred, target))
    assert re.fullmatch(r"TaylorLoss\(taylor\(2\), link='softmax', .*\)", repr(other))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({"order": order}, "from 2 to 5, got") for order in (1, 6, 2.0, True, "3", None)),
        ({"phi": PHI[:-1]}, r"order 3 takes 8 weights, but the given phi has shape \(7,\)"),
        ({"phi": PHI, "order": 4}, "order 4 takes 12 weights"),
        ({"phi": "abc"}, "weights hold text"),
    ],
)
def test_arguments_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        TaylorLoss(**settings)
    assert "\n" not in str(caught.value)
