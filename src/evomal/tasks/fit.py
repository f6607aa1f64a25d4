"""Check that the parts of a task are compatible, on two rows of the data."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from evomal.errors import InputError, named, quoted
from evomal.losses.base import Loss
from evomal.losses.form import Form
from evomal.seeding import isolated_rng
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.data import Data
from evomal.tasks.inputs import count, is_inputs, rows_of, shapes_of, tensors_of
from evomal.tasks.metrics import PerformanceMetric
from evomal.tasks.named_metrics import require_suitable

if TYPE_CHECKING:
    from evomal.tasks.parts import Part
    from evomal.tasks.task import Task

_TWO = slice(0, 2)
_ROWS = 64  # per forward pass on a whole split


def require_transforms_fit(task: Task) -> None:
    """Run two rows of every split through `augment` and `preprocess`.

    Raises
    ------
    InputError
        If one fails or does not return inputs of a model.
    """
    with torch.no_grad(), isolated_rng(task.device, 0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of user functions; training shows them
        for part, data in _parts(task).items():
            _try_transforms(task, data, part)


def require_parts_fit(task: Task, learner: nn.Module) -> None:
    """Run two rows of every split through a learner, and its outputs through all functions.

    The learner is in eval mode afterwards.

    Raises
    ------
    InputError
        If a user function fails or returns the wrong thing, or outputs and targets do not match.
    """
    learner.eval()
    with torch.no_grad(), isolated_rng(task.device, 0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part, data in _parts(task).items():
            pred, target = _try_model(task, learner, data, part)
            _require_targets_fit(task.form, pred, target, data.targets, part)
        _try_task_loss(task, learner)
        metrics = (task.performance_metric, *task.report)
        require_suitable(metrics, task.form, pred)
        for metric in metrics:
            _try_metric(metric, task, learner)


def require_loss_fits(task: Task, loss: object) -> None:
    """Raise an `InputError` if a loss has another link or needs inputs that are missing."""
    if not isinstance(loss, Loss):
        raise InputError(
            "The loss must be an evomal loss, such as run.best.loss, evomal.load_loss(path) "
            f"or evomal.SymbolicLoss(...), got {quoted(loss)}."
        )
    if loss.link != task.link:
        raise InputError(
            f"The loss has link {loss.link!r}, but the task {task.name!r} needs {task.link!r}."
        )
    missing = [name for name in loss.required_inputs if name not in task.form.inputs]
    if missing:
        raise InputError(
            f"The loss depends on {', '.join(missing)}, which the task {task.name!r} does not "
            "provide."
        )


def _parts(task: Task) -> dict[str, Part]:
    parts = {"training": task.train, "validation": task.validation, "test": task.test}
    return {part: data for part, data in parts.items() if data is not None}


def _try_transforms(task: Task, data: Part, part: str) -> None:
    inputs = data.rows(_TWO).inputs
    rows, augment = count(inputs), task.augment if data is task.train else None
    for name, function in (("augment", augment), ("preprocess", task.preprocess)):
        if function is None:
            continue
        try:
            result: object = function(inputs)
        except OWN_CODE_ERRORS as error:
            raise InputError(
                f"The function {name} fails on the {part} inputs, {rows} rows of "
                f"{shapes_of(inputs)}: {named(error)}"
            ) from error
        if not is_inputs(result):
            raise InputError(
                f"The function {name} must return a tensor, or a tuple or dict of tensors, not "
                f"{quoted(result)}."
            )
        if any(one.ndim == 0 or len(one) != rows for one in tensors_of(result)):
            raise InputError(
                f"The function {name} must return as many rows as it gets, but returns "
                f"{shapes_of(result)} for {rows} {part} rows."
            )
        inputs = result


def _try_model(task: Task, learner: nn.Module, data: Part, part: str) -> tuple[Tensor, Tensor]:
    """Raw outputs and targets of two rows."""
    batch = task.batch(data, _TWO)
    inputs = batch.inputs
    try:
        pred = task.call(learner, inputs)
    except InputError:
        raise
    except OWN_CODE_ERRORS as error:
        is_float = not isinstance(inputs, Tensor) or inputs.is_floating_point()
        hint = "" if is_float else f" (of type {inputs.dtype}; features must be floats)"
        raise InputError(
            f"The model fails on the {part} inputs, two rows of "
            f"{shapes_of(data.rows(_TWO).inputs)}{hint}: {named(error)}"
        ) from error
    if not pred.is_floating_point():
        raise InputError(f"The model must return raw outputs as floats, not {pred.dtype}.")
    if not pred.isfinite().all():
        raise InputError(
            f"The untrained model returns NaN or infinity for {part} inputs; check its "
            "initialisation, the scale of the inputs, and preprocess."
        )
    return pred, batch.targets


def _require_targets_fit(
    form: Form, pred: Tensor, target: Tensor, known: Tensor, part: str
) -> None:
    """Compare the model's output on two rows with their targets, and with all known ones."""
    if form.link == "softmax":
        if pred.ndim < 2 or (len(pred), *pred.shape[2:]) != tuple(target.shape):
            is_column = target.ndim == pred.ndim == 2 and target.shape[1] == 1
            remedy = "; flatten the targets, as with .ravel()" if is_column else ""
            raise InputError(
                "With link 'softmax' the model must return logits (B, C) or (B, C, d1, ...), "
                f"but for targets of shape {tuple(target.shape)} it returns shape "
                f"{tuple(pred.shape)}{remedy}."
            )
        if form.weight is not None and len(form.weight) != pred.shape[1]:
            raise InputError(
                f"There are {len(form.weight)} class weights, but the model returns "
                f"{pred.shape[1]} logits."
            )
        classes = known[known != form.ignore_index]
        if not len(classes):
            raise InputError(f"All {part} targets equal ignore_index.")
        low, high = int(classes.min()), int(classes.max())
        if low < 0 or high >= pred.shape[1]:
            raise InputError(
                f"The model returns {pred.shape[1]} logits, but the {part} targets hold "
                f"classes {low} to {high}; they must lie between 0 and {pred.shape[1] - 1}."
            )
    elif pred.shape != target.shape:
        raise InputError(
            f"The model returns shape {tuple(pred.shape)} for {part} targets of shape "
            f"{tuple(target.shape)}; reshape one to match the other (there is no broadcasting)."
        )


def _try_task_loss(task: Task, learner: nn.Module) -> None:
    """On training rows."""
    loss = task.task_loss
    own = loss.inputs if isinstance(loss, Loss) else ()
    if isinstance(loss, Loss):
        task.require_fit(loss)

    def call(pred: Tensor, batch: Data) -> object:
        given = task.loss_inputs(batch, 0.0)
        extras = {name: value for name, value in given.items() if name in own}
        with torch.enable_grad():
            return loss(pred.requires_grad_().clone(), batch.targets.clone(), **extras)

    value = _try_function("task loss", call, task, learner, task.train)
    if not isinstance(value, Tensor):
        raise InputError(
            f"The task loss must return a tensor, but returns {quoted(value)}; compute it with "
            "torch's operations, without .item() or numpy."
        )
    if value.ndim > 0:
        raise InputError(
            f"The task loss must return one number, but returns shape {tuple(value.shape)}; "
            "reduce it, as with reduction='mean' or .mean()."
        )
    if not value.requires_grad:
        raise InputError(
            "The task loss has no gradient for the prediction; compute it with torch's "
            "operations, without .item(), .detach() or argmax."
        )


def _try_metric(metric: PerformanceMetric, task: Task, learner: nn.Module) -> None:
    """On validation rows."""
    name = f"metric {metric.name}" if metric in task.report else "metric"

    def call(pred: Tensor, batch: Data) -> object:
        return metric.function(pred, batch.targets.clone())

    try:
        value: Any = _try_function(name, call, task, learner, task.validation)
    except NameError:  # it refers to the task, which is not assigned yet
        return
    if isinstance(value, Tensor):
        is_number = value.numel() == 1 and not value.is_complex()
    else:
        is_number = isinstance(value, Real) or (isinstance(value, np.ndarray) and value.ndim == 0)
    if not is_number:
        is_array = isinstance(value, Tensor | np.ndarray)
        seen = f"an array of shape {tuple(value.shape)}" if is_array else quoted(value)
        raise InputError(f"The {name} must return one number, but returns {seen}.")


def _try_function(
    name: str,
    call: Callable[[Tensor, Data], object],
    task: Task,
    learner: nn.Module,
    data: Part,
) -> object:
    """The result of a function of outputs and rows for two rows.

    For all known rows if it fails on two, like some metrics when a class is missing.
    """

    def outputs(rows: Tensor) -> tuple[Tensor, Data]:
        batch = task.batch(data, rows)
        slices = [slice(start, start + _ROWS) for start in range(0, len(batch), _ROWS)]
        pieces = [task.call(learner, rows_of(batch.inputs, rows)) for rows in slices]
        return torch.cat(pieces), batch

    with contextlib.suppress(*OWN_CODE_ERRORS):
        return call(*outputs(data.known_rows[:2]))
    pred, batch = outputs(data.known_rows)
    try:
        return call(pred, batch)
    except OWN_CODE_ERRORS as error:
        raise InputError(
            f"The {name} fails ({named(error)}); it is called with the raw outputs of the model, "
            f"here of shape {tuple(pred.shape)}, and targets of shape "
            f"{tuple(batch.targets.shape)}."
        ) from error
