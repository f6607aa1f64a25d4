"""Types of results, gradients and tangents, half precision, and batches of nothing: as torch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evomal import (
    AbsoluteCrossEntropyLoss,
    FocalLoss,
    LabelSmoothingLoss,
    NeuralLoss,
    SparseLabelSmoothingLoss,
    SymbolicLoss,
    TaylorLoss,
)
from evomal.losses.base import Loss, Reduction
from evomal.losses.form import Link
from evomal.losses.meta import Activation
from handcrafted_losses import CROSS_ENTROPIES, LOSSES, Make, classes, draw, name

HALVES = [torch.float16, torch.bfloat16]
FLOATS = [*HALVES, torch.float32, torch.float64]
INTEGERS = [torch.bool, torch.uint8, torch.int32, torch.int64]
REDUCTIONS: list[Reduction] = ["mean", "sum", "none"]
SQUARED_ERROR = "square(sub(y, f))"
CROSS_ENTROPY = "mul(-1, mul(y, log(f)))"
BINARY_CROSS_ENTROPY = "mul(-1, add(mul(y, log(f)), mul(sub(1, y), log(sub(1, f)))))"

Function = Callable[[Tensor, Tensor], Tensor]
Types = tuple[torch.dtype, torch.dtype, torch.dtype]

KINDS: dict[str, tuple[Callable[..., Tensor], str, Link]] = {
    "cross-entropy": (functional.cross_entropy, CROSS_ENTROPY, "softmax"),
    "binary": (functional.binary_cross_entropy_with_logits, BINARY_CROSS_ENTROPY, "sigmoid"),
    "squared-error": (functional.mse_loss, SQUARED_ERROR, "identity"),
}


def autocast(dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast("cpu", dtype)


def results(loss: Function, pred: Tensor, target: Tensor, cast: Any) -> tuple[Tensor, Types]:
    """The value in double precision; the types of value, gradient and tangent."""
    leaf = pred.clone().requires_grad_()
    with autocast(cast):
        value = loss(leaf, target)
        tangents = (torch.ones_like(pred),)
        tangent = torch.func.jvp(lambda given: loss(given, target), (pred,), tangents)[1]
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach().double(), (value.dtype, gradient.dtype, tangent.dtype)


def targets(link: Link, dtype: torch.dtype) -> Tensor:
    if link != "softmax":
        return torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0]]).to(dtype)
    if dtype.is_floating_point:
        return draw(4, 3, seed=5).softmax(1).to(dtype)
    return torch.tensor([0, 1, 1, 0]).to(dtype)


@pytest.mark.parametrize("cast", [None, *HALVES], ids=str)
@pytest.mark.parametrize("pred_type", FLOATS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_combination_of_types_gives_torchs(
    kind: str, pred_type: torch.dtype, cast: torch.dtype | None
) -> None:
    theirs, text, link = KINDS[kind]
    pred = draw(4, 3, seed=1).to(pred_type)
    for target_type in [*FLOATS, *INTEGERS]:
        target = targets(link, target_type)
        floating = target_type.is_floating_point
        promoted = torch.promote_types(pred_type, target_type) if floating else pred_type
        if cast is not None and promoted in HALVES:
            promoted = torch.float32
        for reduction in REDUCTIONS:
            loss = SymbolicLoss(text, link=link, reduction=reduction)
            value, types = results(loss, pred, target, cast)
            assert types == (promoted, pred_type, promoted)

            def torchs(pred: Tensor, target: Tensor, how: Reduction = reduction) -> Tensor:
                return theirs(pred, target, reduction=how)

            # torch takes fewer types of targets; where it does not, of another type as numbers
            usual = targets(link, torch.int64 if link == "softmax" else torch.float32)
            given = target if floating else usual
            expected, found = results(torchs, pred, given, cast)
            resolution = 4 * max(torch.finfo(each).eps for each in (*found, *types))
            resolution += 1e-5  # ε of the protected logarithm
            torch.testing.assert_close(value, expected, rtol=resolution, atol=resolution)
            if not floating:
                continue
            if kind == "binary":
                # It alone rounds to the type of the target, but not its tangent.
                assert found[0] in (promoted, target_type, torch.float32)
                assert found[1] == pred_type
            else:
                assert found == types


def every_loss(**common: Any) -> list[Loss]:
    """A loss of each kind that takes classes, with extra inputs given where it has any."""
    return [
        SymbolicLoss(CROSS_ENTROPY, link="softmax", **common),
        SymbolicLoss(SQUARED_ERROR, link="softmax", activation="softplus", **common),
        NeuralLoss(link="softmax", **common),
        TaylorLoss(link="softmax", **common),
        *(make(**common) for make in LOSSES),
    ]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("cast", [None, *HALVES], ids=str)
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_halves_have_the_values_and_gradients_of_single_precision(
    half: torch.dtype, cast: torch.dtype | None, reduction: Reduction
) -> None:
    pred, target = 4 * draw(6, 3, seed=3).to(half), torch.tensor([0, 1, 2, 9, 0, 1])
    weight = [0.5, 2.0, 1.0]
    for loss in every_loss(weight=weight, ignore_index=9, reduction=reduction):
        leaf, single = pred.clone().requires_grad_(), pred.float().requires_grad_()
        with autocast(cast):
            value = loss(leaf, target)
        exact = loss(single, target)
        assert value.dtype == (half if cast is None else torch.float32)
        assert torch.equal(value, exact.to(value.dtype))
        value.sum().backward()
        exact.sum().backward()
        assert leaf.grad is not None
        assert single.grad is not None
        assert torch.equal(leaf.grad, single.grad.to(half))


@pytest.mark.parametrize("activation", ["identity", "softplus"])
@pytest.mark.parametrize("link", ["softmax", "sigmoid", "identity"])
def test_extra_inputs_are_not_rounded_to_halves(link: Link, activation: Activation) -> None:
    loss = SymbolicLoss(
        "mul(w, square(sub(y, f)))", link=link, activation=activation, inputs=("w", "t")
    )
    pred = draw(4, 3).half()
    target = torch.tensor([0, 2, 1, 1]) if link == "softmax" else draw(4, 3, seed=2).half()
    w = torch.tensor([1e5, 0.1, 1 / 3, 2.0])
    value = loss(pred, target, w=w, t=0.1)
    single = target if link == "softmax" else target.float()
    assert torch.equal(value, loss(pred.float(), single, w=w, t=0.1).half())


# The examples that led to these rules


def test_a_squared_error_that_float16_cannot_hold() -> None:
    pred, target = torch.tensor([300.0]).half().requires_grad_(), torch.zeros(1).half()
    loss = SymbolicLoss(SQUARED_ERROR)
    with torch.autocast("cpu", torch.float16):
        value = loss(pred, target)
        assert torch.equal(value, functional.mse_loss(pred, target))
    assert value == 90_000
    value.backward()
    assert pred.grad is not None
    assert pred.grad.tolist() == [600.0]
    # without autocast the result is float16, which ends at 65 504
    assert loss(pred, target).isinf()
    assert functional.mse_loss(pred, target).isinf()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sums_of_halves_do_not_overflow_on_the_way(reduction: Reduction) -> None:
    value = SymbolicLoss("add(f, mul(y, 1))", reduction=reduction)(
        torch.full((1024,), 100.0).half(), torch.zeros(1024).half()
    )
    assert value.dtype == torch.float16
    assert value.item() == (100 if reduction == "mean" else math.inf)  # 102 400


def test_a_gradient_that_was_not_a_number() -> None:
    pred, target = torch.tensor([[20.0, 0, 0]]), torch.tensor([1])
    loss = SymbolicLoss("mul(y, abs(log(f)))", link="softmax")
    gradients = []
    for dtype in (torch.float16, torch.float32):
        leaf = pred.to(dtype).requires_grad_()
        gradients.append(torch.autograd.grad(loss(leaf, target), leaf)[0])
    assert torch.equal(gradients[0], gradients[1].half())
    # f/(f + ε) of torch's, with f = e⁻²⁰ and the ε = 1e-7 of the protected logarithm
    share = math.exp(-20) / (math.exp(-20) + 1e-7)
    expected = torch.tensor([[share, -share, 0]])
    torch.testing.assert_close(gradients[1], expected, rtol=1e-4, atol=1e-8)
    leaf = pred.half().requires_grad_()
    for exact in (AbsoluteCrossEntropyLoss(), nn.CrossEntropyLoss()):
        (gradient,) = torch.autograd.grad(exact(leaf, target), leaf)
        assert gradient.tolist() == [[1, -1, 0]]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_weights_keep_their_type_and_are_not_rounded_on_the_way(dtype: torch.dtype) -> None:
    phi = torch.tensor([1.5, 0.75, 2.25], dtype=dtype)
    loss = SymbolicLoss(SQUARED_ERROR, phi)
    pred, target = draw(5, dtype=torch.float32), draw(5, seed=1, dtype=torch.float32)
    expected = (1.5 * (0.75 * target - 2.25 * pred)).square().mean()
    leaf = phi.clone().requires_grad_()
    for value in (loss(pred, target), loss.evaluate(pred, target, leaf)):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected)
    (slope,) = torch.autograd.grad(value, leaf)
    assert slope.dtype == loss.phi.dtype == dtype


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_single_number_or_sample_has_torchs_types_too(reduction: Reduction) -> None:
    phi = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
    number = torch.tensor(3.0)
    loss = SymbolicLoss(SQUARED_ERROR, [1.5, 1, 1], reduction=reduction)
    assert loss.evaluate(number, number, phi).dtype == torch.float32
    assert loss.evaluate(number, number, phi).shape == ()
    assert results(loss, number, number, None)[1] == (torch.float32,) * 3
    logs = SymbolicLoss("log(add(f, y))", reduction=reduction)
    assert results(logs, number, number, None)[1] == (torch.float32,) * 3
    for of_classes in every_loss(reduction=reduction):
        types = results(of_classes, draw(3, dtype=torch.float32), torch.tensor(1), None)[1]
        assert types == (torch.float32,) * 3


def test_class_weights_of_a_half_loss_are_summed_in_single_precision() -> None:
    pred, target = draw(3000, 2).half(), torch.zeros(3000, dtype=torch.long)
    for loss in (*every_loss(weight=[30.0, 1.0]), FocalLoss(0.0, weight=[30.0, 1.0])):
        value = loss.half()(pred, target)  # 90 000 is too much for float16
        exact = loss.double()(pred.double(), target)
        torch.testing.assert_close(value.double(), exact, rtol=2e-3, atol=1e-4)


# Nothing to average


EMPTY = [((0, 3), (0,)), ((0, 0), (0,)), ((2, 3, 0), (2, 0)), ((0, 3, 2), (0, 2))]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("shape", "count"), EMPTY, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_no_samples_give_what_torch_gives(
    dtype: torch.dtype, shape: tuple[int, ...], count: tuple[int, ...], reduction: Reduction
) -> None:
    target = torch.zeros(count, dtype=torch.long)
    for weight in (None, [1.0] * shape[1]):
        own: list[Loss] = [make(reduction=reduction, weight=weight) for make in CROSS_ENTROPIES]
        for loss in [*every_loss(reduction=reduction, weight=weight), *own]:
            torchs: Callable[..., Tensor] = functional.cross_entropy
            if isinstance(loss, LabelSmoothingLoss):
                torchs = partial(torchs, label_smoothing=loss.smoothing)
            check_empty(loss, torchs, shape, target, dtype)
            if isinstance(loss, SymbolicLoss):
                check_empty(loss, torchs, shape, torch.zeros(shape, dtype=dtype), dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(0,), (0, 1), (3, 0)], ids=str)
@pytest.mark.parametrize("link", ["sigmoid", "identity"])
def test_no_elements_give_what_torch_gives(
    link: Link, shape: tuple[int, ...], reduction: Reduction
) -> None:
    for activation in ("identity", "softplus"):
        for text in (SQUARED_ERROR, "mul(y, 1)", "mul(w, f)"):
            loss = SymbolicLoss(text, None, link, activation, reduction, inputs=("w",))
            target = torch.zeros(shape)
            check_empty(loss, functional.mse_loss, shape, target, torch.float32, w=0.5)


def check_empty(
    loss: Loss,
    torchs: Callable[..., Tensor],
    shape: tuple[int, ...],
    target: Tensor,
    dtype: torch.dtype,
    **inputs: float,
) -> None:
    pred = torch.zeros(shape, dtype=dtype, requires_grad=True)
    value = loss(pred, target, **inputs)
    expected = torchs(pred, target, reduction=loss.reduction)
    assert torch.equal(value.isnan(), expected.isnan())
    torch.testing.assert_close(value, expected, equal_nan=True)
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(value.sum(), pred)
        assert torch.equal(gradient, torch.zeros_like(pred))


def test_all_samples_ignored_give_what_torch_gives() -> None:
    pred, target = draw(4, 3), torch.full((4,), -100)
    for reduction in REDUCTIONS:
        for loss in every_loss(reduction=reduction):
            value = loss(pred, target)
            expected = functional.cross_entropy(pred, target, reduction=reduction)
            torch.testing.assert_close(value, expected, equal_nan=True)


# Layouts


@pytest.mark.parametrize("make", [*CROSS_ENTROPIES, SparseLabelSmoothingLoss], ids=name)
def test_layouts_are_without_meaning(make: Make) -> None:
    logits = draw(2, 3, 4, 5)
    target = classes(2, 4, 5, count=3)
    channels_last = logits.contiguous(memory_format=torch.channels_last)
    check_layouts(make(), logits, channels_last, target)
    rows = draw(3, 5).t()
    check_layouts(make(), rows.contiguous(), rows, classes(5, count=3))
    one = draw(1, 3).expand(5, 3)
    check_layouts(make(), one.contiguous(), one, classes(5, count=3))


@pytest.mark.parametrize("link", ["softmax", "sigmoid", "identity"])
def test_layouts_are_without_meaning_to_symbolic_losses(link: Link) -> None:
    loss = SymbolicLoss(SQUARED_ERROR, link=link)
    for pred in (draw(3, 5).t(), draw(1, 3).expand(5, 3), draw(10, 6)[::2, ::2]):
        labels = classes(5, count=3)
        target = labels if link == "softmax" else draw(5, 3, seed=4)
        check_layouts(loss, pred.contiguous(), pred, target)
        if link != "softmax":
            check_layouts(loss, pred.contiguous(), pred, draw(3, 5).t())


def check_layouts(loss: Loss, contiguous: Tensor, other: Tensor, target: Tensor) -> None:
    found = []
    for pred in (contiguous, other):
        leaf = pred.detach().requires_grad_()
        value = loss(leaf, target)
        found.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_can_have_a_gradient_as_torchs(kind: str) -> None:
    theirs, text, link = KINDS[kind]
    gradients = []
    for loss in (theirs, SymbolicLoss(text, link=link)):
        pred = draw(4, 3).requires_grad_()
        target = draw(4, 3, seed=1).softmax(1).requires_grad_()
        gradients.append(torch.autograd.grad(loss(pred, target), [pred, target]))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
