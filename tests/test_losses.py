"""Symbolic losses as modules: agreement with torch's, links, shapes, reductions, weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from evomal import SymbolicLoss
from evomal.errors import InputError
from evomal.expressions.expression import Expression, parse
from evomal.expressions.primitives import EPSILON
from evomal.losses.base import Reduction
from evomal.losses.form import Link
from strategies import fast, weighted_losses

SQUARED_ERROR = "square(sub(y, f))"
CROSS_ENTROPY = "mul(-1, mul(y, log(f)))"
BINARY_CROSS_ENTROPY = "mul(-1, add(mul(y, log(f)), mul(sub(1, y), log(sub(1, f)))))"
REDUCTIONS: list[Reduction] = ["mean", "sum", "none"]


def value_and_gradient(loss: nn.Module, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = pred.detach().clone().requires_grad_()
    value = loss(leaf, target)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Agreement with torch's own losses


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (7,), (7, 1), (7, 3), (2, 3, 4)], ids=str)
def test_squared_error_is_torchs(shape: tuple[int, ...], reduction: Reduction) -> None:
    pred, target = draw(*shape, seed=1), draw(*shape, seed=2)
    ours = value_and_gradient(SymbolicLoss(SQUARED_ERROR, reduction=reduction), pred, target)
    theirs = value_and_gradient(nn.MSELoss(reduction=reduction), pred, target)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_cross_entropy_is_torchs_to_epsilon_over_f(kind: str, reduction: Reduction) -> None:
    pred = draw(64, 5, seed=1, dtype=torch.float64)
    target = torch.arange(64) % 5
    if kind == "probabilities":
        target = torch.softmax(draw(64, 5, seed=2, dtype=torch.float64), dim=1)
    f = torch.softmax(pred, dim=1)
    # −log(f + ε) + log f = −log(1 + ε/f) lies in [−ε/f, 0], and Σ y = 1 for every sample. The
    # derivative by logit j has Σ y f/(f + ε) (f_j − δ) for Σ y (f_j − δ), again ε/f apart.
    bound = (EPSILON / f.min()).item() * (64 if reduction == "sum" else 1) + 1e-12
    assert bound < 1e-2
    ours = SymbolicLoss(CROSS_ENTROPY, link="softmax", reduction=reduction)
    theirs = nn.CrossEntropyLoss(reduction=reduction)
    found, expected = (
        value_and_gradient(ours, pred, target),
        value_and_gradient(theirs, pred, target),
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)
    assert (found[0] <= expected[0]).all()  # ε only ever lowers it


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(40,), (40, 1), (8, 5)], ids=str)
def test_binary_cross_entropy_is_torchs_to_epsilon_over_f(
    shape: tuple[int, ...], reduction: Reduction
) -> None:
    pred = 2 * draw(*shape, seed=1, dtype=torch.float64)
    target = (draw(*shape, seed=2) > 0).double()
    f = torch.sigmoid(pred)
    bound = (EPSILON / torch.minimum(f, 1 - f).min()).item() + 1e-12
    bound *= 40 if reduction == "sum" else 1
    ours = SymbolicLoss(BINARY_CROSS_ENTROPY, link="sigmoid", reduction=reduction)
    theirs = nn.BCEWithLogitsLoss(reduction=reduction)
    found, expected = (
        value_and_gradient(ours, pred, target),
        value_and_gradient(theirs, pred, target),
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("logit", [-1e4, -40.0, 40.0, 1e4])
@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_saturated_outputs_stay_finite(link: Link, logit: float) -> None:
    text = CROSS_ENTROPY if link == "softmax" else BINARY_CROSS_ENTROPY
    pred = torch.tensor([[logit, 0.0]])
    target = torch.tensor([0]) if link == "softmax" else torch.tensor([[1.0, 0.0]])
    results = value_and_gradient(SymbolicLoss(text, link=link), pred, target)
    assert all(result.isfinite().all() for result in results)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_class_indices_of_any_integer_type(dtype: torch.dtype) -> None:
    loss = SymbolicLoss(SQUARED_ERROR, link="softmax", reduction="none")
    values = loss(torch.zeros(3, 2), torch.tensor([0, 1, 1], dtype=dtype))
    assert values.tolist() == [0.5, 0.5, 0.5]  # (1 − ½)² + (0 − ½)²


@pytest.mark.parametrize("link", ["sigmoid", "identity"])
def test_targets_of_any_type_are_taken_as_numbers(link: Link) -> None:
    loss = SymbolicLoss(SQUARED_ERROR, link=link)
    pred, target = draw(6), torch.arange(6) % 2
    value = loss(pred, target)
    assert value.dtype == torch.float32
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.float16, torch.float32):
        assert torch.equal(loss(pred, target.to(dtype)), value)


# Activation and reductions


def test_softplus_is_applied_to_every_element_before_the_sum() -> None:
    pred, target = torch.zeros(1, 2), torch.tensor([1])
    loss = SymbolicLoss("sub(f, y)", link="softmax", activation="softplus")
    # f − y is ½ and −½: softplus(½) + softplus(−½), not softplus(0)
    expected = math.log1p(math.exp(0.5)) + math.log1p(math.exp(-0.5))
    assert loss(pred, target).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("link", "reduction", "shape", "value"),
    [
        ("softmax", "mean", (), 0.5),
        ("softmax", "sum", (), 1.5),
        ("softmax", "none", (3,), 0.5),
        ("sigmoid", "mean", (), 0.25),
        ("sigmoid", "sum", (), 1.5),
        ("sigmoid", "none", (3, 2), 0.25),
    ],
)
def test_reductions(link: Link, reduction: Reduction, shape: tuple[int, ...], value: float) -> None:
    loss = SymbolicLoss(SQUARED_ERROR, link=link, reduction=reduction)
    target = torch.tensor([0, 1, 1]) if link == "softmax" else torch.ones(3, 2)
    assert torch.equal(loss(torch.zeros(3, 2), target), torch.full(shape, value))


# What is refused


@pytest.mark.parametrize(
    ("link", "pred", "target", "integers"),
    [
        ("identity", (4,), (4, 1), False),
        ("identity", (4, 1), (4,), False),
        ("identity", (4, 1), (1, 4), False),
        ("identity", (4, 2), (2,), False),
        ("identity", (4,), (), False),
        ("identity", (4,), (1,), False),
        ("sigmoid", (4, 1), (4,), False),
        ("sigmoid", (4, 1), (4,), True),
        ("sigmoid", (4,), (4, 1), True),
        ("softmax", (4,), (4,), True),
        ("softmax", (4, 3, 2), (4,), True),
        ("softmax", (4, 3, 2), (4, 2, 3), False),
        ("softmax", (), (), True),
        ("softmax", (4, 3), (4, 1), True),
        ("softmax", (4, 3), (3,), True),
        ("softmax", (4, 3), (1,), True),
        ("softmax", (4, 3), (), True),
        ("softmax", (4, 3), (4, 3), True),
        ("softmax", (4, 3), (4,), False),
        ("softmax", (4, 3), (1, 3), False),
        ("softmax", (4, 3), (4, 1), False),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    link: Link, pred: tuple[int, ...], target: tuple[int, ...], integers: bool
) -> None:
    dtype = torch.int64 if integers else torch.float32
    with pytest.raises(InputError, match="shape") as caught:
        SymbolicLoss(SQUARED_ERROR, link=link)(torch.zeros(pred), torch.zeros(target, dtype=dtype))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", ["link", "activation", "reduction"])
@pytest.mark.parametrize("value", ["relu", None, ["mean"]])
def test_unknown_settings_are_refused(setting: str, value: object) -> None:
    settings: dict[str, Any] = {setting: value}
    with pytest.raises(InputError, match=f"Unknown {setting}"):
        SymbolicLoss(SQUARED_ERROR, **settings)


WRONG_WEIGHTS = [[], [1.0, 2.0], [1.0] * 4, [[1.0, 2.0, 3.0]], torch.ones(()), torch.ones(3, 1)]


@pytest.mark.parametrize("weights", WRONG_WEIGHTS)
def test_a_wrong_number_of_weights_is_refused(weights: Any) -> None:
    with pytest.raises(InputError, match="3 weights"):
        SymbolicLoss(SQUARED_ERROR, weights)


@pytest.mark.parametrize("weights", WRONG_WEIGHTS)
def test_with_weights_refuses_a_wrong_number(weights: Any) -> None:
    with pytest.raises(InputError, match="3 weights"):
        SymbolicLoss(SQUARED_ERROR).with_phi(weights)


def test_a_malformed_expression_is_refused() -> None:
    with pytest.raises(InputError, match="Unknown name 'exp'"):
        SymbolicLoss("exp(y)")


# Weights


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_are_a_buffer_that_keeps_its_dtype(dtype: torch.dtype) -> None:
    phi = torch.tensor([0.5, 2.0, 3.0], dtype=dtype)
    loss = SymbolicLoss(SQUARED_ERROR, phi)
    assert list(loss.parameters()) == []
    assert loss.state_dict().keys() == {"phi"}
    assert loss.phi.dtype == dtype
    phi.zero_()  # the loss has its own copy
    assert loss.phi.tolist() == [0.5, 2.0, 3.0]
    assert loss(torch.ones(1), torch.ones(1)).item() == (0.5 * (2 - 3)) ** 2
    other = SymbolicLoss(SQUARED_ERROR)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.phi, loss.phi.float())


def test_weights_move_with_the_module() -> None:
    loss = SymbolicLoss(SQUARED_ERROR, [0.5, 2.0, 3.0])
    assert loss.phi.dtype == torch.get_default_dtype()
    assert SymbolicLoss(SQUARED_ERROR, [1, 2, 3]).phi.dtype == torch.get_default_dtype()
    assert loss.double().phi.dtype == torch.float64
    assert loss.to("meta").phi.device.type == "meta"


def test_with_weights_stays_on_the_device() -> None:
    loss = SymbolicLoss(SQUARED_ERROR).to("meta")
    assert loss.with_phi([1.0, 2.0, 3.0]).phi.device.type == "meta"


def test_forward_gives_the_weights_no_gradient() -> None:
    phi = torch.ones(3, requires_grad=True)
    loss = SymbolicLoss(SQUARED_ERROR, phi)
    pred = torch.zeros(2, requires_grad=True)
    loss(pred, torch.ones(2)).backward()
    assert pred.grad is not None
    assert phi.grad is None
    assert not loss.phi.requires_grad


# Smooth at these arguments whatever the weights, as no kink's argument comes near it.
SMOOTH = [
    "mul(y, tanh(mul(f, f)))",
    "square(add(tanh(y), div(f, add(y, 1))))",
    "div(mul(y, f), tanh(sub(-1, square(f))))",
    "log(add(1, square(sub(y, f))))",
    "sqrt(add(mul(y, y), max(square(f), -1)))",
]


@pytest.mark.parametrize("link", ["identity", "sigmoid", "softmax"])
@pytest.mark.parametrize("text", SMOOTH)
def test_evaluate_is_differentiable_in_weights_and_outputs(text: str, link: Link) -> None:
    loss = SymbolicLoss(text, link=link, activation="softplus")
    phi = 1 + 0.1 * draw(len(parse(text)) - 1, dtype=torch.float64)
    pred = draw(3, 2, seed=1, dtype=torch.float64)
    target = draw(3, 2, seed=2, dtype=torch.float64).sigmoid()
    leaves = (pred.requires_grad_(), phi.requires_grad_())

    def value(pred: Tensor, phi: Tensor) -> Tensor:
        return loss.evaluate(pred, target, phi)

    assert torch.autograd.gradcheck(value, leaves)
    assert torch.autograd.gradgradcheck(value, leaves)


@fast
@given(drawn=weighted_losses(3))
def test_forward_is_evaluate_at_the_own_weights(drawn: tuple[Expression, Tensor]) -> None:
    expression, phi = drawn
    pred, target = draw(5, dtype=torch.float64), draw(5, seed=1, dtype=torch.float64)
    loss = SymbolicLoss(expression, phi)
    value = loss(pred, target)
    elements = expression.evaluate(target, pred, phi)
    torch.testing.assert_close(
        value, elements.mean(), rtol=1e-9, atol=1e-9 * float(elements.abs().max())
    )
    assert torch.equal(value, SymbolicLoss(expression).evaluate(pred, target, phi))


# The module as a value


def test_key_is_that_of_all_equivalent_expressions() -> None:
    one, two = SymbolicLoss("add(mul(f, y), 1)"), SymbolicLoss("add(1, mul(y, f))", [2.0] * 4)
    assert one.structure == two.structure
    assert one.structure != SymbolicLoss("add(1, mul(y, y))").structure
    assert SymbolicLoss("sub(y, f)").structure != SymbolicLoss("sub(f, y)").structure


def test_size_and_text() -> None:
    assert SymbolicLoss(CROSS_ENTROPY).size == 6
    assert CROSS_ENTROPY in repr(SymbolicLoss(CROSS_ENTROPY))


@pytest.mark.parametrize("text", [CROSS_ENTROPY, SQUARED_ERROR])
def test_a_linear_model_learns(text: str) -> None:
    inputs = draw(60, 4, seed=1)
    target = inputs[:, :3].argmax(dim=1)
    model, loss = nn.Linear(4, 3), SymbolicLoss(text, link="softmax")
    model.load_state_dict({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)})
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    values = []
    for _ in range(40):
        optimiser.zero_grad()
        value = loss(model(inputs), target)
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]
    assert (model(inputs).argmax(dim=1) == target).float().mean() > 0.9
