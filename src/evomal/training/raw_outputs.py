"""ŷ of the filters: raw outputs of an untrained base learner, and metrics and gradients there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from evomal.losses.form import HALVES, NO_INPUTS
from evomal.seeding import derive_generator, derive_seed, isolated_rng
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.classes import held_classes, with_every_class
from evomal.tasks.data import Data
from evomal.tasks.task import Task
from evomal.training.loop import finite_metric
from evomal.training.numerics import draw_batches, is_out_of_memory


def raw_outputs(task: Task, count: int, seed: int) -> Data:
    """ŷ: raw outputs of an untrained base learner for `count` training rows, with their targets.

    Fixed for a run. The rows are a random sample that includes a few of every class
    (`evomal.tasks.classes.with_every_class`), because many metrics are undefined otherwise. The
    learner is in train mode and discarded afterwards. 16-bit outputs and targets are converted to
    single precision, because Adam's steps would be lost in 16 bits.
    """
    stream = (seed, "raw-outputs", task.name)
    known = task.train.known_rows
    rows = draw_batches(derive_generator(*stream), len(known), count, 1, task.device)[0]
    classes = held_classes(task.train.targets, task.form)
    if classes is not None:
        rows = with_every_class(rows, classes, derive_generator(*stream, "classes"))
    learner = task.new_model(derive_seed(*stream, "theta"))
    with torch.no_grad(), isolated_rng(task.device, derive_seed(*stream, "layers")):
        batch = task.batch(task.train, known[rows])
        outputs = Data(task.call(learner, batch.inputs), batch.targets, batch.extras)
    return outputs.to_dtype(torch.float32) if outputs.inputs.dtype in HALVES else outputs


def metric_on_few(task: Task, pred: Tensor, target: Tensor) -> float:
    """L_P; NaN if it is undefined or fails, like many metrics on a few rows."""
    try:
        return finite_metric(task, pred, target)
    except OWN_CODE_ERRORS as error:
        if is_out_of_memory(error):
            raise
        return math.nan


def output_gradient(
    loss: Callable[..., Tensor],
    outputs: Data,
    inputs: Mapping[str, Tensor | float] = NO_INPUTS,
) -> tuple[Tensor, Tensor]:
    """The value of a loss with extra inputs at raw outputs, and its gradient by these outputs."""
    pred: Tensor = outputs.inputs.clone().requires_grad_()
    value = loss(pred, outputs.targets.clone(), **inputs)  # it may work in place
    (gradient,) = torch.autograd.grad(value, pred, materialize_grads=True)
    return value.detach(), gradient


def task_loss_gradient(task: Task, outputs: Data, seed: int) -> float:
    """Norm of the task loss's gradient at raw outputs; a random one gets the same draws always."""
    with isolated_rng(task.device, derive_seed(seed, "scale", task.name)):
        return float(output_gradient(task.task_loss, outputs)[1].norm())
