"""The rows of a task: what they are held as, and how they are read from what a user gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from evomal.errors import InputError
from evomal.losses.form import Form
from evomal.tasks.checks import first_line


@dataclass(frozen=True)
class Data:
    """Rows held as tensors: `inputs` (n, …) and `targets` (n,) or (n, …).

    `extras` are further inputs of the loss by name, each (n,) or (n, …) as the targets.
    """

    inputs: Tensor
    targets: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.inputs)

    def tensors(self) -> Iterator[Tensor]:
        """All of them."""
        yield from (self.inputs, self.targets, *self.extras.values())

    def to(self, device: torch.device) -> Data:
        """The same rows on another device."""
        extras = {name: values.to(device) for name, values in self.extras.items()}
        return Data(self.inputs.to(device), self.targets.to(device), extras)

    def clone(self) -> Data:
        """The same rows in memory of their own."""
        extras = {name: values.clone() for name, values in self.extras.items()}
        return Data(self.inputs.clone(), self.targets.clone(), extras)


Source = Data | Dataset[Any] | Sequence[Any]


def read_rows(source: Any, part: str, form: Form, dtype: torch.dtype) -> Data:
    """A data split as tensors; floating values in `dtype`, class indices as int64.

    Raises
    ------
    InputError
        If there are no rows, a value is not finite, or targets do not suit the link.
    """
    try:
        if isinstance(source, Dataset):
            source = default_collate([source[i] for i in range(len(source))])  # type: ignore[arg-type]
        elif isinstance(source, Data):
            source = (source.inputs, source.targets)
        inputs, targets = map(_as_tensor, source)
        rows = len(inputs), len(targets)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise InputError(
            f"The {part} data must be a pair (inputs, targets) of tensors or a map-style "
            f"Dataset of such pairs ({first_line(error)})."
        ) from error
    if rows[0] != rows[1] or rows[0] == 0:
        raise InputError(
            f"The {part} data has {rows[0]} inputs and {rows[1]} targets; "
            "it needs equally many, at least one."
        )
    if inputs.is_floating_point():
        inputs = inputs.to(dtype)
    targets = _read_targets(targets, part, form, dtype)
    for kind, values in [("inputs", inputs), ("targets", targets)]:
        _require_finite(values, f"The {part} {kind} hold", dtype)
    return Data(inputs, targets)


def read_extras(given: Mapping[str, Any], train: Data, dtype: torch.dtype) -> dict[str, Tensor]:
    """Further inputs of the loss: for every training row a number, or one for each target.

    ``"progress"`` in the place of numbers is left out.

    Raises
    ------
    InputError
        If there are more or fewer rows, or a value is not finite.
    """
    extras = {}
    for name, source in given.items():
        if isinstance(source, str) and source == "progress":
            continue
        try:
            values = _as_tensor(source).to(dtype)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"The loss input {name!r} must be 'progress' or a tensor with one value per "
                f"training row ({first_line(error)})."
            ) from error
        if values.ndim == 0 or values.shape != train.targets.shape[: values.ndim]:
            raise InputError(
                f"The loss input {name!r} has shape {tuple(values.shape)}, but the training "
                f"targets {tuple(train.targets.shape)}; it needs one value per row or per target."
            )
        _require_finite(values, f"The loss input {name!r} holds", dtype)
        extras[name] = values
    return extras


def _read_targets(targets: Tensor, part: str, form: Form, dtype: torch.dtype) -> Tensor:
    if form.link == "softmax":
        if targets.is_floating_point() or targets.ndim == 0:
            raise InputError(
                f"With link 'softmax' the {part} targets must be class indices of shape (n,) or "
                f"(n, d1, ...), but have shape {tuple(targets.shape)} and type {targets.dtype}."
            )
        return targets.long()
    targets = targets.to(dtype)
    if form.link == "sigmoid" and bool(((targets < 0) | (targets > 1)).any()):
        raise InputError(f"With link 'sigmoid' the {part} targets must lie in [0, 1].")
    return targets


def _require_finite(values: Tensor, start: str, dtype: torch.dtype) -> None:
    if values.is_floating_point() and not values.isfinite().all():
        raise InputError(
            f"{start} NaN, infinity or numbers too large for {dtype}; remove or impute those rows "
            "first."
        )


def _as_tensor(values: Any) -> Tensor:
    """A tensor of an array; a read-only array, such as a memory map, is copied."""
    if isinstance(values, np.ndarray) and not values.flags.writeable:
        values = values.copy()
    return torch.as_tensor(values).detach()
