"""The theory of the handcrafted losses (paper, appendix A): δ, optima and limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from evomal import (
    AbsoluteCrossEntropyLoss,
    FocalLoss,
    LabelSmoothingLoss,
    SparseLabelSmoothingLoss,
)
from evomal.losses.handcrafted import HandcraftedLoss
from handcrafted_losses import CROSS_ENTROPIES, Make, classes, draw, name, with_gradient

# Appendix A: the learning rule δ = −∂L/∂f


def delta(loss: HandcraftedLoss, y: Tensor, f: Tensor) -> Tensor:
    leaf = f.clone().requires_grad_()
    return -torch.autograd.grad(loss.elementwise(y, leaf).sum(), leaf)[0]


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
