"""Performance metrics L_P: functions of raw outputs and targets, lower is better."""

from __future__ import annotations

import torch
from torch import Tensor


def error_rate(pred: Tensor, target: Tensor) -> float:
    """Share of wrong predictions in [0, 1].

    `pred` holds logits: (B, C) with class indices (B,) as `target`, or any shape with a binary
    target of the same shape, where a logit above 0 predicts 1.
    """
    guess = (pred > 0).to(target.dtype) if pred.shape == target.shape else pred.argmax(dim=1)
    return float((guess != target).double().mean())


def mean_squared_error(pred: Tensor, target: Tensor) -> float:
    """Mean of (pred - target)² over all elements, in squared units of the target."""
    return float(torch.nn.functional.mse_loss(pred, target))
