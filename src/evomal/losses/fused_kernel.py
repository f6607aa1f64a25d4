"""The loss of the target's probability and its gradient, in one reading of the logits, on CUDA.

A program has a row of logits in its registers: it reads it once and writes its gradient once, so
that for many classes the time is that of moving 2·B·C numbers. Imported where triton is installed.
"""

from __future__ import annotations

import math
from subprocess import CalledProcessError

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

from evomal.expressions.primitives import EPSILON
from evomal.losses.classes import sample_weights
from evomal.losses.terms import Terms

MOST_CLASSES = 2**16
"""Rows longer than that do not fit into the registers of a program; above 2¹⁵ a part is spilled."""
TYPES = (torch.bfloat16, torch.float32)
"""Not float16, whose gradients are lost where a loss scale comes only after they are rounded."""

_EPSILON = tl.constexpr(EPSILON)
_TINY = tl.constexpr(torch.finfo(torch.float32).tiny)
_SCALED_AT_ONCE = 4096


@triton.jit  # type: ignore[untyped-decorator]
def row_kernel(  # type: ignore[no-untyped-def]
    logits,
    targets,
    weights,
    divisor,
    losses,
    gradient,
    stride,
    C,
    ignore_index,
    a,
    b,
    gamma,
    log_others,
    shift,
    ABSOLUTE: tl.constexpr,
    FOCUSED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One sample: `Terms` of its row of logits, and the derivative with respect to the row."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row).to(tl.int64)
    kept = target != ignore_index
    known = (target >= 0) & (target < C)
    column = tl.arange(0, BLOCK)
    inside = column < C
    x = tl.load(logits + row * stride + column, mask=inside, other=float("-inf")).to(tl.float32)
    x = x - tl.max(x, 0)
    e = tl.exp(x)
    of_target = column == target
    e_target = tl.sum(tl.where(of_target, e, 0.0), 0)
    others = tl.sum(tl.where(of_target, 0.0, e), 0)
    total = e_target + others
    log_p = tl.sum(tl.where(of_target, x, 0.0), 0) - tl.log(total)
    p = e_target / total
    one_less = others / total  # 1 - p, without a difference
    inner = log_p + shift
    if ABSOLUTE:
        loss = a * tl.abs(inner)
        slope = tl.where(inner > 0, a, tl.where(inner < 0, -a, 0.0))
    else:
        rest = one_less + _EPSILON
        log_r = tl.log(rest) - log_others
        if FOCUSED:
            base = one_less + _TINY
            focus = tl.exp(gamma * tl.log(base))
            loss = -a * focus * inner
            slope = a * (gamma * (focus / base) * p * inner - focus)
            if SMOOTHED:
                opposite = tl.exp(gamma * log_p)
                loss -= b * opposite * log_r
                slope += b * opposite * (p / rest - gamma * log_r)
        else:
            loss = -a * inner
            slope = -a
            if SMOOTHED:
                loss -= b * log_r
                slope += b * p / rest
    scale = tl.where(known, 1.0, float("nan"))  # a class that there is none of is not hidden
    if weights is not None:
        scale *= tl.load(weights + target, mask=known, other=0.0)
    count = tl.load(divisor)
    tl.store(losses + row, tl.where(kept, loss * scale, 0.0) / count)  # NaN if nothing is kept
    scale /= count
    pull = tl.where(of_target, one_less, -e / total) * (slope * scale)
    pull = tl.where(kept, pull, 0.0)
    tl.store(gradient + row * C + column, pull.to(gradient.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def scale_kernel(values, factor, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Multiply in place; nothing is read where the factor is 1."""
    by = tl.load(factor).to(tl.float32)
    if by != 1.0:
        place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = place < size
        scaled = tl.load(values + place, mask=inside).to(tl.float32) * by
        tl.store(values + place, scaled.to(values.dtype.element_ty), mask=inside)


def launch_options(classes: int) -> dict[str, int]:
    """Mostly 32 numbers per thread; in large programs no more than 64 registers for them.

    So that more than one of up to 16 warps fits on a multiprocessor: one reads while one computes.
    """
    block = triton.next_power_of_2(classes)
    warps = min(max(block // 1024, 1), 32)
    options = {"BLOCK": block, "num_warps": warps}
    return {**options, "maxnreg": 64} if warps >= 8 else options


def loss_and_gradient(
    terms: Terms, weight: Tensor | None, ignore_index: int, pred: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """The mean loss of logits (B, C) and classes (B,), in single precision, and its gradient.

    The logits are of one of `TYPES`, with 2 to `MOST_CLASSES` classes; `weight` has one number per
    class. A class out of range that is not `ignore_index` makes the loss NaN, and the gradient of
    its row; with class weights it is an index error, on a GPU an assertion of the device.
    """
    B, C = pred.shape
    pred = pred if pred.stride(1) == 1 else pred.contiguous()
    target = target.contiguous()
    kept = target != ignore_index
    if weight is None:
        divisor = kept.sum().float()
    else:
        weight = weight.float().contiguous()
        divisor = sample_weights(weight, target, kept).sum()
    losses = torch.empty(B, dtype=torch.float32, device=pred.device)
    gradient = torch.empty((B, C), dtype=pred.dtype, device=pred.device)
    options = launch_options(C)
    with torch.cuda.device_of(pred):  # type: ignore[no-untyped-call]
        row_kernel[(B,)](
            pred,
            target,
            weight,
            divisor,
            losses,
            gradient,
            pred.stride(0),
            C,
            ignore_index,
            terms.target,
            terms.non_target,
            terms.gamma,
            math.log(terms.others),
            terms.shift,
            ABSOLUTE=terms.absolute,
            FOCUSED=terms.gamma != 0,
            SMOOTHED=terms.non_target != 0,
            **options,
        )
    return losses.sum(), gradient


def scale(gradient: Tensor, factor: Tensor) -> None:
    """Multiply a contiguous gradient in place by a number on its device."""
    size = gradient.numel()
    with torch.cuda.device_of(gradient):  # type: ignore[no-untyped-call]
        grid = (triton.cdiv(size, _SCALED_AT_ONCE),)
        scale_kernel[grid](gradient, factor, size, BLOCK=_SCALED_AT_ONCE)


def does_not_work(device: torch.device) -> str | None:
    """Why the kernel cannot be used on a device, found by trying; None if it can.

    Triton needs a C compiler and a place to write to on the machine.
    """
    pred, target = torch.zeros(1, 2, device=device), torch.zeros(1, dtype=torch.long, device=device)
    try:
        _, gradient = loss_and_gradient(Terms(1.0), None, -100, pred, target)
        scale(gradient, torch.ones((), device=device))
    except (RuntimeError, OSError, CalledProcessError, TritonError) as error:
        return f"{type(error).__name__}: {error}"
    return None
