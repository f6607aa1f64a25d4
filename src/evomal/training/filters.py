"""The rejection protocol and gradient equivalence (paper, sections 3.5.2 and 3.5.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from evomal.losses.base import Loss
from evomal.losses.form import NO_INPUTS
from evomal.seeding import derive_generator, derive_seed, isolated_torch_rng
from evomal.tasks.data import Data
from evomal.tasks.task import Task
from evomal.training.graphs import repeated
from evomal.training.numerics import (
    DivergedError,
    check_deadline,
    draw_batches,
    require_finite,
)
from evomal.training.settings import EvaluationSettings
from evomal.training.training import can_be_fused, finite_metric

PROGRESS_IN_KEY = (0.0, 0.5, 1.0)
"""Where the gradients are compared of losses that depend on the progress of the training."""


def raw_outputs(task: Task, count: int, seed: int) -> Data:
    """ŷ: raw outputs of an untrained base learner for `count` training rows, with their targets.

    Fixed for a run. The learner is in train mode; it is discarded, statistics and all.
    """
    stream = (seed, "raw-outputs", task.name)
    rows = draw_batches(derive_generator(*stream), len(task.train), count, 1, task.device)[0]
    learner = task.new_model(derive_seed(*stream, "theta"))
    with torch.no_grad(), isolated_torch_rng(task.device, derive_seed(*stream, "layers")):
        batch = task.batch(task.train, rows)
        return Data(learner(batch.inputs), batch.targets, batch.extras)


def correlation(
    loss: Loss, tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> float:
    """g: how much L_P falls when the raw outputs themselves are optimised (eqs. 10 and 11).

    The mean over the tasks. A loss with g ≤ 0 is rejected.

    Raises
    ------
    DivergedError
        If an optimised output or the metric is not finite.
    """
    (g,) = correlations([loss], tasks, settings, seed)
    if g is None:
        raise DivergedError
    return g


def correlations(
    losses: Sequence[Loss], tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> list[float | None]:
    """`correlation` of every loss of a group, all optimised side by side; None for a divergence."""
    totals: list[float | None] = [0.0] * len(losses)
    for task in tasks:
        outputs = raw_outputs(task, settings.rejection_batch, seed)
        before = finite_metric(task, outputs.inputs, outputs.targets)
        steps = settings.rejection_steps or task.rejection_steps
        found = _optimize_outputs(losses, task, outputs, steps, graphs=settings.cuda_graphs)
        for place, optimized in enumerate(found):
            total = totals[place]
            if total is None:
                continue
            try:
                require_finite([optimized])
                totals[place] = total + before - finite_metric(task, optimized, outputs.targets)
            except DivergedError:
                totals[place] = None
    return [None if total is None else total / len(tasks) for total in totals]


def _optimize_outputs(
    losses: Sequence[Loss], task: Task, outputs: Data, steps: int, *, graphs: bool = False
) -> tuple[Tensor, ...]:
    """ŷ* of every loss: the outputs after `steps` steps of Adam on it."""
    pred = torch.stack([outputs.inputs] * len(losses)).requires_grad_()
    rate, capturable = task.optimizer.learning_rate, graphs and pred.is_cuda
    optimizer = torch.optim.Adam([pred], lr=rate, fused=can_be_fused([pred]), capturable=capturable)
    progress = torch.zeros((), dtype=pred.dtype, device=pred.device)

    def step() -> None:
        inputs = task.loss_inputs(outputs, progress)
        values = [
            loss(own, outputs.targets, **inputs)
            for loss, own in zip(losses, pred.unbind(), strict=True)
        ]
        total = torch.stack(values).sum()  # one that is not finite leaves the others' slopes alone
        (pred.grad,) = torch.autograd.grad(total, pred, materialize_grads=True)
        optimizer.step()

    take_step = repeated(step, task.device, graphs=graphs)
    for i in range(steps):
        check_deadline()
        progress.fill_(i / steps)
        take_step()
    return pred.detach().unbind()


def gradient_key(loss: Loss, tasks: Sequence[Task], settings: EvaluationSettings, seed: int) -> str:
    """A digest of the norms ‖∂M_φ/∂ŷ_b‖₂ (eq. 12), each rounded to two significant digits.

    Losses with equal keys have near-identical gradients at the untrained outputs of every task.

    Raises
    ------
    DivergedError
        If the loss or a gradient is not finite.
    """
    rounded: list[str] = []
    for task in tasks:
        outputs = raw_outputs(task, settings.rejection_batch, seed)
        for progress in PROGRESS_IN_KEY if task.progress_inputs else (0.0,):
            inputs = task.loss_inputs(outputs, progress)
            norms = gradient_norms(loss, outputs, inputs)
            rounded += [f"{norm:.1e}" for norm in norms.tolist()]
    return hashlib.blake2b(" ".join(rounded).encode(), digest_size=16).hexdigest()


def gradient_norms(
    loss: Loss, outputs: Data, inputs: Mapping[str, Tensor | float] = NO_INPUTS
) -> Tensor:
    """‖∂M_φ/∂ŷ_b‖₂ for every instance b, shape (B,), with the loss's further inputs as given.

    Raises
    ------
    DivergedError
        If the loss or a gradient is not finite.
    """
    pred = outputs.inputs.clone().requires_grad_()
    value = loss(pred, outputs.targets, **inputs)
    (gradient,) = torch.autograd.grad(value, pred, materialize_grads=True)
    require_finite([value, gradient], "the loss", "a gradient")
    return gradient.flatten(1).norm(dim=1) if gradient.ndim > 1 else gradient.abs()
