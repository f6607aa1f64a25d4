"""The CUDA kernel: on a CPU, in triton's interpreter, as `test_fused.py` runs this, or on a GPU.

On a machine with a GPU: pytest tests/kernel_checks.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import evomal
import handcrafted_losses
from evomal.losses import fused, fused_kernel
from evomal.losses.fused import kernel_for
from evomal.losses.handcrafted import HandcraftedLoss
from evomal.losses.target import TargetLoss
from handcrafted_losses import Make, name
from test_fused import TARGET_LOSSES, is_fused, plain


def has_terms(make: Make) -> bool:
    loss = make()
    return isinstance(loss, TargetLoss) and loss.terms(3) is not None


FUSED = [make for make in TARGET_LOSSES if has_terms(make)]


DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if DEVICE.type == "cpu":
        monkeypatch.setattr(fused, "is_cuda", lambda _: True)
    with DEVICE:
        yield


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    with torch.device("cpu"):
        return handcrafted_losses.draw(*shape, dtype=dtype).to(DEVICE)


def classes(*shape: int, count: int) -> Tensor:
    with torch.device("cpu"):
        return handcrafted_losses.classes(*shape, count=count).to(DEVICE)


def on_kernel(loss: HandcraftedLoss, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient, which is scaled by 3."""
    assert isinstance(loss, TargetLoss)
    leaf = pred.detach().requires_grad_()
    value = loss._by_kernel(leaf, target)
    assert value is not None
    (gradient,) = torch.autograd.grad(value, leaf, torch.tensor(3.0, dtype=value.dtype))
    return value.detach(), gradient / 3


def in_double(loss: HandcraftedLoss, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = pred.detach().double().requires_grad_()
    value = plain(loss, leaf, target)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


@pytest.mark.parametrize("make", FUSED, ids=name)
@pytest.mark.parametrize("count", [2, 3, 10, 1000, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("common", [{}, {"weighted": True, "ignore_index": 1}], ids=str)
def test_it_is_the_plain_loss(
    make: Make, count: int, dtype: torch.dtype, common: dict[str, Any]
) -> None:
    common = dict(common)
    if common.pop("weighted", False):
        common["weight"] = torch.linspace(0.5, 2, count)
    loss = make(**common)
    pred, target = draw(6, count, dtype=dtype), classes(6, count=count)
    target[2], target[3] = 1, 0
    value, gradient = on_kernel(loss, pred, target)
    assert gradient.dtype == value.dtype == dtype
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    expected, slopes = in_double(loss, pred, target)
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    largest = float(slopes.abs().max())
    torch.testing.assert_close(gradient.double(), slopes, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("make", FUSED, ids=name)
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits(make: Make, sign: int) -> None:
    pred = torch.zeros(1, 5)
    pred[0, 2] = 1e4 * sign
    value, gradient = on_kernel(make(), pred, torch.tensor([2]))
    expected, slopes = in_double(make(), pred, torch.tensor([2]))
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(gradient.double(), slopes, rtol=1e-4, atol=2e-6)


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # of numpy, which interprets
def test_classes_that_there_are_none_of_and_nothing_but_ignored_ones() -> None:
    loss, pred = evomal.SparseLabelSmoothingLoss(), draw(4, 3)
    for target in ([0, 1, 2, 3], [0, 1, 2, -1], [-100] * 4):
        value, gradient = on_kernel(loss, pred, torch.tensor(target))
        assert value.isnan()
        assert gradient[3].isnan().all() == (target[3] != -100)
        assert gradient[:3].isfinite().all()


def test_logits_in_any_order_of_the_memory() -> None:
    loss, target = evomal.FocalLoss(2.0), classes(6, count=4)
    wide = draw(12, 8)
    for pred in (wide[:6, 2:6], wide[::2, :4], wide.T[:6, :4], wide[:1, :4].expand(6, 4)):
        torch.testing.assert_close(
            on_kernel(loss, pred, target), on_kernel(loss, pred.contiguous(), target)
        )
    pred, table = wide[:6, :4].contiguous(), torch.stack([target, target + 1, target + 2], dim=1)
    for labels in (table[:, 0], target[:1].expand(6)):
        torch.testing.assert_close(
            on_kernel(loss, pred, labels), on_kernel(loss, pred, labels.contiguous())
        )
    weighted = evomal.FocalLoss(2.0, weight=torch.ones(4))
    weighted.weight = torch.arange(8.0)[::2]
    torch.testing.assert_close(
        on_kernel(weighted, pred, target)[0].double(), in_double(weighted, pred, target)[0]
    )


def test_a_gradient_is_handed_out_twice_and_scaled_once() -> None:
    loss, pred = evomal.FocalLoss(2.0), draw(6, 4).requires_grad_()
    value = loss._by_kernel(pred, classes(6, count=4))
    assert value is not None
    assert is_fused(value)
    by_1, by_2, again = (
        torch.autograd.grad(value, pred, torch.tensor(factor), retain_graph=True)[0]
        for factor in (1.0, 2.0, 1.0)
    )
    assert torch.equal(by_1 * 2, by_2)
    assert torch.equal(by_1, again)


def test_gradients_of_gradients() -> None:
    loss, target = evomal.FocalLoss(2.0), classes(6, count=4)
    found = []
    for way in (loss._by_kernel, lambda pred, target: plain(loss, pred, target)):
        pred = draw(6, 4).requires_grad_()
        value = way(pred, target)
        assert value is not None
        (slope,) = torch.autograd.grad(value, pred, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), pred)[0])
    torch.testing.assert_close(*found)


def test_many_gradients_at_once() -> None:
    loss, target = evomal.FocalLoss(2.0), classes(6, count=4)
    pred, factors = draw(6, 4).requires_grad_(), torch.tensor([1.0, -2.0])
    value = loss._by_kernel(pred, target)
    assert value is not None
    (both,) = torch.autograd.grad(value, pred, factors, is_grads_batched=True)
    (one,) = torch.autograd.grad(plain(loss, pred, target), pred)
    torch.testing.assert_close(both, factors[:, None, None] * one)


def test_where_triton_fails_the_plain_loss_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler.")

    assert fused_kernel.does_not_work(DEVICE) is None
    monkeypatch.setattr(fused_kernel, "loss_and_gradient", fails)
    fused._kernel.cache_clear()
    with pytest.warns(UserWarning, match="as triton fails: RuntimeError: Failed to find C"):
        assert kernel_for(torch.zeros(2, 4)) is None
    fused._kernel.cache_clear()


def test_what_is_no_plain_tensor_is_left() -> None:
    pred, target = draw(6, 4).requires_grad_(), classes(6, count=4)
    loss = evomal.FocalLoss(2.0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert loss._by_kernel(pred, target) is None
    assert loss._by_kernel(pred, target.to("meta")) is None
    weighted = evomal.FocalLoss(2.0, weight=torch.ones(4))
    assert weighted._by_kernel(pred, target) is not None
    assert weighted.weight is not None
    weighted.weight.requires_grad_()
    assert weighted._by_kernel(pred, target) is None


@pytest.mark.parametrize(
    ("dtype", "count"), [(torch.float16, 4), (torch.float64, 4), (torch.float32, 1)], ids=str
)
def test_what_the_kernel_does_not_take(dtype: torch.dtype, count: int) -> None:
    assert kernel_for(torch.zeros(2, count, dtype=dtype)) is None
