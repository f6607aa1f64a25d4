"""Whether a model's outputs are raw, and can be what the targets are."""

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
"""What a last operation is called and between which values it lies, by its name in a graph."""

_SHAPES = {
    *("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "T", "Permute"),
    *("Select", "Slice", "Clone", "ToCopy", "Alias"),
}
"""Operations that change the shape only."""


def check_outputs(task: Task, pred: Tensor) -> Iterator[str]:
    """Whether outputs are probabilities where logits are expected, or cannot reach the targets.

    `pred` are outputs for a few rows, with the graph of the operations that led to them.
    """
    last = _RANGES.get(_last_operation(pred))
    if task.link == "softmax" and _sums_to_one(pred):
        last = _RANGES["Softmax"]
    if last is None:
        return
    name, low, high = last
    if task.link != "identity":
        yield (
            f"It looks as if the model ends in {name}, but with link {task.link!r} it must return "
            f"raw outputs (logits), of which the losses take the {task.link} themselves; leave "
            "that last layer out."
        )
        return
    targets = task.train.targets
    outside = float(((targets < low) | (targets > high)).double().mean())
    if outside:
        limits = "0 or more" if high == math.inf else f"between {low:g} and {high:g}"
        yield (
            f"It looks as if the model ends in {name} and so returns numbers {limits}, but "
            f"{outside:.1%} of the training targets are not; leave that last layer out, or scale "
            "the targets."
        )


def _sums_to_one(pred: Tensor) -> bool:
    total = pred.detach().double().sum(dim=1)
    is_share = bool(((pred >= 0) & (pred <= 1)).all())
    return pred.shape[1] > 1 and is_share and bool(((total - 1).abs() < 1e-2).all())


def _last_operation(pred: Tensor) -> str:
    """The name of what computed a tensor, apart from changes of its shape; "" if not known."""
    node = pred.grad_fn
    while node is not None:
        name = node.name().rstrip("0123456789").removesuffix("Backward")
        if name not in _SHAPES:
            return name
        node = node.next_functions[0][0]
    return ""
