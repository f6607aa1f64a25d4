"""What to measure a metric's values with: perfect predictions, and ones that ignore the inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from evomal.losses.form import Form
from evomal.tasks.classes import held_classes
from evomal.tasks.sanity.metric import MOST_OUTPUTS, SURE, judged, perfect_predictions

if TYPE_CHECKING:
    from evomal.tasks.task import Task

_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Of the training targets: constants for metrics that the mean does not suit."""

_CLASSES = 10
"""Maximum number of classes for which always predicting each is tried."""


class Yardsticks(NamedTuple):
    """L_P on the validation rows, lower is better; None if it is not finite.

    If these are read lazily, on a sample of them.

    Attributes
    ----------
    perfect
        Of perfect predictions.
    constant
        Of the best of some constant predictions, which know the training targets only: class
        frequencies, one class, or the mean and quantiles.
    """

    perfect: float | None
    constant: float | None


def yardsticks(task: Task, pred: Tensor) -> Yardsticks:
    """Both for a task; `pred` are raw outputs for a few rows, as for `check_metric`."""
    data = task.validation
    if pred[0].numel() * len(data.targets) > MOST_OUTPUTS:
        return Yardsticks(None, None)
    perfect, _ = judged(task, perfect_predictions(data.targets, task.form, pred), data)
    shape = len(data.targets), *pred.shape[1:]
    scores = [
        judged(task, constant.to(pred).expand(shape), data)[0]
        for constant in _constants(task.train.targets, task.form, pred.shape)
    ]
    constant = min(filter(math.isfinite, scores), default=None)
    return Yardsticks(perfect if math.isfinite(perfect) else None, constant)


def _constants(targets: Tensor, form: Form, shape: torch.Size) -> Iterator[Tensor]:
    """Raw outputs that do not depend on the row, to be broadcast to this shape."""
    if form.link == "identity":
        values = targets.double()
        yield values.mean(dim=0)
        for share in _QUANTILES:
            yield values.kthvalue(max(1, round(share * len(values))), dim=0).values
    elif form.link == "sigmoid":
        yield targets.double().mean(dim=0).logit(1 / (1 + math.exp(SURE)))
        for sure in (-SURE, SURE):
            yield torch.full_like(targets[0], sure)
    else:
        classes = held_classes(targets, form)
        assert classes is not None
        counts = classes[classes >= 0].bincount(minlength=shape[1]).double()
        column = (shape[1], *(1,) * (len(shape) - 2))
        yield (counts / counts.sum()).log().clamp(min=-SURE).reshape(column)
        if shape[1] <= _CLASSES:
            yield from (SURE * torch.eye(shape[1])).reshape(shape[1], *column)
