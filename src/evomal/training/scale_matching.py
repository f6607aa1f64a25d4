"""Scaling losses to the gradient of the task loss, so that they compete by their shape alone."""

from __future__ import annotations

import math

from evomal.losses.meta import MetaLoss
from evomal.training.raw_outputs import output_gradient
from evomal.training.workbench import Workbench

LEAST, MOST = 1e-6, 1e6
"""Range of a factor."""


def scale_matched(bench: Workbench, loss: MetaLoss) -> MetaLoss:
    """The loss times the factor with which its gradient is as large as that of the task loss.

    How large a gradient is, is the sum over the tasks of its norm at the raw outputs of the
    filters, at the start of a training. The factor is limited to `LEAST` and `MOST`. Unscaled if
    one of the two gradients is 0 or not finite, or the loss cannot be scaled
    (`MetaLoss.scaled`).
    """
    norms = [
        float(output_gradient(loss, outputs, task.loss_inputs(outputs, 0.0))[1].norm())
        for task, outputs in zip(bench.tasks, bench.raw_outputs, strict=True)
    ]
    own, target = sum(norms), bench.task_loss_gradient
    if not (0 < own < math.inf and 0 < target < math.inf):
        return loss
    return loss.scaled(min(max(target / own, LEAST), MOST))
