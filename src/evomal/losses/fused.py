"""Losses of the target's probability with the logits' gradient computed in the forward pass.

The mean loss of a batch and its gradient need the same few numbers, so both are computed where the
logits are read. On CPUs that saves starting operations, which is what small batches cost; on CUDA
devices a kernel reads the logits once. Whoever differentiates twice gets the plain loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from evomal.losses.terms import Terms

Both = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From logits (B, C) and classes (B,) to the mean loss and its gradient, (B, C)."""
Plain = Callable[[Tensor, Tensor], Tensor]
"""The same loss as autograd computes it."""


def applies(pred: Tensor) -> bool:
    """Whether nothing but a gradient in reverse mode is asked for."""
    return (
        torch.is_grad_enabled()
        and pred.requires_grad
        and not torch._C._are_functorch_transforms_active()
        and forward_ad.unpack_dual(pred).tangent is None  # type: ignore[no-untyped-call]
    )


def fused(pred: Tensor, target: Tensor, both: Both, plain: Plain) -> Tensor:
    """The loss as computed by `both`; `plain` is the same loss, for derivatives of derivatives."""
    value: Tensor = _Fused.apply(pred, target, both, plain)  # type: ignore[no-untyped-call]
    return value


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pred: Tensor, target: Tensor, both: Both, plain: Plain) -> Tensor:
        value, ctx.gradient = both(pred, target)
        ctx.save_for_backward(pred, target)
        ctx.both, ctx.plain = both, plain
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None  # which is scaled in place, so only once
        if torch.is_grad_enabled():  # to be differentiated itself
            pred, target = ctx.saved_tensors
            value = ctx.plain(pred, target)
            (gradient,) = torch.autograd.grad(value, pred, grad_output, create_graph=True)
        else:
            if gradient is None:
                _, gradient = ctx.both(*ctx.saved_tensors)
            scale(gradient, grad_output)
        return gradient, None, None, None


def scale(gradient: Tensor, factor: Tensor) -> None:
    """Multiply in place; on CUDA devices without reading anything where the factor is 1."""
    if is_cuda(gradient):
        kernel = _kernel()
        assert kernel is not None
        kernel.scale(gradient, factor)
    else:
        gradient.mul_(factor)


def on_cpu(terms: Terms, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """`Both` in torch's operations; a class that there is none of raises a `RuntimeError`."""
    log_f = pred.log_softmax(1)
    target = target.unsqueeze(1)
    log_p = log_f.gather(1, target)
    less_one = torch.expm1(log_p)
    (factor, values, shift), pull = terms.curve_and_slope(log_p, less_one, -1 / len(target))
    value = torch.rsub(values.sum(), shift, alpha=-factor / len(target))
    gradient = log_f.exp_().mul_(pull)  # for the target p - 1 instead of p
    return value, gradient.scatter_(1, target, less_one.mul_(pull))


def kernel_for(pred: Tensor) -> ModuleType | None:
    """`fused_kernel`, if it takes such logits (B, C), else None."""
    if not is_cuda(pred) or (kernel := _kernel()) is None or pred.dtype not in kernel.TYPES:
        return None
    return kernel if 2 <= pred.shape[1] <= kernel.MOST_CLASSES else None


def is_cuda(tensor: Tensor) -> bool:
    """Whether the tensor is on a device that the kernel was written for."""
    return tensor.is_cuda and torch.version.hip is None


@cache
def _kernel() -> ModuleType | None:
    try:
        return import_module("evomal.losses.fused_kernel")
    except ModuleNotFoundError:  # without triton, which comes with torch's builds for CUDA
        return None
