"""The short way of a loss of the target's probability, for a plain mean on a CPU.

Against the way that takes everything: values, and derivatives of every kind.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from evomal import FocalLoss, SparseLabelSmoothingLoss
from evomal.losses.handcrafted import HandcraftedLoss
from evomal.losses.target import TargetLoss
from handcrafted_losses import CROSS_ENTROPIES, LOSSES, classes, draw, name

TARGET_LOSSES = [make for make in [*CROSS_ENTROPIES, *LOSSES] if isinstance(make(), TargetLoss)]
Scalar = Callable[[Tensor, Tensor], Tensor]


def both_ways(loss: HandcraftedLoss) -> tuple[Scalar, Scalar]:
    return loss, lambda pred, target: loss.whole_way(pred, target)


@pytest.fixture(params=TARGET_LOSSES, ids=name)
def ways(request: pytest.FixtureRequest) -> tuple[Scalar, Scalar]:
    return both_ways(request.param())


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_values_and_gradients(ways: tuple[Scalar, Scalar], count: int, scale: float) -> None:
    target, found = classes(9, count=count), []
    for way in ways:
        pred = (scale * draw(9, count)).requires_grad_()
        value = way(pred, target)
        (3 * value).backward()  # type: ignore[no-untyped-call]
        assert pred.grad is not None
        found.append((value.detach(), pred.grad))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_it_is_taken_for_a_plain_mean_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pred, target = draw(5, 3), classes(5, count=3)
    cases: list[tuple[bool, HandcraftedLoss, Tensor]] = [
        (True, FocalLoss(2.0), target),
        (False, FocalLoss(2.0, reduction="sum"), target),
        (False, FocalLoss(2.0, weight=[1.0, 2, 3]), target),
        (False, FocalLoss(2.0, ignore_index=1), target),
        (False, FocalLoss(2.0), torch.where(target == 1, -100, target)),
    ]
    calls: list[Tensor] = []
    whole = HandcraftedLoss.whole_way

    def counted(loss: HandcraftedLoss, pred: Tensor, target: Tensor) -> Tensor:
        calls.append(pred)
        return whole(loss, pred, target)

    monkeypatch.setattr(HandcraftedLoss, "whole_way", counted)
    for short, loss, given in cases:
        calls.clear()
        loss(pred, given)
        assert (not calls) == short


def test_gradients_of_gradients(ways: tuple[Scalar, Scalar]) -> None:
    torch.manual_seed(0)
    layer, x, target = nn.Linear(4, 3).double(), draw(5, 4), classes(5, count=3)
    found = []
    for way in ways:
        slopes = torch.autograd.grad(way(layer(x), target), layer.weight, create_graph=True)
        found.append(torch.autograd.grad(slopes[0].square().sum(), layer.weight))
    torch.testing.assert_close(*found)


def test_transforms(ways: tuple[Scalar, Scalar]) -> None:
    preds, target, directions = draw(4, 5, 3), classes(5, count=3), draw(4, 5, 3, seed=2)
    found = []
    for way in ways:

        def tangent(pred: Tensor, direction: Tensor, way: Scalar = way) -> Tensor:
            change: Tensor = torch.func.jvp(lambda x: way(x, target), (pred,), (direction,))[1]
            return change

        gradients = torch.vmap(torch.func.grad(way), in_dims=(0, None))(preds, target)
        pushed = torch.vmap(tangent)(preds, directions)
        hessian = torch.func.hessian(way)(preds[0], target)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(preds[0], directions[0])  # type: ignore[no-untyped-call]
            old = forward_ad.unpack_dual(way(dual, target))  # type: ignore[no-untyped-call]
        found.append((gradients, pushed, hessian, old.tangent))
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_has_the_way_that_takes_everything() -> None:
    loss, target = FocalLoss(2.0), classes(5, count=3)
    traced = torch.jit.trace(loss, (draw(5, 3), target))  # type: ignore[no-untyped-call]
    pred, some = draw(5, 3, seed=3), torch.where(target == 1, -100, target)
    torch.testing.assert_close(traced(pred, some), loss(pred, some))


class Doubled(FocalLoss):
    """A subclass that says what its curve is."""

    def curve(self, log_p: Tensor, classes: int) -> Tensor:
        return 2 * super().curve(log_p, classes)


def test_a_curve_of_its_own_is_what_counts() -> None:
    pred, target = draw(5, 3), classes(5, count=3)
    torch.testing.assert_close(Doubled(2.0)(pred, target), 2 * FocalLoss(2.0)(pred, target))
    with pytest.raises(NotImplementedError, match="neither coefficients nor a curve"):
        TargetLoss()(pred, target)


def test_a_class_that_there_is_none_of_is_told() -> None:
    for wrong in (3, -1):
        with pytest.raises((IndexError, RuntimeError)):
            SparseLabelSmoothingLoss()(draw(5, 3), torch.tensor([0, 1, 2, 0, wrong]))
