"""Losses under torch.func and torch.compile: torch's results, and one graph for all numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from evomal import FocalLoss, NeuralLoss, SymbolicLoss, TaylorLoss
from evomal.losses.base import Loss, Reduction
from evomal.losses.form import Link
from evomal.losses.meta import MetaLoss
from handcrafted_losses import CROSS_ENTROPIES, LOSSES, Make, classes, draw, name

REDUCTIONS: list[Reduction] = ["mean", "sum", "none"]
SQUARED_ERROR = "square(sub(y, f))"
CROSS_ENTROPY = "mul(-1, mul(y, log(f)))"


def symbolic(**common: Any) -> SymbolicLoss:
    return SymbolicLoss("add(mul(y, f), square(sub(y, f)))", link="softmax", **common)


def neural(**common: Any) -> NeuralLoss:
    return NeuralLoss(link="softmax", **common)


def taylor(**common: Any) -> TaylorLoss:
    return TaylorLoss([0.1, 0.3, 1.0, -2.0, 0.5, -1.5, 0.25, 3.0], link="softmax", **common)


LEARNED: list[Callable[..., MetaLoss]] = [symbolic, neural, taylor]
# one of each class; torch's own label smoothing cannot be mapped where samples are ignored
MAKES: list[Callable[..., Loss]] = [*LEARNED, *(LOSSES[i] for i in (1, 3, 4, 6, 8, 10))]

# torch.func


@pytest.mark.parametrize(
    ("reduction", "weight", "ignore_index"),
    [
        ("mean", None, -100),
        ("mean", [0.5, 2.0, 1.0], 1),
        ("sum", [0.5, 2.0, 1.0], -100),
        ("none", None, 1),
    ],
)
@pytest.mark.parametrize("make", MAKES, ids=name)
def test_a_mapped_loss_is_that_of_every_part(
    make: Callable[..., Loss], reduction: Reduction, weight: Any, ignore_index: int
) -> None:
    """Over both arguments, over either, and over samples one by one; with their gradients."""
    loss = make(reduction=reduction, weight=weight, ignore_index=ignore_index)
    preds, targets = draw(4, 5, 3), classes(4, 5, count=3)
    targets[0, 2] = targets[3, :2] = ignore_index

    def one(pred: Tensor, target: Tensor) -> Tensor:
        value: Tensor = loss(pred, target).sum()
        return value

    mapped: list[tuple[int | None, int | None]] = [(0, 0), (0, None), (None, 0)]
    for dims in mapped:
        given = [x if dim == 0 else x[0] for x, dim in zip((preds, targets), dims, strict=True)]
        expected_values, expected_slopes = [], []
        for i in range(4):
            pred, target = (x[i] if dim == 0 else x for x, dim in zip(given, dims, strict=True))
            expected_values.append(loss(pred, target))
            expected_slopes.append(torch.func.grad(one)(pred, target))
        values = torch.func.vmap(loss, dims)(*given)
        torch.testing.assert_close(values, torch.stack(expected_values))
        slopes = torch.func.vmap(torch.func.grad(one), dims)(*given)
        torch.testing.assert_close(slopes, torch.stack(expected_slopes))
    each = torch.func.vmap(loss)(preds[0], targets[0])
    expected = [loss(pred, target) for pred, target in zip(preds[0], targets[0], strict=True)]
    torch.testing.assert_close(each, torch.stack(expected), equal_nan=True)


@pytest.mark.parametrize("ignore_index", [-100, 1])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_mapped_cross_entropy_is_torchs(reduction: Reduction, ignore_index: int) -> None:
    preds, targets = draw(4, 5, 3), classes(4, 5, count=3)
    targets[1] = ignore_index
    common: dict[str, Any] = {"reduction": reduction, "ignore_index": ignore_index}

    def torchs(pred: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(pred, target, **common)

    expected = torch.func.vmap(torchs)(preds, targets)
    for make in CROSS_ENTROPIES:
        found = torch.func.vmap(make(**common))(preds, targets)
        torch.testing.assert_close(found, expected, equal_nan=True)
    near = torch.func.vmap(SymbolicLoss(CROSS_ENTROPY, link="softmax", **common))(preds, targets)
    torch.testing.assert_close(near, expected, equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", MAKES, ids=name)
def test_jacobians_and_tangents_are_the_gradient(make: Callable[..., Loss]) -> None:
    target, pred, direction = torch.tensor([0, 1, -100, 2]), draw(4, 3), draw(4, 3, seed=2)
    for weight in (None, [0.5, 2.0, 1.0]):
        loss = make(weight=weight)
        leaf = pred.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(leaf, target), leaf)

        def of_pred(pred: Tensor, loss: Loss = loss) -> Tensor:
            value: Tensor = loss(pred, target)
            return value

        torch.testing.assert_close(torch.func.grad(of_pred)(pred), slope)
        torch.testing.assert_close(torch.func.jacrev(of_pred)(pred), slope)
        torch.testing.assert_close(torch.func.jacfwd(of_pred)(pred), slope)
        found = torch.func.jvp(of_pred, (pred,), (direction,))
        expected = loss(pred, target), (slope * direction).sum()
        torch.testing.assert_close(found, expected)


KINDS: dict[str, Callable[[Link], MetaLoss]] = {
    "symbolic": lambda link: SymbolicLoss(SQUARED_ERROR, [1.5, 0.5, 2.0], link=link),
    "network": lambda link: NeuralLoss(link=link, hidden=(6, 5)),
    "taylor": lambda link: TaylorLoss(draw(8), link=link),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("link", ["softmax", "sigmoid", "identity"])
def test_derivatives_by_the_weights_of_every_kind(link: Link, kind: str) -> None:
    loss = KINDS[kind](link).double()
    pred = draw(4, 3)
    target = torch.tensor([0, 1, 2, 0]) if link == "softmax" else draw(4, 3, seed=3).sigmoid()
    phi, direction = loss.phi, draw(len(loss.phi), seed=4)

    def of_phi(phi: Tensor) -> Tensor:
        return loss.evaluate(pred, target, phi)

    def by_call(phi: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(loss, {"phi": phi}, (pred, target))
        return out

    leaf = phi.clone().requires_grad_()
    (slope,) = torch.autograd.grad(of_phi(leaf), leaf)
    assert (slope != 0).all() or kind == "network"  # where ReLU is off
    for function in (of_phi, by_call):
        for gradient in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
            torch.testing.assert_close(gradient(function)(phi), slope)
        tangent = torch.func.jvp(function, (phi,), (direction,))[1]
        torch.testing.assert_close(tangent, slope @ direction)
        several = torch.stack([phi, 2 * phi])
        expected = torch.stack([function(one) for one in several])
        torch.testing.assert_close(torch.func.vmap(function)(several), expected)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(phi, direction)  # type: ignore[no-untyped-call]
        tangent = forward_ad.unpack_dual(of_phi(dual)).tangent  # type: ignore[no-untyped-call]
    torch.testing.assert_close(tangent, slope @ direction)

    def inner(phi: Tensor) -> Tensor:
        """The derivative by the predictions, which has one by φ."""
        ones = (torch.ones_like(pred),)
        tangent: Tensor = torch.func.jvp(lambda x: loss.evaluate(x, target, phi), (pred,), ones)[1]
        return tangent

    mixed = torch.func.jacfwd(inner)(phi)
    torch.testing.assert_close(mixed, torch.func.jacrev(inner)(phi))
    assert link == "softmax" or (mixed != 0).any(dim=-1).all()


@pytest.mark.parametrize("make", [*LEARNED, FocalLoss], ids=name)
def test_a_mapped_class_out_of_range_is_torchs_error(make: Callable[..., Loss]) -> None:
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        torch.func.vmap(make())(draw(2, 4, 3), torch.full((2, 4), 3))


# torch.compile

STEPS = [0.25, 0.0, 1.0, 0.5, -1.5]
"""The compiler takes the first as a constant; one further graph must do for all others."""


@pytest.mark.parametrize(
    ("steps", "graphs", "backend"),
    [
        (STEPS, 2, "aot_eager"),
        ([3, 0, 1, 7], 2, "aot_eager"),
        ([np.float64(step) for step in STEPS], 1, "eager"),
        ([np.float32(step) for step in STEPS], 1, "eager"),
        ([np.int64(step) for step in (3, 0, 1)], 1, "eager"),
        ([torch.tensor(step) for step in STEPS], 1, "eager"),
        ([torch.full((8,), step) for step in STEPS], 1, "eager"),
    ],
    ids=["float", "int", "numpy.float64", "numpy.float32", "numpy.int64", "tensor", "samples"],
)
def test_one_graph_serves_for_all_numbers(steps: list[Any], graphs: int, backend: str) -> None:
    assert compiled_graphs("softmax", steps, backend) == graphs


@pytest.mark.parametrize("link", ["softmax", "identity"])
def test_with_dynamic_shapes_one_graph_serves_from_the_first_number_on(link: Link) -> None:
    assert compiled_graphs(link, STEPS, "aot_eager", dynamic=True) == 1


def compiled_graphs(link: Link, steps: list[Any], backend: str, **options: Any) -> int:
    """How many graphs a loss makes for the values of its extra input; all are checked."""
    made = torch._dynamo.lookup_backend(backend)
    count = 0

    def counting(graph: Any, inputs: Any) -> Any:
        nonlocal count
        count += 1
        return made(graph, inputs)

    torch._dynamo.reset()
    loss = SymbolicLoss("mul(t, square(sub(y, f)))", link=link, inputs=("t",))
    compiled = torch.compile(loss, backend=counting, fullgraph=True, **options)
    pred = draw(8, 3, dtype=torch.float32).requires_grad_()
    target = classes(8, count=3) if link == "softmax" else draw(8, 3, seed=1, dtype=torch.float32)
    for step in steps:
        found, expected = (way(pred, target, t=step) for way in (compiled, loss))
        torch.testing.assert_close(found, expected)
        slopes = [torch.autograd.grad(value, pred)[0] for value in (found, expected)]
        torch.testing.assert_close(*slopes)
    torch._dynamo.reset()
    return count


@pytest.mark.parametrize("make", [*LEARNED, FocalLoss], ids=name)
def test_halves_compile_to_one_graph_as_well(make: Make) -> None:
    torch._dynamo.reset()
    loss: nn.Module = make(weight=[0.5, 2.0, 1.0], ignore_index=1)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    pred, target = draw(8, 3).half(), classes(8, count=3)
    value = compiled(pred, target)
    assert value.dtype == torch.float16
    torch.testing.assert_close(value, loss(pred, target))
    with torch.autocast("cpu", torch.bfloat16):
        value = compiled(pred, target)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(pred, target))
    torch._dynamo.reset()
