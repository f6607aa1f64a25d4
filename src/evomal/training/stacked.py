"""Partial training of several learners in one pass: for GPUs, which one small network leaves idle.

The learners differ in their parameters and buffers only, so these are stacked along a first
dimension, and ``torch.vmap`` runs the one network on all of them. All see the same batches and, in
dropout, the same masks, as one after the other would. `train` is the plain reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from evomal.losses.base import Loss
from evomal.seeding import derive_generator, derive_seed, isolated_torch_rng
from evomal.tasks.data import Data
from evomal.tasks.task import Task
from evomal.training.numerics import (
    DivergedError,
    check_deadline,
    draw_batches,
    finite_rows,
    is_out_of_memory,
    quiet_vmap,
    require_finite,
)
from evomal.training.training import evaluation_rows, finite_metric, new_sgd, own_inputs


def partial_training_stacked(
    task: Task, losses: Sequence[Loss], steps: int, seed: int
) -> list[float]:
    """`partial_training` of every loss, but for rounding; infinite for a training that diverges.

    A group that does not fit in the memory is trained in two halves.
    """
    try:
        with quiet_vmap():
            return _partial_training(task, losses, steps, seed)
    except (RuntimeError, MemoryError) as error:
        if len(losses) == 1 or not is_out_of_memory(error):
            raise
    middle = len(losses) // 2  # outside the handler, whose traceback holds all tensors
    halves = losses[:middle], losses[middle:]
    return [value for half in halves for value in partial_training_stacked(task, half, steps, seed)]


def _partial_training(task: Task, losses: Sequence[Loss], steps: int, seed: int) -> list[float]:
    stream = (seed, "fitness", task.name)
    learner = task.new_model(derive_seed(*stream, "theta"))
    count = len(losses)
    theta = {
        name: torch.stack([p.detach()] * count).requires_grad_(p.requires_grad)
        for name, p in learner.named_parameters()
    }
    buffers = {name: torch.stack([b] * count) for name, b in learner.named_buffers()}
    trained = [p for p in theta.values() if p.requires_grad]
    sgd = new_sgd(trained, task.optimizer, task.device)
    batches = draw_batches(
        derive_generator(*stream, "batches"), len(task.train), task.batch_size, steps, task.device
    )
    finite = torch.ones(count, dtype=torch.bool, device=task.device)
    with isolated_torch_rng(task.device, derive_seed(*stream, "layers")):
        for step, rows in enumerate(batches):
            check_deadline()
            batch = task.batch(task.train, rows)
            preds = _outputs(learner, theta, buffers, batch.inputs)
            values = torch.stack(
                [
                    loss(pred, batch.targets, **own_inputs(task, loss, batch, step / steps))
                    for loss, pred in zip(losses, preds, strict=True)
                ]
            )
            sgd.zero_grad()
            values.sum().backward()  # type: ignore[no-untyped-call]
            sgd.step()
            finite &= finite_rows([preds, values])
    finite &= finite_rows(trained)
    metrics = _performances(task, learner, theta, buffers, task.validation)
    return [value if ok else math.inf for value, ok in zip(metrics, finite.tolist(), strict=True)]


@torch.no_grad()
def _performances(
    task: Task,
    learner: nn.Module,
    theta: dict[str, Tensor],
    buffers: dict[str, Tensor],
    data: Data,
) -> list[float]:
    """L_P of every learner, in eval mode, on a whole data split; infinite if it diverged."""
    learner.eval()
    pieces = []
    with isolated_torch_rng(task.device, 0):
        for rows in evaluation_rows(task, data):
            check_deadline()
            batch = task.batch(data, rows)
            pieces.append(_outputs(learner, theta, buffers, batch.inputs))
    metrics = []
    for pred in torch.cat(pieces, dim=1):
        try:
            require_finite([pred])
            metrics.append(finite_metric(task, pred, data.targets))
        except DivergedError:
            metrics.append(math.inf)
    return metrics


def _outputs(
    learner: nn.Module, theta: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor
) -> Tensor:
    """Raw outputs of every learner, shape (P, B, …); buffers change in place."""

    def call(own: dict[str, Tensor], state: dict[str, Tensor]) -> Tensor:
        out: Tensor = functional_call(learner, {**own, **state}, inputs)
        return out

    outputs: Tensor = vmap(call, randomness="same")(theta, buffers)
    return outputs
