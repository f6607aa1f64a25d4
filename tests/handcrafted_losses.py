"""Handcrafted losses with parameters, and what tests of them share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evomal import (
    AbsoluteCrossEntropyLoss,
    FocalLoss,
    FocalSparseLabelSmoothingLoss,
    GeneralizedCrossEntropyLoss,
    LabelSmoothingLoss,
    SparseLabelSmoothingLoss,
    SparselySmoothedLoss,
)
from evomal.losses.base import Reduction
from evomal.losses.handcrafted import HandcraftedLoss

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
    made(GeneralizedCrossEntropyLoss, 0.7),
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
