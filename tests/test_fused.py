"""The loss and its gradient in one go: against the plain loss, and where it must stand aside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from evomal import FocalLoss, SparseLabelSmoothingLoss
from evomal.losses import fused as fused_module
from evomal.losses.fused import applies
from evomal.losses.handcrafted import HandcraftedLoss
from evomal.losses.target import TargetLoss
from evomal.losses.terms import Curve
from handcrafted_losses import CROSS_ENTROPIES, LOSSES, Make, classes, draw, name

TARGET_LOSSES = [make for make in [*CROSS_ENTROPIES, *LOSSES] if isinstance(make(), TargetLoss)]


def plain(loss: HandcraftedLoss, pred: Tensor, target: Tensor) -> Tensor:
    return HandcraftedLoss.forward(loss, pred, target)


def is_fused(value: Tensor) -> bool:
    return value.grad_fn is not None and "Fused" in value.grad_fn.name()


@pytest.mark.parametrize("make", TARGET_LOSSES, ids=name)
@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_values_and_gradients_are_those_of_the_plain_loss(
    make: Make, count: int, scale: float
) -> None:
    loss, target = make(), classes(9, count=count)
    results = []
    for way in (loss, lambda pred, target: plain(loss, pred, target)):
        pred = (scale * draw(9, count)).requires_grad_()
        value = way(pred, target)
        (3 * value).backward()
        results.append((value.detach(), pred.grad))
        assert pred.grad is not None
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert isinstance(loss, TargetLoss)
    fits = loss.terms(count) is not None
    assert is_fused(loss((scale * draw(9, count)).requires_grad_(), target)) == fits


def test_it_stands_aside_where_no_gradient_in_reverse_mode_is_all_that_is_asked_for() -> None:
    loss, target, pred = FocalLoss(2.0), classes(5, count=3), draw(5, 3).requires_grad_()
    assert is_fused(loss(pred, target))
    with torch.no_grad():
        assert loss(pred, target).grad_fn is None
    assert not is_fused(loss(pred.detach(), target))
    assert not is_fused(FocalLoss(2.0, reduction="sum")(pred, target))
    assert not is_fused(FocalLoss(2.0, weight=[1.0, 2, 3])(pred, target))
    assert not is_fused(loss(pred, torch.where(target == 1, -100, target)))
    direction, (slope,) = draw(5, 3, seed=2), torch.autograd.grad(loss(pred, target), pred)
    tangent = torch.func.jvp(lambda x: loss(x, target), (pred.detach(),), (direction,))[1]
    torch.testing.assert_close(tangent, (slope * direction).sum())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(pred, torch.ones_like(pred))  # type: ignore[no-untyped-call]
        assert not applies(dual)
        assert not is_fused(loss(dual, target))
    answers: list[bool] = []

    def observed(x: Tensor) -> Tensor:
        answers.append(applies(x))
        return plain(loss, x, target)

    torch.func.grad(observed)(pred.detach())
    assert answers == [False]


@pytest.mark.parametrize("make", TARGET_LOSSES, ids=name)
def test_a_second_backward_pass_gives_the_same(make: Make) -> None:
    pred, target = draw(5, 3).requires_grad_(), classes(5, count=3)
    value = make()(pred, target)
    first, second = (
        torch.autograd.grad(value, pred, torch.tensor(2.0), retain_graph=True)[0] for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("make", TARGET_LOSSES, ids=name)
def test_gradients_of_gradients_reach_what_the_logits_came_from(make: Make) -> None:
    torch.manual_seed(0)
    layer, x, target = nn.Linear(4, 3).double(), draw(5, 4), classes(5, count=3)
    loss, found = make(), []
    for way in (loss, lambda pred, target: plain(loss, pred, target)):
        slopes = torch.autograd.grad(way(layer(x), target), layer.weight, create_graph=True)
        (penalty,) = torch.autograd.grad(slopes[0].square().sum(), layer.weight)
        found.append(penalty)
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:Using backward.* with create_graph:UserWarning")
@pytest.mark.parametrize("create_graph", [False, True])
def test_hooks_see_the_gradient_once(create_graph: bool) -> None:
    target, found = classes(5, count=3), []
    loss = FocalLoss(2.0)
    for way in (loss, lambda pred, target: plain(loss, pred, target)):
        pred = draw(5, 3).requires_grad_()
        logits = pred * 1.0
        logits.retain_grad()
        logits.register_hook(lambda gradient: 2 * gradient)  # type: ignore[no-untyped-call]
        way(logits, target).backward(create_graph=create_graph)
        found.append((pred.grad, logits.grad))
        pred.grad = None  # a cycle, with its graph
    torch.testing.assert_close(*found)


def test_many_gradients_at_once() -> None:
    target, loss = classes(5, count=3), SparseLabelSmoothingLoss()
    pred, factors = draw(5, 3).requires_grad_(), torch.tensor([1.0, -2.0, 0.5]).double()
    value = loss(pred, target)
    assert is_fused(value)
    (both,) = torch.autograd.grad(value, pred, factors, is_grads_batched=True)
    (one,) = torch.autograd.grad(plain(loss, pred, target), pred)
    torch.testing.assert_close(both, factors[:, None, None] * one)


def test_logits_that_change_after_the_loss_change_nothing() -> None:
    """As the gradient is taken where they are read."""
    pred, target = draw(5, 3).requires_grad_(), classes(5, count=3)
    expected = torch.autograd.grad(SparseLabelSmoothingLoss()(pred, target), pred)[0]
    logits = pred * 1.0
    value = SparseLabelSmoothingLoss()(logits, target)
    logits.mul_(0.0)
    assert torch.equal(torch.autograd.grad(value, pred)[0], expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_loss_that_is_computed_again_for_its_gradient(use_reentrant: bool) -> None:
    loss, target, found = SparseLabelSmoothingLoss(), classes(5, count=3), []
    for again in (True, False):
        pred = draw(5, 3).requires_grad_()
        value = loss(pred, target)
        if again:
            value = checkpoint(loss, pred, target, use_reentrant=use_reentrant)
        value.backward()
        found.append(pred.grad)
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_has_the_plain_loss() -> None:
    loss, target = FocalLoss(2.0), classes(5, count=3)
    traced = torch.jit.trace(loss, (draw(5, 3).requires_grad_(), target))  # type: ignore[no-untyped-call]
    pred = draw(5, 3, seed=3)
    torch.testing.assert_close(traced(pred, target), loss(pred, target))


class Doubled(FocalLoss):
    """A subclass that says what its curve is."""

    def curve(self, log_p: Tensor, classes: int) -> Curve:
        factor, values, shift = super().curve(log_p, classes)
        return 2 * factor, values, shift


def test_a_curve_of_its_own_is_what_counts() -> None:
    pred, target = draw(5, 3).requires_grad_(), classes(5, count=3)
    value = Doubled(2.0)(pred, target)
    assert not is_fused(value)
    torch.testing.assert_close(value, 2 * FocalLoss(2.0)(pred, target))
    with pytest.raises(NotImplementedError, match="neither terms nor a curve"):
        TargetLoss()(pred, target)


def test_a_class_that_there_is_none_of_is_told() -> None:
    pred = draw(5, 3).requires_grad_()
    for wrong in (3, -1):
        with pytest.raises((IndexError, RuntimeError)):
            SparseLabelSmoothingLoss()(pred, torch.tensor([0, 1, 2, 0, wrong]))


def test_without_a_kernel_a_gpu_gets_the_plain_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_module, "is_cuda", lambda _: True)
    monkeypatch.setattr(fused_module, "_kernel", lambda _: None)
    pred, target = draw(5, 3).requires_grad_(), classes(5, count=3)
    loss = FocalLoss(2.0)
    assert loss._by_kernel(pred, target) is None


@pytest.mark.slow
def test_the_kernel_on_a_cpu() -> None:
    """In a process of its own, as triton's interpreter is all or nothing."""
    checks = Path(__file__).with_name("kernel_checks.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", checks],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("classes", [10_000, 32_768])
def test_the_kernel_reads_the_logits_once(classes: int) -> None:
    """In the machine code for compute capability 9.0, which needs no GPU to be made."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kernel_code.py"), str(classes)],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded, stored, spilled = map(int, done.stdout.split())
    # A thread has 32 numbers: read once, written once. And it reads the target and the divisor.
    assert (loaded, stored, spilled) == (32 + 2, 32 + 1, 0)
