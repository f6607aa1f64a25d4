"""Check that a model's outputs are raw and can reach the targets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from evomal.tasks.task import Task

_RANGES = {
    "Softmax": ("a softmax", 0.0, 1.0),
    "Sigmoid": ("a sigmoid", 0.0, 1.0),
    "Tanh": ("a tanh", -1.0, 1.0),
    "Relu": ("a ReLU", 0.0, math.inf),
    "Softplus": ("a softplus", 0.0, math.inf),
}
"""Description and range of a final operation, by its name in the autograd graph."""

_SHAPES = {
    *("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "T", "Permute"),
    *("Select", "Slice", "Clone", "ToCopy", "Alias"),
}
"""Operations that only change the shape."""


def check_outputs(task: Task, pred: Tensor) -> Iterator[str]:
    """Check that outputs are not probabilities where logits are expected, and reach the targets.

    `pred` are outputs for a few rows, with their autograd graph.
    """
    last = _RANGES.get(_last_operation(pred))
    if task.link == "softmax" and _sums_to_one(pred):
        last = _RANGES["Softmax"]
    if last is None:
        return
    name, low, high = last
    if task.link != "identity":
        yield (
            f"The model seems to end in {name}, but with link {task.link!r} it must return raw "
            f"outputs (logits), because the losses apply the {task.link}; remove that last layer."
        )
        return
    targets = task.train.targets
    outside = float(((targets < low) | (targets > high)).double().mean())
    if outside:
        limits = "of 0 or more" if high == math.inf else f"between {low:g} and {high:g}"
        yield (
            f"The model seems to end in {name} and so returns numbers {limits}, but "
            f"{outside:.1%} of the training targets are outside; remove that last layer, or scale "
            "the targets."
        )


def _sums_to_one(pred: Tensor) -> bool:
    total = pred.detach().double().sum(dim=1)
    is_share = bool(((pred >= 0) & (pred <= 1)).all())
    return pred.shape[1] > 1 and is_share and bool(((total - 1).abs() < 1e-2).all())


def _last_operation(pred: Tensor) -> str:
    """The name of the operation that computed a tensor, ignoring reshapes; "" if unknown."""
    node = pred.grad_fn
    while node is not None:
        name = node.name().rstrip("0123456789").removesuffix("Backward")
        if name not in _SHAPES:
            return name
        node = node.next_functions[0][0]
    return ""
