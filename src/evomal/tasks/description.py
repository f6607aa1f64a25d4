"""The identity of a task: recorded when a run starts, compared on resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evomal.tasks.functions import identity
from evomal.tasks.optimizers import optimizer_identity
from evomal.tasks.schedules import schedule_identity

if TYPE_CHECKING:
    from evomal.tasks.parts import Part
    from evomal.tasks.task import Task


def described(task: Task) -> dict[str, Any]:
    """Fields that identify a task, as JSON values.

    The model is identified by the names, shapes and dtypes of its parameters and buffers, functions
    by their names, the data by a digest of all values.
    """
    learner = task.new_model(seed=0)
    state = learner.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    layout = repr([(name, tuple(t.shape), str(t.dtype)) for name, t in tensors.items()])
    return {
        "name": task.name,
        "split": task.split,
        "form": task.form.to_dict(),
        "progress inputs": list(task.progress_inputs),
        "metric": identity(task.performance_metric.function),
        "direction": task.performance_metric.direction,
        "task loss": identity(task.task_loss),
        "preprocess": task.preprocess and identity(task.preprocess),
        "augment": task.augment and identity(task.augment),
        "output": identity(task.output) if callable(task.output) else task.output,
        "optimizer": optimizer_identity(task.optimizer, learner),
        "schedule": schedule_identity(task.schedule),
        "clip norm": task.clip_norm,
        "batch size": task.batch_size,
        "rejection steps": task.rejection_steps,
        "model": hashlib.blake2b(layout.encode(), digest_size=16).hexdigest(),
        "data": task.fingerprint(),
    }


def fingerprint(parts: Iterable[Part]) -> str:
    """A digest of data splits, equal if and only if all values are.

    Of lazily read ones, it is over length, types and a fixed sample.
    """
    digest = hashlib.blake2b(digest_size=16)
    parts = list(parts)
    digest.update("".join(name for data in parts for name in data.names()).encode())
    for tensor in [tensor for data in parts for tensor in data.tensors()]:
        digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        values = tensor.cpu().contiguous()
        flat = values.as_strided((values.numel(),), (1,))  # strides of dimensions of 1 may be 0
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
