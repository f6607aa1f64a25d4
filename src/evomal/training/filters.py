"""The rejection protocol and gradient equivalence (paper, sections 3.5.2 and 3.5.3)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from evomal.losses.base import Loss
from evomal.losses.form import NO_INPUTS
from evomal.tasks.data import Data
from evomal.tasks.task import Task
from evomal.training.numerics import DivergedError, all_finite, check_deadline, require_finite
from evomal.training.optimizing import can_be_fused
from evomal.training.raw_outputs import metric_on_few, output_gradient
from evomal.training.workbench import Workbench

PROGRESS_IN_KEY = (0.0, 0.5, 1.0)
"""Progress at which gradients of losses that depend on it are compared."""


@dataclass(frozen=True)
class Correlation:
    """The result of the rejection protocol for a loss.

    Attributes
    ----------
    g
        Decrease of L_P when the raw outputs themselves are optimised; None if it diverged, or if no
        task's metric is defined on these few rows, so that nothing can be decided.
    diverged
        Whether an optimised output is not finite.
    """

    g: float | None
    diverged: bool = False

    @property
    def rejects(self) -> bool:
        """Whether the loss is rejected: g ≤ 0."""
        return self.g is not None and self.g <= 0


def correlation(bench: Workbench, loss: Loss) -> float:
    """g: the decrease of L_P when the raw outputs themselves are optimised (eqs. 10 and 11).

    The mean over the tasks whose metric is defined on the raw outputs before and after; NaN if
    there are none. A loss with g ≤ 0 is rejected.

    Raises
    ------
    DivergedError
        If an optimised output is not finite.
    """
    (found,) = correlations(bench, [loss])
    if found.diverged:
        raise DivergedError
    return math.nan if found.g is None else found.g


def correlations(bench: Workbench, losses: Sequence[Loss]) -> list[Correlation]:
    """`correlation` of every loss of a group, optimised in parallel."""
    falls: list[list[float]] = [[] for _ in losses]
    diverged = [False] * len(losses)
    parts = zip(bench.tasks, bench.raw_outputs, bench.metrics_before, strict=True)
    for task, outputs, before in parts:
        steps = bench.filtering.rejection_steps or task.rejection_steps
        found = _optimize_outputs(losses, task, outputs, steps)
        for place, optimized in enumerate(found):
            if diverged[place] or not all_finite([optimized]):
                diverged[place] = True
                continue
            fall = before - metric_on_few(task, optimized, outputs.targets)
            if not math.isnan(fall):
                falls[place].append(fall)
    return [
        Correlation(None, is_diverged) if is_diverged or not own else Correlation(fmean(own))
        for own, is_diverged in zip(falls, diverged, strict=True)
    ]


def _optimize_outputs(
    losses: Sequence[Loss], task: Task, outputs: Data, steps: int
) -> tuple[Tensor, ...]:
    """ŷ* of every loss: the outputs after `steps` steps of Adam on it."""
    pred = torch.stack([outputs.inputs] * len(losses)).requires_grad_()
    optimizer = torch.optim.Adam([pred], lr=task.learning_rate, fused=can_be_fused([pred]))
    for i in range(steps):
        check_deadline()
        inputs = task.loss_inputs(outputs, i / steps)
        values = [
            loss(own, outputs.targets, **inputs)
            for loss, own in zip(losses, pred.unbind(), strict=True)
        ]
        total = torch.stack(values).sum()  # non-finite values do not affect the others' gradients
        (pred.grad,) = torch.autograd.grad(total, pred, materialize_grads=True)
        optimizer.step()
    return pred.detach().unbind()


def gradient_key(bench: Workbench, loss: Loss) -> str:
    """A digest of the norms ‖∂M_φ/∂ŷ_b‖₂ (eq. 12), each rounded to two significant digits.

    Losses with equal keys have near-identical gradients at the untrained outputs of every task.

    Raises
    ------
    DivergedError
        If the loss or a gradient is not finite.
    """
    rounded: list[str] = []
    for task, outputs in zip(bench.tasks, bench.raw_outputs, strict=True):
        for progress in PROGRESS_IN_KEY if task.progress_inputs else (0.0,):
            inputs = task.loss_inputs(outputs, progress)
            norms = gradient_norms(loss, outputs, inputs)
            rounded += [f"{norm:.1e}" for norm in norms.tolist()]
    return hashlib.blake2b(" ".join(rounded).encode(), digest_size=16).hexdigest()


def gradient_norms(
    loss: Loss, outputs: Data, inputs: Mapping[str, Tensor | float] = NO_INPUTS
) -> Tensor:
    """‖∂M_φ/∂ŷ_b‖₂ for every instance b, shape (B,), with the loss's extra inputs as given.

    Raises
    ------
    DivergedError
        If the loss or a gradient is not finite.
    """
    value, gradient = output_gradient(loss, outputs, inputs)
    require_finite([value, gradient], "the loss", "a gradient")
    return gradient.flatten(1).norm(dim=1) if gradient.ndim > 1 else gradient.abs()
