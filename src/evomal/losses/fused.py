"""Losses of the target's probability with the logits' gradient computed in the forward pass.

The mean loss of a batch and its gradient need the same few numbers, so both are computed where the
logits are read. On CPUs that saves starting operations, which is what small batches cost; on CUDA
devices a kernel reads the logits once. Whoever differentiates twice gets the plain loss.

Between the passes the gradient is held, as large as the softmax that other losses hold; but hooks
of saved tensors, as in ``torch.utils.checkpoint``, do not see it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
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
            pred = pred.view_as(pred)  # without the hooks of the logits, which see the result
            value = ctx.plain(pred, target)
            (gradient,) = torch.autograd.grad(value, pred, grad_output, create_graph=True)
            return gradient, None, None, None
        if gradient is None:
            _, gradient = ctx.both(*ctx.saved_tensors)
        return scaled(gradient, grad_output), None, None, None


def scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """The product, in place; on CUDA devices nothing is even read where the factor is 1."""
    if torch._C._functorch.is_legacy_batchedtensor(factor):  # many factors, one after the other
        return gradient * factor
    if is_cuda(gradient) and is_plain(factor) and (kernel := _kernel(gradient.device)) is not None:
        kernel.scale(gradient, factor)
        return gradient
    return gradient.mul_(factor)


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


def kernel_for(pred: Tensor, *others: Tensor | None) -> ModuleType | None:
    """`fused_kernel`, if it takes such logits (B, C) beside the `others`, else None."""
    if not is_cuda(pred) or not all(map(is_plain, (pred, *others))):
        return None
    kernel = _kernel(pred.device)
    if kernel is None or pred.dtype not in kernel.TYPES:
        return None
    return kernel if 2 <= pred.shape[1] <= kernel.MOST_CLASSES else None


def is_cuda(tensor: Tensor) -> bool:
    """Whether the tensor is on a device that the kernel was written for."""
    return tensor.is_cuda and torch.version.hip is None


def is_plain(tensor: Tensor | None) -> bool:
    """Whether a kernel may be handed the memory of a tensor, with nothing beside it to heed."""
    if tensor is None:
        return True
    dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    known = type(tensor) in (Tensor, nn.Parameter) and torch._C._len_torch_dispatch_stack() == 0
    return known and dual.tangent is None


@cache
def _kernel(device: torch.device) -> ModuleType | None:
    """`fused_kernel`, or None with a warning where triton does not work."""
    try:
        kernel = import_module("evomal.losses.fused_kernel")
    except ModuleNotFoundError:  # triton comes with torch's builds for CUDA
        return None
    if reason := kernel.does_not_work(device):
        warnings.warn(f"Losses are computed the plain way, as triton fails: {reason}", stacklevel=2)
        return None
    return kernel
