"""Task losses L_T and performance metrics L_P: functions of raw outputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from evomal.losses.form import IGNORE_INDEX, Form, Link

TensorLoss = Callable[..., Tensor]
Metric = Callable[[Tensor, Tensor], "Tensor | float"]


def cross_entropy(
    pred: Tensor, target: Tensor, *, weight: Sequence[float] | None, ignore_index: int
) -> Tensor:
    """``torch.nn.functional.cross_entropy`` with class weights as numbers, on any device."""
    by_class = None if weight is None else pred.new_tensor(weight)
    return torch.nn.functional.cross_entropy(pred, target, by_class, ignore_index=ignore_index)


def error_rate(pred: Tensor, target: Tensor, *, ignore_index: int = IGNORE_INDEX) -> float:
    """Fraction of wrong predictions, in [0, 1]; lower is better.

    `pred` contains logits: (B, C, …) with class indices (B, …) as `target`, of which those equal to
    `ignore_index` are ignored, or any shape with a binary target of the same shape, where a logit
    above 0 predicts 1.
    """
    if pred.shape == target.shape:
        return float(((pred > 0).to(target.dtype) != target).double().mean())
    wrong = pred.argmax(dim=1) != target
    return float(wrong[target != ignore_index].double().mean())


def mean_squared_error(pred: Tensor, target: Tensor) -> float:
    """Mean of (pred - target)² over all elements, in squared units of the target."""
    return float(torch.nn.functional.mse_loss(pred, target))


_DEFAULTS: dict[Link, tuple[TensorLoss, Metric]] = {
    "softmax": (nn.functional.cross_entropy, error_rate),  # with torch's default settings
    "sigmoid": (nn.functional.binary_cross_entropy_with_logits, error_rate),
    "identity": (nn.functional.mse_loss, mean_squared_error),
}


def default_task_loss(form: Form) -> TensorLoss:
    """L_T by link: cross-entropy, binary cross-entropy with logits, or squared error."""
    if form.link == "softmax" and (form.weight, form.ignore_index) != (None, IGNORE_INDEX):
        return partial(cross_entropy, weight=form.weight, ignore_index=form.ignore_index)
    return _DEFAULTS[form.link][0]


def default_metric(form: Form) -> Metric:
    """L_P by link: error rate, error rate, or mean squared error."""
    if form.link == "softmax" and form.ignore_index != IGNORE_INDEX:
        return partial(error_rate, ignore_index=form.ignore_index)
    return _DEFAULTS[form.link][1]
