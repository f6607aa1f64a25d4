"""Handcrafted losses: their equations, torch's conventions and extremes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evomal import (
    AbsoluteCrossEntropyLoss,
    FocalLoss,
    FocalSparseLabelSmoothingLoss,
    LabelSmoothingLoss,
    SparseLabelSmoothingLoss,
    SparselySmoothedLoss,
)
from evomal.errors import InputError
from evomal.expressions.primitives import EPSILON
from evomal.losses.base import Reduction
from evomal.losses.target import TargetLoss
from handcrafted_losses import (
    CROSS_ENTROPIES,
    DTYPES,
    LOSSES,
    REDUCTIONS,
    SHAPES,
    Make,
    classes,
    draw,
    made,
    name,
    with_gradient,
)

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
    elements = loss.elementwise(y, f)
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
    with pytest.raises(InputError, match="no extra input 'w'"):
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
