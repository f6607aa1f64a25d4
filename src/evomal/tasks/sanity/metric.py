"""Check a metric and its direction on synthetic predictions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomal.errors import InputError, first_line
from evomal.losses.form import Form
from evomal.seeding import derive_generator, isolated_rng
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.classes import class_name, held_classes
from evomal.tasks.direction import own_value
from evomal.tasks.metrics import PerformanceMetric

if TYPE_CHECKING:
    from evomal.tasks.parts import Part
    from evomal.tasks.task import Task

SURE = 10.0
"""The logit of a perfect prediction: a probability of 0.99995 in float16, too."""

MOST_OUTPUTS = 50_000_000
"""Maximum number of elements of synthetic predictions; a larger split is not checked."""

_NAMES = 5
"""Maximum number of classes named in a message."""

_ADVICE = {
    "minimize": ("minimise", "higher", "pass"),
    "maximize": ("maximise", "lower", "omit"),
}


def check_metric(task: Task, pred: Tensor) -> Iterator[str]:
    """Check that the metric is defined, and better for perfect predictions than for wrong ones.

    `pred` are outputs for a few rows; they give the number of classes and the dtype. A metric that
    refers to the task, which is not assigned yet, cannot be checked.

    Raises
    ------
    InputError
        If it is undefined on the validation data even for perfect predictions.
    """
    parts = {"validation": task.validation} | ({"test": task.test} if task.test else {})
    for part, data in parts.items():
        if pred[0].numel() * len(data.targets) > MOST_OUTPUTS:
            continue
        perfect = perfect_predictions(data.targets, task.form, pred)
        shuffled, opposite = _wrong_predictions(perfect, task.form)
        try:
            value, problem = judged(task, perfect, data)
            if not math.isfinite(value):  # for example, the logarithm of an error of 0
                wrong = shuffled if task.link == "identity" else opposite
                tenth = torch.arange(len(perfect), device=perfect.device) % 10 == 0
                perfect[tenth] = wrong[tenth]
                value, _ = judged(task, perfect, data)
        except NameError:
            return
        if not math.isfinite(value) and len(data.targets) < len(data):
            continue  # the metric may be defined on all rows
        if not math.isfinite(value):
            message = _undefined(task, part, data, pred, problem)
            if part == "validation":
                raise InputError(message)
            yield message
        elif part == "validation":
            values = [judged(task, made_up, data)[0] for made_up in (shuffled, opposite)]
            yield from _check_direction(task.performance_metric, value, *values)


def perfect_predictions(targets: Tensor, form: Form, pred: Tensor) -> Tensor:
    """Raw outputs that predict the targets, in dtype and number of classes like `pred`."""
    if form.link == "identity":
        return targets.clone()
    if form.link == "sigmoid":
        nearly_zero = 1 / (1 + math.exp(SURE))
        return targets.double().logit(nearly_zero).to(pred.dtype)
    classes = torch.where(targets == form.ignore_index, 0, targets).unsqueeze(1)
    shape = len(targets), pred.shape[1], *targets.shape[1:]
    logits = torch.full(shape, -SURE, dtype=pred.dtype, device=targets.device)
    return logits.scatter_(1, classes, SURE)


def _wrong_predictions(perfect: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """Shuffled predictions, and the opposite of each."""
    order = torch.from_numpy(derive_generator(0, "metric").permutation(len(perfect)))
    shuffled = perfect[order.to(perfect.device)]
    if form.link == "identity":
        return shuffled, 2 * perfect.mean(dim=0) - perfect
    return shuffled, -perfect


def judged(task: Task, pred: Tensor, data: Part) -> tuple[float, str]:
    """The metric of synthetic predictions, NaN if it fails; and a phrase for messages."""
    try:
        with warnings.catch_warnings(), torch.no_grad(), isolated_rng(task.device, 0):
            warnings.simplefilter("ignore")  # they would be about synthetic predictions
            value = float(task.metric(pred.clone(), data.targets.clone()))
    except OWN_CODE_ERRORS as error:
        return math.nan, f"fails ({type(error).__name__}: {first_line(error)})"
    return value, f"is {value}"


def _undefined(task: Task, part: str, data: Part, pred: Tensor, problem: str) -> str:
    start = f"The metric {problem} on the {part} data even for perfect predictions"
    missing = _missing_classes(task, data, pred)
    if missing:
        return (
            f"{start}, probably because no row there has {missing}; split the rows so that every "
            "split has all classes, or choose a metric that is defined without them."
        )
    return (
        f"{start}; it is called with the raw outputs of the model, here of shape "
        f"{(len(data), *pred.shape[1:])}, and targets of shape {tuple(data.targets.shape)}, and "
        "must return a finite number."
    )


def _missing_classes(task: Task, data: Part, pred: Tensor) -> str:
    """The classes missing from a split, with their training row counts; "" if none."""
    training, here = (held_classes(d.targets, task.form) for d in (task.train, data))
    if training is None or here is None:
        return ""
    labels = 1 if data.targets.ndim != 2 else data.targets.shape[1]
    count = pred.shape[1] if task.link == "softmax" else 2 * labels
    missing = (here[here >= 0].bincount(minlength=count) == 0).nonzero()[:, 0].tolist()
    named = [
        f"{class_name(index, task.form, labels, task.classes)} "
        f"({int((training == index).any(dim=1).sum())} of {len(training)} training rows)"
        for index in missing[:_NAMES]
    ]
    more = [f"{len(missing) - _NAMES} more"] if len(missing) > _NAMES else []
    return ", ".join(named + more)


def _check_direction(
    metric: PerformanceMetric, perfect: float, shuffled: float, opposite: float
) -> Iterator[str]:
    """Perfect predictions must score better than wrong ones; the values are minimised ones."""
    wrong = {"shuffled": shuffled, "opposite": opposite}
    finite = {kind: value for kind, value in wrong.items() if math.isfinite(value)}
    if finite and all(_is_above(perfect, value) for value in finite.values()):
        kind, value = next(iter(finite.items()))
        best, other = (own_value(number, metric.direction) for number in (perfect, value))
        verb, higher, remedy = _ADVICE[metric.direction]
        yield (
            f"The metric is {best:.4g} for perfect predictions of the validation data and "
            f"{other:.4g} for {kind} ones, but searches {verb} it. If {higher} is better, "
            f"{remedy} maximize=True."
        )


def _is_above(one: float, other: float) -> bool:
    return one > other and not math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12)
