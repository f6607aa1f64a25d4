"""Task losses L_T and performance metrics L_P: functions of raw outputs and targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from evomal.losses.form import IGNORE_INDEX, Form, Link
from evomal.tasks import arguments
from evomal.tasks.direction import Direction, in_words

TensorLoss = Callable[..., Tensor]
Metric = Callable[[Tensor, Tensor], "Tensor | float"]


@dataclass(frozen=True)
class PerformanceMetric:
    """A metric with its name and direction, for the arguments ``metric`` and ``report`` of a task.

    Parameters
    ----------
    name
        How it is called where its values are shown.
    function
        Any function of (pred, target) that returns a number, as in `evomal.Task`.
    maximize
        Whether higher is better.
    """

    name: str
    function: Metric
    maximize: bool = False

    def __post_init__(self) -> None:
        arguments.text(self.name, "name of a metric")
        arguments.required_function(self.function, f"metric {self.name!r}", "(pred, target)")
        arguments.flag(self.maximize, "setting maximize")

    @property
    def direction(self) -> Direction:
        """``"maximize"`` or ``"minimize"``."""
        return "maximize" if self.maximize else "minimize"

    @property
    def minimized(self) -> Metric:
        """The function if lower is better, otherwise its negative."""
        return partial(negated, metric=self.function) if self.maximize else self.function

    @property
    def label(self) -> str:
        """The name in words."""
        return in_words(self.name)


def negated(pred: Tensor, target: Tensor, *, metric: Metric) -> float:
    """The negative of a metric."""
    return 0.0 - float(metric(pred, target))


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


def mean_absolute_error(pred: Tensor, target: Tensor) -> float:
    """Mean of |pred - target| over all elements, in units of the target."""
    return float(torch.nn.functional.l1_loss(pred, target))


def root_mean_squared_error(pred: Tensor, target: Tensor) -> float:
    """Square root of `mean_squared_error`, in units of the target."""
    return math.sqrt(mean_squared_error(pred, target))


def pinball_loss(pred: Tensor, target: Tensor, *, quantile: float) -> float:
    """Mean loss of quantile regression, smallest at that quantile of the target."""
    missing = target - pred
    return float(torch.maximum(quantile * missing, (quantile - 1) * missing).mean())


def mean_cost(
    pred: Tensor, target: Tensor, *, cost: float, ignore_index: int = IGNORE_INDEX
) -> float:
    """Mean cost per row with two classes: `cost` for a missed 1, and 1 for a false alarm.

    `pred` contains logits as in `error_rate`; the more probable class is predicted.
    """
    if pred.shape != target.shape:
        if pred.shape[1] != 2:
            raise ValueError("costs need two classes")
        pred, target = (pred[:, 1] - pred[:, 0])[rows := target != ignore_index], target[rows]
    predicted, true = pred > 0, target > 0.5
    return float((cost * (true & ~predicted).double() + (predicted & ~true).double()).mean())


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
