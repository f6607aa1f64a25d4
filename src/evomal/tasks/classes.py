"""The classes in the rows of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from evomal.errors import quoted
from evomal.losses.form import Form
from evomal.seeding import derive_generator

if TYPE_CHECKING:
    from evomal.tasks.labels import Label
    from evomal.tasks.parts import Part

FEW_ROWS = 3
"""Minimum rows per class in a sample."""


def held_classes(targets: Tensor, form: Form) -> Tensor | None:
    """The classes of every row, int64 (n, k), padded with -1.

    With ``"softmax"`` they are the class indices that are not ignored. With ``"sigmoid"`` label l
    is class 2l if it is 0 and 2l + 1 if it is 1; targets with more than two dimensions have a
    single label. None for regression.
    """
    if form.link == "identity":
        return None
    if form.link == "softmax":
        classes = targets.reshape(len(targets), -1)
        return torch.where(classes == form.ignore_index, -1, classes)
    positive = targets.reshape(len(targets), -1).gt(0.5).long()
    labels = torch.arange(positive.shape[1] if targets.ndim <= 2 else 1, device=targets.device)
    return positive + 2 * labels


def class_name(index: int, form: Form, labels: int, names: Sequence[Label] | None) -> str:
    """The name of a class of `held_classes` in messages, for rows with `labels` labels.

    `names` are those of the task's classes, if they have any.
    """
    if form.link == "softmax":
        return f"class {_named(index, names)}"
    label, index = divmod(index, 2)
    value = _named(index, names)
    return f"target {value}" if labels == 1 else f"target {value} of label {label}"


def _named(index: int, names: Sequence[Label] | None) -> str:
    return str(index) if names is None or index >= len(names) else quoted(names[index])


def fixed_sample(part: Part, count: int, form: Form, name: str) -> Part:
    """At most `count` rows, with every class if possible; the same for a task of this name."""
    if count >= len(part):
        return part
    rng = derive_generator("validation-rows", name)
    drawn = torch.from_numpy(rng.choice(len(part.targets), count, replace=False))
    classes = held_classes(part.targets, form)
    if classes is not None:
        drawn = with_every_class(drawn, classes.cpu(), rng)
    return part.taken(drawn.sort().values.to(part.targets.device))


def with_every_class(rows: Tensor, classes: Tensor, rng: np.random.Generator) -> Tensor:
    """Replace as few rows of a sample as necessary to include every class a few times.

    At least `FEW_ROWS` rows of each class, or all of them; fewer, but at least one, if `FEW_ROWS`
    of each would fill more than half of the sample. A sample with fewer rows than classes is
    returned unchanged.

    Parameters
    ----------
    rows
        The sample: distinct row numbers (b,).
    classes
        The classes of all rows, from `held_classes`.
    rng
        Draws the new rows.
    """
    counts = classes[classes >= 0].bincount()
    present = counts.nonzero()[:, 0]
    if not 0 < len(present) <= len(rows) < len(classes):
        return rows
    columns = torch.full((len(counts) + 1,), len(present), device=classes.device)
    columns[present] = torch.arange(len(present), device=classes.device)  # the last is for -1
    holds = torch.zeros(len(classes), len(present) + 1, dtype=torch.bool, device=classes.device)
    held = holds.scatter_(1, columns[classes], True)[:, :-1].cpu().numpy()

    drawn = rows.cpu().numpy()
    few = max(1, min(FEW_ROWS, len(drawn) // (2 * len(present))))
    number = held.sum(axis=0)
    others = rng.permutation(np.setdiff1d(np.arange(len(held)), drawn))
    order = np.concatenate([drawn, others])  # the drawn rows are used first
    chosen = np.zeros(len(held), dtype=bool)
    for column in np.argsort(number, kind="stable"):
        candidates = order[held[order, column]]
        missing = min(few, number[column]) - chosen[candidates].sum()
        chosen[candidates[~chosen[candidates]][: max(0, missing)]] = True
    new = others[chosen[others]]
    free = np.flatnonzero(~chosen[drawn])
    sample = drawn.copy()
    sample[free[len(free) - len(new) :]] = new
    return torch.from_numpy(sample).to(rows.device)
