"""Handcrafted losses: their equations, torch's conventions, extremes, and where a loss can go."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import evomal
from evomal import (
    AbsoluteCrossEntropyLoss,
    FocalLoss,
    FocalSparseLabelSmoothingLoss,
    LabelSmoothingLoss,
    SparseLabelSmoothingLoss,
    SparselySmoothedLoss,
)
from evomal.cli import main
from evomal.errors import InputError
from evomal.expressions.primitives import EPSILON
from evomal.losses.base import Reduction
from evomal.losses.files import loss_from_dict, loss_to_dict
from evomal.losses.form import Form
from evomal.losses.handcrafted import HandcraftedLoss
from evomal.losses.known import HANDCRAFTED_LOSSES, KNOWN_LOSSES
from evomal.losses.target import TargetLoss
from evomal.runs.run import expression_of, resolve_loss
from tasks_for_tests import classification_task, regression_task

REDUCTIONS: list[Reduction] = ["mean", "sum", "none"]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [((4,), ()), ((7, 4), (7,)), ((3, 4, 5), (3, 5)), ((2, 4, 3, 5), (2, 3, 5))]

Make = Callable[..., HandcraftedLoss]


def name(value: object) -> str:
    return str(getattr(value, "__name__", value))


def made(cls: type[HandcraftedLoss], *own: Any) -> Make:
    """The loss with its own parameters set, which takes the common ones by name."""

    def make(**common: Any) -> HandcraftedLoss:
        return cls(*own, **common)

    make.__name__ = f"{cls.__name__}-{'-'.join(map(name, own))}"
    return make


def generalised(log_p: Tensor) -> Tensor:
    """(1 - p^q)/q with q = 0.7: a loss of the target that the library does not know."""
    return -torch.expm1(0.7 * log_p) / 0.7


CROSS_ENTROPIES = [
    made(AbsoluteCrossEntropyLoss, 1.0, 1.0),
    made(FocalLoss, 0),
    made(SparseLabelSmoothingLoss, 0.0),
    made(SparseLabelSmoothingLoss, 0.0, True),
    made(FocalSparseLabelSmoothingLoss, 0.0, 0.0),
    made(SparselySmoothedLoss, torch.neg, 0.0),
    made(LabelSmoothingLoss, 0.0),
]
"""Each at the parameters that make it cross-entropy."""

LOSSES = [
    made(AbsoluteCrossEntropyLoss, 1.5, 0.7),
    made(AbsoluteCrossEntropyLoss, 1.0, 1.3),
    made(FocalLoss, 2.0),
    made(FocalLoss, 0.3),
    made(LabelSmoothingLoss, 0.2),
    made(SparseLabelSmoothingLoss, 0.2),
    made(SparseLabelSmoothingLoss, 0.2, True),
    made(FocalSparseLabelSmoothingLoss, 2.0, 0.2),
    made(FocalSparseLabelSmoothingLoss, 0.5, 0.1),
    made(SparselySmoothedLoss, generalised, 0.2),
    made(SparselySmoothedLoss, generalised, 0.2, True),
]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def classes(*shape: int, count: int, seed: int = 1) -> Tensor:
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


def with_gradient(loss: Callable[..., Tensor], pred: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    leaf = pred.detach().clone().requires_grad_()
    value = loss(leaf, *rest)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


# The equations, written out as they stand


def one_hot_and_f(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return functional.one_hot(target, pred.shape[1]).to(pred.dtype), torch.softmax(pred, 1)


def equation_19(y: Tensor, f: Tensor, phi0: float, phi1: float) -> Tensor:
    return (phi0 * y * (phi1 * f).log().abs()).sum(1)


def equation_40(y: Tensor, f: Tensor, xi: float) -> Tensor:
    return -((y * (1 - xi) + xi / f.shape[1]) * f.log()).sum(1)


def equation_49(y: Tensor, f: Tensor, xi: float) -> Tensor:
    C = f.shape[1]
    rest = ((1 - f + EPSILON) / (C - 1)).log()
    return -(y * ((1 - xi + xi / C) * f.log() + xi * (C - 1) / C * rest)).sum(1)


def footnote_3(y: Tensor, f: Tensor, xi: float) -> Tensor:
    return -(y * (f.log() + xi * (1 - f + EPSILON).log())).sum(1)


def equation_50(y: Tensor, f: Tensor, gamma: float) -> Tensor:
    return -(y * (1 - f) ** gamma * f.log()).sum(1)


def equation_51(y: Tensor, f: Tensor, gamma: float, xi: float) -> Tensor:
    C = f.shape[1]
    rest = ((1 - f + EPSILON) / (C - 1)).log()
    target = (1 - f) ** gamma * (1 - xi + xi / C) * f.log()
    return -(y * (target + f**gamma * xi * (C - 1) / C * rest)).sum(1)


EQUATIONS = [
    (made(AbsoluteCrossEntropyLoss, 1.5, 0.7), equation_19, (1.5, 0.7)),
    (made(AbsoluteCrossEntropyLoss, 0.5, 1.3), equation_19, (0.5, 1.3)),
    (made(LabelSmoothingLoss, 0.2), equation_40, (0.2,)),
    (made(SparseLabelSmoothingLoss, 0.2), equation_49, (0.2,)),
    (made(SparseLabelSmoothingLoss, 0.2, True), footnote_3, (0.2,)),
    (made(FocalLoss, 2), equation_50, (2,)),
    (made(FocalLoss, 0.5), equation_50, (0.5,)),
    (made(FocalSparseLabelSmoothingLoss, 2.0, 0.2), equation_51, (2.0, 0.2)),
    (made(FocalSparseLabelSmoothingLoss, 0.5, 0.1), equation_51, (0.5, 0.1)),
    (made(SparselySmoothedLoss, torch.neg, 0.2), equation_49, (0.2,)),
    (made(SparselySmoothedLoss, torch.neg, 0.2, True), footnote_3, (0.2,)),
]


@pytest.mark.parametrize("count", [2, 3, 10, 1000])
@pytest.mark.parametrize(("make", "equation", "arguments"), EQUATIONS, ids=name)
def test_values_and_gradients_are_those_of_the_equation(
    make: Make, equation: Callable[..., Tensor], arguments: tuple[float, ...], count: int
) -> None:
    pred, target = 3 * draw(50, count), classes(50, count=count)

    def by_hand(pred: Tensor) -> Tensor:
        return equation(*one_hot_and_f(pred, target), *arguments)

    ours = with_gradient(make(reduction="none"), pred, target)
    torch.testing.assert_close(ours, with_gradient(by_hand, pred), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("make", LOSSES, ids=name)
@pytest.mark.parametrize("count", [2, 5])
def test_elementwise_sums_to_the_loss(make: Make, count: int) -> None:
    pred, target = draw(20, count), classes(20, count=count)
    loss = make(reduction="none")
    y, f = one_hot_and_f(pred, target)
    elements = loss.elementwise(y, f, loss.weights)
    assert elements.shape == f.shape
    torch.testing.assert_close(elements.sum(1), loss(pred, target))
    if isinstance(loss, TargetLoss):
        assert (elements[y == 0] == 0).all()


def test_the_general_trick_is_equation_51_for_two_classes() -> None:
    """For C = 2 the other output has all of 1 − p: the focal loss of it is focused by p."""
    pred, target = draw(30, 2), classes(30, count=2)

    def focal(log_p: Tensor) -> Tensor:
        return -((1 - log_p.exp()) ** 2) * log_p

    ours = with_gradient(SparselySmoothedLoss(focal, 0.2), pred, target)
    theirs = with_gradient(FocalSparseLabelSmoothingLoss(2.0, 0.2), pred, target)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # ε enters focal's 1 − r


# Torch's conventions


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("ignore_index", [-100, 255, 1])
@pytest.mark.parametrize(("pred", "target"), SHAPES, ids=str)
@pytest.mark.parametrize("make", CROSS_ENTROPIES, ids=name)
def test_cross_entropy_is_torchs(
    make: Make,
    pred: tuple[int, ...],
    target: tuple[int, ...],
    ignore_index: int,
    weighted: bool,
    reduction: Reduction,
) -> None:
    weight = torch.tensor([0.5, 2.0, 0.0, 1.25], dtype=torch.float64) if weighted else None
    logits, labels = draw(*pred), classes(*target, count=2)
    labels = torch.where(classes(*target, count=4, seed=2) == 0, ignore_index, labels)
    common: dict[str, Any] = {
        "weight": weight,
        "ignore_index": ignore_index,
        "reduction": reduction,
    }
    ours = with_gradient(make(**common), logits, labels)
    theirs = with_gradient(nn.CrossEntropyLoss(**common), logits, labels)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("ignore_index", [-100, 1])
@pytest.mark.parametrize(("pred", "target"), SHAPES, ids=str)
@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_label_smoothing_is_torchs(
    smoothing: float,
    pred: tuple[int, ...],
    target: tuple[int, ...],
    ignore_index: int,
    weighted: bool,
    reduction: Reduction,
) -> None:
    weight = torch.tensor([0.5, 2.0, 0.0, 1.25], dtype=torch.float64) if weighted else None
    logits, labels = draw(*pred), classes(*target, count=4)
    common: dict[str, Any] = {
        "weight": weight,
        "ignore_index": ignore_index,
        "reduction": reduction,
    }
    ours = with_gradient(LabelSmoothingLoss(smoothing, **common), logits, labels)
    theirs = with_gradient(nn.CrossEntropyLoss(label_smoothing=smoothing, **common), logits, labels)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("make", LOSSES, ids=name)
def test_reductions_weights_and_ignored_samples_by_hand(make: Make) -> None:
    logits, labels = draw(4, 3, 5), classes(4, 5, count=3)
    labels[0, 1] = labels[3, 4] = 9
    weight = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    kept = labels != 9
    by_sample = torch.where(kept, weight[labels.where(kept, torch.tensor(0))], 0.0)
    plain = make(reduction="none", ignore_index=9)(logits, labels)
    assert (plain[~kept] == 0).all()
    assert (plain[kept] != 0).all()
    common: dict[str, Any] = {"weight": weight, "ignore_index": 9}
    weighted = make(reduction="none", **common)(logits, labels)
    if isinstance(make(), TargetLoss):
        torch.testing.assert_close(weighted, plain * by_sample)
    total = make(reduction="sum", **common)(logits, labels)
    torch.testing.assert_close(total, weighted.sum())
    mean = make(**common)(logits, labels)
    torch.testing.assert_close(mean, weighted.sum() / by_sample.sum())
    mean = make(ignore_index=9)(logits, labels)
    torch.testing.assert_close(mean, plain.sum() / kept.sum())
    assert make(ignore_index=9)(logits, torch.full_like(labels, 9)).isnan()
    gradient = with_gradient(make(ignore_index=9), logits, labels)[1]
    assert torch.equal(gradient.abs().sum(1) == 0, labels == 9)


@pytest.mark.parametrize("make", LOSSES, ids=name)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_class_indices_of_any_integer_type(make: Make, dtype: torch.dtype) -> None:
    logits, target = draw(4, 200), torch.tensor([0, 1, 100, 1])
    assert torch.equal(make()(logits, target.to(dtype)), make()(logits, target))


@pytest.mark.parametrize("make", LOSSES, ids=name)
def test_no_samples_have_no_mean(make: Make) -> None:
    logits, target = draw(0, 3), classes(0, count=3)
    assert make()(logits, target).isnan()
    assert make(reduction="sum")(logits, target) == 0


@pytest.mark.parametrize("make", LOSSES, ids=name)
@pytest.mark.parametrize(
    ("pred", "target"),
    [((4, 3), (4, 1)), ((4, 3), (3,)), ((4, 3, 2), (4,)), ((), ()), ((3,), (3,))],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused(
    make: Make, pred: tuple[int, ...], target: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="class indices"):
        make()(torch.zeros(pred), torch.zeros(target, dtype=torch.long))


@pytest.mark.parametrize("make", LOSSES, ids=name)
def test_targets_and_inputs_that_are_not_taken(make: Make) -> None:
    with pytest.raises(InputError, match="class indices"):
        make()(draw(4, 3), draw(4, 3).softmax(1))
    with pytest.raises(InputError, match="no further input 'w'"):
        make()(draw(4, 3), classes(4, count=3), w=1.0)
    with pytest.raises(InputError, match="2 class weights, but pred has 3"):
        make(weight=[1.0, 2.0])(draw(4, 3), classes(4, count=3))
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        make()(draw(2, 3), torch.tensor([0, 3]))


# Precision and extremes


@pytest.mark.parametrize("make", [*CROSS_ENTROPIES, *LOSSES], ids=name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [2, 10, 100_000])
def test_extreme_logits_have_finite_losses_and_gradients(
    make: Make, dtype: torch.dtype, count: int
) -> None:
    rows = torch.zeros(7, count, dtype=dtype)
    rows[0, 0] = rows[1, 1] = rows[2, -1] = 1e4
    rows[3, 0] = rows[4, 1] = -1e4
    rows[5] = 1e4
    rows[5, 0] = -1e4
    rows[6, 0] = 17.0  # p rounds to 1 in single precision, or nearly
    value, gradient = with_gradient(make(reduction="none"), rows, torch.zeros(7).long())
    assert value.dtype == gradient.dtype == dtype
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    total = with_gradient(make(), rows, torch.zeros(7).long())
    assert all(result.isfinite().all() for result in total)


@pytest.mark.parametrize("make", LOSSES, ids=name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [2, 3, 1000])
def test_every_type_is_as_near_as_it_can_be(make: Make, dtype: torch.dtype, count: int) -> None:
    pred, target = draw(40, count), classes(40, count=count)
    pred = pred.to(dtype)
    exact = with_gradient(make(), pred.double(), target)
    found = with_gradient(make(), pred, target)
    rest = 1 - pred.double().softmax(1).gather(1, target[:, None])
    error = torch.finfo(dtype).eps * (8 + 1 / float(rest.min()))  # of log p, carried on to 1 − p
    for ours, reference in zip(found, exact, strict=True):
        scale = float(reference.abs().max())
        torch.testing.assert_close(ours.double(), reference, rtol=error, atol=error * scale)


@pytest.mark.parametrize("margin", [0.0, 5.0, 10.0, 14.0, 17.0, 20.0, 40.0])
def test_single_precision_near_certainty_is_that_of_the_log_probability(margin: float) -> None:
    """log p has an error of 2^-24 for p near 1, and so has 1 − p, but no more."""
    pred = torch.tensor([[margin, 0.0, 0.0]])
    target = torch.tensor([0])
    gap = -torch.expm1(-functional.cross_entropy(pred.double(), target)).item() + EPSILON
    bound = 0.2 * 2 / 3 * 1.5 * 2**-24 / (gap - 2**-24) + 1e-6
    assert bound < 0.3  # of about 2
    for loss in (SparseLabelSmoothingLoss(0.2), FocalSparseLabelSmoothingLoss(2.0, 0.2)):
        exact = loss(pred.double(), target)
        assert loss(pred, target).item() == pytest.approx(exact.item(), abs=bound)


@pytest.mark.parametrize("make", LOSSES, ids=name)
@pytest.mark.parametrize("shape", [(3, 2), (2, 4), (2, 3, 2)], ids=str)
def test_gradients_of_gradients_are_right(make: Make, shape: tuple[int, ...]) -> None:
    pred = draw(*shape).requires_grad_()
    target = classes(shape[0], *shape[2:], count=shape[1])
    assert torch.autograd.gradcheck(make(), (pred, target))
    assert torch.autograd.gradgradcheck(make(), (pred, target))


def test_under_autocast_the_loss_is_single_precision_as_torchs_is() -> None:
    pred, target = draw(4, 3).bfloat16(), classes(4, count=3)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = FocalLoss(0.0)(pred, target), functional.cross_entropy(pred, target)
    assert found.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(found, expected)


# Appendix A: the learning rule δ = −∂L/∂f


def delta(loss: HandcraftedLoss, y: Tensor, f: Tensor) -> Tensor:
    leaf = f.clone().requires_grad_()
    return -torch.autograd.grad(loss.elementwise(y, leaf, loss.weights).sum(), leaf)[0]


@pytest.fixture
def target_and_f() -> tuple[Tensor, Tensor]:
    return functional.one_hot(classes(20, count=5), 5).double(), torch.softmax(draw(20, 5), 1)


@pytest.mark.parametrize("make", CROSS_ENTROPIES, ids=name)
def test_delta_of_cross_entropy(make: Make, target_and_f: tuple[Tensor, Tensor]) -> None:
    y, f = target_and_f
    torch.testing.assert_close(delta(make(), y, f), y / f)  # (27)


def test_delta_of_label_smoothing(target_and_f: tuple[Tensor, Tensor]) -> None:
    y, f = target_and_f
    expected = (y * (1 - 0.2) + 0.2 / 5) / f  # (33)
    torch.testing.assert_close(delta(LabelSmoothingLoss(0.2), y, f), expected)


@pytest.mark.parametrize("phi1", [0.5, 1.0, 1.2, 1.9])
def test_delta_of_absolute_cross_entropy(phi1: float, target_and_f: tuple[Tensor, Tensor]) -> None:
    y, f = target_and_f
    log = (phi1 * f).log()
    expected = -1.5 * y * log / (f * log.abs())  # (23), with the φ₀ that it leaves out
    torch.testing.assert_close(delta(AbsoluteCrossEntropyLoss(1.5, phi1), y, f), expected)


def at_null_epoch(count: int) -> tuple[Tensor, Tensor]:
    """A target class and another, both with f = 1/count (24)."""
    y = torch.zeros(1, count, dtype=torch.float64)
    y[0, 0] = 1
    return y, torch.full((1, count), 1 / count, dtype=torch.float64)


def near_zero_error(count: int, eps: float) -> tuple[Tensor, Tensor]:
    """(25)."""
    y = at_null_epoch(count)[0]
    return y, torch.where(y == 1, 1 - eps * (count - 1), eps)


@pytest.mark.parametrize("count", [3, 10, 1000])
def test_learning_rules_at_the_null_epoch(count: int) -> None:
    y, f = at_null_epoch(count)

    def rule(loss: HandcraftedLoss) -> list[float]:
        """Of the target and of another output."""
        return delta(loss, y, f)[0, :2].tolist()

    assert rule(FocalLoss(0.0)) == pytest.approx([count, 0])  # (28)
    assert rule(AbsoluteCrossEntropyLoss()) == pytest.approx([count, 0])  # (29)
    assert rule(AbsoluteCrossEntropyLoss(1.0, 1.5)) == pytest.approx([count, 0])  # (36), φ₁ < count
    xi = 0.2
    assert rule(LabelSmoothingLoss(xi)) == pytest.approx([count - count * xi + xi, xi])  # (34)
    # Sparse: the target takes over what the others had, (34)'s difference of the two.
    assert rule(SparseLabelSmoothingLoss(xi)) == pytest.approx([count - count * xi, 0], rel=1e-6)


@pytest.mark.parametrize("count", [3, 10, 1000])
def test_learning_rules_towards_zero_training_error(count: int) -> None:
    y, f = near_zero_error(count, 1e-12)

    def rule(loss: HandcraftedLoss) -> list[float]:
        return delta(loss, y, f)[0, :2].tolist()

    assert rule(FocalLoss(0.0)) == pytest.approx([1, 0])  # (30)
    assert rule(AbsoluteCrossEntropyLoss()) == pytest.approx([1, 0])  # (31)
    assert rule(AbsoluteCrossEntropyLoss(1.0, 1.5)) == pytest.approx([-1, 0])  # (39)
    xi = 0.2
    target, other = rule(LabelSmoothingLoss(xi))
    assert target == pytest.approx(1 - xi + xi / count)  # (37)
    assert other == pytest.approx(xi / count / 1e-12)  # → ∞
    # Sparse: the target is pushed down instead of the others up, with the same growth in 1/ε.
    y, f = near_zero_error(count, 1e-4 / count)
    target, other = delta(SparseLabelSmoothingLoss(xi), y, f)[0, :2].tolist()
    expected = (1 - xi + xi / count) / f[0, 0] - xi * (count - 1) / count / (1 - f[0, 0])
    assert (target, other) == (pytest.approx(float(expected), rel=2e-3), 0)
    assert target < 0


@pytest.mark.parametrize("count", [2, 3, 10, 1000])
@pytest.mark.parametrize("f_target", [None, 0.5, 0.9, 0.999])
def test_sparse_is_dense_smoothing_where_the_others_are_alike(
    count: int, f_target: float | None
) -> None:
    """At the null epoch, and along (25) to zero training error: values and logit gradients."""
    p = 1 / count if f_target is None else f_target
    pred = torch.full((1, count), math.log((1 - p) / (count - 1)), dtype=torch.float64)
    pred[0, 0] = math.log(p)
    target = torch.tensor([0])
    sparse = with_gradient(SparseLabelSmoothingLoss(0.2), pred, target)
    dense = with_gradient(LabelSmoothingLoss(0.2), pred, target)
    torch.testing.assert_close(sparse, dense, rtol=2e-4, atol=1e-6)
    if f_target is None:
        torch.testing.assert_close(dense[1][0, 0].item(), -(1 - 0.2) * (count - 1) / count)


@pytest.mark.parametrize("count", [3, 10, 1000])
def test_sparse_is_never_above_dense_smoothing(count: int) -> None:
    """Jensen's inequality in (43)."""
    pred, target = 3 * draw(50, count), classes(50, count=count)
    gap = LabelSmoothingLoss(0.2, reduction="none")(pred, target)
    gap -= SparseLabelSmoothingLoss(0.2, reduction="none")(pred, target)
    assert (gap > 0).all()


def test_sparse_and_dense_smoothing_have_the_same_optimum() -> None:
    """Both are least at p = 1 − ξ + ξ/C, and absolute cross-entropy at 1/φ₁."""
    losses = LabelSmoothingLoss(0.2), SparseLabelSmoothingLoss(0.2)
    best = []
    for loss in (*losses, AbsoluteCrossEntropyLoss(1.0, 1.25)):
        pred = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
        sgd = torch.optim.SGD([pred], lr=0.05)
        for _ in range(2000):
            sgd.zero_grad()
            loss(pred, torch.tensor([0])).backward()
            sgd.step()
        best.append(float(pred.detach().softmax(1)[0, 0]))
    expected = [1 - 0.2 + 0.2 / 4] * 2
    assert best[:2] == pytest.approx(expected, abs=1e-4)
    assert best[2] == pytest.approx(1 / 1.25, abs=0.02)  # it jumps about its kink


def test_the_kink_of_absolute_cross_entropy() -> None:
    loss = AbsoluteCrossEntropyLoss(1.0, 2.0)
    pred = torch.zeros(1, 2, dtype=torch.float64)  # p is ½, φ₁ p is 1
    value, gradient = with_gradient(loss, pred, torch.tensor([0]))
    assert value == pytest.approx(0, abs=1e-15)
    assert gradient.abs().max() <= 0.5
    slopes = [
        with_gradient(loss, torch.tensor([[x, 0.0]]), torch.tensor([0]))[1][0, 0].item()
        for x in (-1e-3, 1e-3)
    ]
    assert slopes == pytest.approx([-0.5, 0.5], abs=1e-3)


# torch.compile and torch.func


@pytest.mark.parametrize("common", [{}, {"weight": [0.5, 1.0, 2.0], "ignore_index": 1}], ids=str)
@pytest.mark.parametrize("make", LOSSES, ids=name)
def test_a_loss_compiles_to_one_graph_and_only_once(make: Make, common: dict[str, Any]) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    loss = make(**common)
    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    for seed in range(3):
        pred = draw(8, 3, seed=seed, dtype=torch.float32).requires_grad_()
        target = (torch.arange(8) + seed) % 3
        ours, plain = compiled(pred, target), loss(pred, target)
        torch.testing.assert_close(ours, plain)
        slopes = [torch.autograd.grad(value, pred)[0] for value in (ours, plain)]
        torch.testing.assert_close(*slopes)
    assert len(graphs) == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("common", [{}, {"weight": [0.5, 1, 2, 3], "ignore_index": 1}], ids=str)
@pytest.mark.parametrize(("shape", "count"), [SHAPES[0], SHAPES[2]], ids=str)
@pytest.mark.parametrize("make", LOSSES, ids=name)
def test_what_a_compiler_gets_is_the_same_loss(
    make: Make, shape: tuple[int, ...], count: tuple[int, ...], common: dict[str, Any]
) -> None:
    """It is another formula of log p: here on ordinary logits, and up to ±1e4."""
    torch._dynamo.reset()
    for reduction in ("mean", "none"):
        loss = make(reduction=reduction, **common)
        compiled = torch.compile(loss, backend="eager", fullgraph=True)
        for scale in (1.0, 1e4):
            pred, target = scale * draw(*shape), classes(*count, count=4)
            ours = with_gradient(compiled, pred, target)
            torch.testing.assert_close(ours, with_gradient(loss, pred, target), equal_nan=True)
    torch._dynamo.reset()


@pytest.mark.parametrize("make", LOSSES, ids=name)
def test_a_loss_exports_for_any_batch(make: Make) -> None:
    size = torch.export.Dim("batch", min=2)
    arguments = draw(8, 4), classes(8, count=4)
    exported = torch.export.export(
        make(), arguments, dynamic_shapes=({0: size}, {0: size}), strict=False
    )
    pred, target = draw(5, 4, seed=1), classes(5, count=4, seed=1)
    torch.testing.assert_close(exported.module()(pred, target), make()(pred, target))


@pytest.mark.parametrize("make", LOSSES, ids=name)
def test_gradients_of_single_samples(make: Make) -> None:
    pred, target = draw(5, 3), classes(5, count=3)
    loss = make()
    each = torch.func.vmap(torch.func.grad(loss))(pred, target)
    torch.testing.assert_close(each, with_gradient(make(reduction="sum"), pred, target)[1])


# Arguments


@pytest.mark.parametrize(
    ("cls", "arguments", "fragment"),
    [
        (LabelSmoothingLoss, {"smoothing": -0.1}, "smoothing"),
        (LabelSmoothingLoss, {"smoothing": 1.0}, "smoothing"),
        (LabelSmoothingLoss, {"smoothing": "0.1"}, "smoothing"),
        (SparseLabelSmoothingLoss, {"smoothing": math.nan}, "smoothing"),
        (SparseLabelSmoothingLoss, {"smoothing": 2}, "smoothing"),
        (SparseLabelSmoothingLoss, {"relaxed": "yes"}, "relaxed"),
        (FocalLoss, {"gamma": -1.0}, "gamma"),
        (FocalLoss, {"gamma": math.inf}, "gamma"),
        (FocalLoss, {"gamma": None}, "gamma"),
        (FocalSparseLabelSmoothingLoss, {"gamma": -1}, "gamma"),
        (FocalSparseLabelSmoothingLoss, {"smoothing": 1}, "smoothing"),
        (AbsoluteCrossEntropyLoss, {"phi0": 0.0}, "phi0"),
        (AbsoluteCrossEntropyLoss, {"phi1": -1.0}, "phi1"),
        (SparselySmoothedLoss, {"loss": 3, "smoothing": 0.1}, "must be a function"),
        (SparselySmoothedLoss, {"loss": torch.neg, "smoothing": 1.5}, "smoothing"),
    ],
)
def test_parameters_that_make_no_sense(
    cls: type[HandcraftedLoss], arguments: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(InputError, match=fragment) as caught:
        cls(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", LOSSES, ids=name)
@pytest.mark.parametrize(
    ("common", "fragment"),
    [
        ({"reduction": "average"}, "Unknown reduction"),
        ({"weight": [1.0, -1.0]}, "at least 0"),
        ({"ignore_index": 0.5}, "ignore_index"),
    ],
)
def test_common_arguments_that_make_no_sense(
    make: Make, common: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(InputError, match=fragment):
        make(**common)


# The module as a value, its file, its name


@pytest.mark.parametrize("make", LOSSES, ids=name)
def test_a_module_as_torch_has_them(make: Make) -> None:
    loss = make()
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    assert make(weight=[1.0, 2.0]).state_dict().keys() == {"weight"}
    assert (loss.link, loss.inputs, loss.required_inputs) == ("softmax", (), ())
    arguments = draw(4, 3), classes(4, count=3)
    assert torch.equal(copy.deepcopy(loss)(*arguments), loss(*arguments))
    assert torch.equal(pickle.loads(pickle.dumps(loss))(*arguments), loss(*arguments))  # noqa: S301
    assert torch.equal(loss.with_weights([])(*arguments), loss(*arguments))
    assert loss.half().double()(*arguments) == loss(*arguments)
    assert all(setting in repr(loss) for setting in loss.setting_names)


def test_keys_tell_losses_apart() -> None:
    keys = [make().key for make in LOSSES]
    assert len(set(keys)) == len(LOSSES)
    assert keys == [make().key for make in LOSSES]


@pytest.mark.parametrize("weight", [None, [0.1, 2.0, 1.0], torch.tensor([0.1, 2, 1]).double()])
@pytest.mark.parametrize(
    "make", [make for make in LOSSES if not isinstance(make(), SparselySmoothedLoss)], ids=name
)
def test_a_saved_loss_comes_back(make: Make, weight: Any, tmp_path: Path) -> None:
    loss = make(weight=weight, ignore_index=7, reduction="sum")
    evomal.save_loss(loss, tmp_path / "loss.json")
    twin = evomal.load_loss(tmp_path / "loss.json")
    assert type(twin) is type(loss)
    assert twin.to_dict() == loss.to_dict()
    assert json.loads(json.dumps(loss_to_dict(loss))) == loss_to_dict(twin)
    arguments = draw(3, 3), torch.tensor([0, 1, 7])
    assert torch.equal(twin(*arguments), loss(*arguments))


def test_a_loss_that_is_a_function_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can(not)? be saved"):
        evomal.save_loss(SparselySmoothedLoss(torch.neg, 0.1), tmp_path / "loss.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"smoothing": 2.0}, {"reduction": "all"}, {"smoothing": None}])
def test_a_damaged_file_is_told(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    evomal.save_loss(SparseLabelSmoothingLoss(), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="damaged"):
        evomal.load_loss(path)


@pytest.mark.parametrize("kind", HANDCRAFTED_LOSSES)
def test_every_handcrafted_loss_has_a_kind_and_defaults(kind: str) -> None:
    loss = HANDCRAFTED_LOSSES[kind]()
    fields = loss_to_dict(loss)
    assert fields["kind"] == kind
    assert loss_from_dict(fields).key == loss.key
    assert loss(draw(4, 3), classes(4, count=3)).isfinite()


BY_NAME = [kind for kind in HANDCRAFTED_LOSSES if kind not in KNOWN_LOSSES]


@pytest.mark.parametrize("kind", BY_NAME)
def test_a_loss_by_name_fits_the_task(kind: str) -> None:
    task = classification_task(weight=[1.0, 2.0, 3.0], ignore_index=9)
    loss = resolve_loss(kind, task.form)
    assert type(loss) is HANDCRAFTED_LOSSES[kind]
    assert loss.weight is not None
    assert (loss.weight.tolist(), loss.ignore_index) == ([1.0, 2.0, 3.0], 9)
    sample = evomal.compare(task, loss, [0], steps=60).learned
    untrained = evomal.compare(task, loss, [0], steps=0).learned
    assert sample.mean is not None
    assert untrained.mean is not None
    assert sample.mean < untrained.mean
    with pytest.raises(InputError, match="is no expression, so it cannot begin a search"):
        expression_of(kind, task.form)
    with pytest.raises(InputError, match="has link 'softmax', but the task"):
        evomal.compare(regression_task(), resolve_loss(kind, regression_task().form), [0], steps=1)


def test_known_expressions_keep_their_names() -> None:
    for kind in HANDCRAFTED_LOSSES:
        if kind in KNOWN_LOSSES:
            loss = resolve_loss(kind, Form("softmax"))
            assert isinstance(loss, evomal.SymbolicLoss)
            pred, target = draw(20, 5), classes(20, count=5)
            torch.testing.assert_close(
                loss.double()(pred, target),
                HANDCRAFTED_LOSSES[kind]()(pred, target),
                rtol=1e-5,
                atol=1e-5,
            )


def test_the_command_line_shows_and_trains_them(
    capsys: pytest.CaptureFixture[str], data_dir: Path
) -> None:
    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    listed = {row["name"]: row for row in json.loads(run("losses", "--json"))}
    assert list(listed) == [*KNOWN_LOSSES, *BY_NAME]
    assert listed["label-smoothing"]["expression"] is None
    assert all(kind in run("losses") for kind in BY_NAME)
    shown = json.loads(run("show", "sparse-label-smoothing", "--json"))
    assert shown["parameters"] == {"smoothing": 0.1, "relaxed": False}
    assert shown["formula"] in run("show", "sparse-label-smoothing").replace("\n", "")
    train = ["train", "mnist/logistic", "--data-dir", str(data_dir), "--steps", "2", "--json"]
    result = json.loads(run(*train, "--loss", "focal-sparse-label-smoothing"))
    assert result["learned"]["mean"] is not None
