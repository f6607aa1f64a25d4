"""Check that the training rows contain the classes of the other splits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from evomal.tasks.classes import class_name, held_classes
from evomal.tasks.metrics import error_rate

if TYPE_CHECKING:
    from evomal.tasks.task import Task

_NAMES = 5
"""Maximum number of classes named in a message."""


def check_classes(task: Task) -> Iterator[str]:
    """Check that the training rows contain several classes, and all those of the other splits."""
    training = held_classes(task.train.targets, task.form)
    if training is None or len(training) < len(task.train):  # other rows may have other classes
        return
    labels = task.train.targets.shape[1] if task.train.targets.ndim == 2 else 1
    own = _present(training)
    if task.link == "softmax" and len(own) == 1:
        name = class_name(own.pop(), task.form, labels, task.classes)
        yield (
            f"All training rows have {name}, so there is nothing to learn; check the targets, and "
            "shuffle the rows before splitting."
        )
        return
    parts = {"validation": task.validation} | ({"test": task.test} if task.test else {})
    for part, data in parts.items():
        classes = held_classes(data.targets, task.form)
        assert classes is not None
        missing = sorted(_present(classes) - own)
        if missing:
            names = ", ".join(
                class_name(one, task.form, labels, task.classes) for one in missing[:_NAMES]
            )
            more = f" and {len(missing) - _NAMES} more" if len(missing) > _NAMES else ""
            yield (
                f"No training row has {names}{more}, but the {part} rows do; shuffle the rows "
                "before splitting."
            )
    targets = task.train.targets
    fractions = ((targets > 0) & (targets < 1)).double().mean()
    if task.link == "sigmoid" and task.metric is error_rate and fractions > 0:
        yield (
            f"{float(fractions):.1%} of the training targets lie between 0 and 1, but the default "
            "metric needs targets of 0 or 1; give a metric for such targets."
        )


def _present(classes: Tensor) -> set[int]:
    return set(classes[classes >= 0].tolist())
