"""Task losses L_T and performance metrics L_P: functions of raw outputs and targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evomal.losses.form import IGNORE_INDEX


def cross_entropy(
    pred: Tensor, target: Tensor, *, weight: Sequence[float] | None, ignore_index: int
) -> Tensor:
    """``torch.nn.functional.cross_entropy`` with class weights as numbers, on any device."""
    by_class = None if weight is None else pred.new_tensor(weight)
    return torch.nn.functional.cross_entropy(pred, target, by_class, ignore_index=ignore_index)


def error_rate(pred: Tensor, target: Tensor, *, ignore_index: int = IGNORE_INDEX) -> float:
    """Share of wrong predictions in [0, 1]; lower is better.

    `pred` holds logits: (B, C, …) with class indices (B, …) as `target`, those equal to
    `ignore_index` left out, or any shape with a binary target of the same shape, where a logit
    above 0 predicts 1.
    """
    if pred.shape == target.shape:
        return float(((pred > 0).to(target.dtype) != target).double().mean())
    wrong = pred.argmax(dim=1) != target
    return float(wrong[target != ignore_index].double().mean())


def mean_squared_error(pred: Tensor, target: Tensor) -> float:
    """Mean of (pred - target)² over all elements, in squared units of the target."""
    return float(torch.nn.functional.mse_loss(pred, target))
