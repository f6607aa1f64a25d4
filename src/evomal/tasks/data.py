"""The rows of a task in memory, and how they are read from arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evomal.arrays import read_array
from evomal.errors import InputError, quoted
from evomal.losses.form import Form, Link, class_weights
from evomal.tasks.inputs import Inputs, count, labelled, mapped, rows_of, tensors_of
from evomal.tasks.labels import Labels


@dataclass(frozen=True)
class Data:
    """Rows as tensors: `inputs` (n, …) and `targets` (n,) or (n, …).

    `inputs` are `evomal.tasks.inputs.Inputs`: a tensor, or a tuple or dict of tensors (n, …).
    `extras` are extra inputs of the loss by name, each (n,) or (n, …) like the targets.
    """

    inputs: Any
    targets: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows."""
        return count(self.inputs)

    @property
    def known_rows(self) -> Tensor:
        """The rows that `targets` belong to: all."""
        return torch.arange(len(self), device=self.targets.device)

    def rows(self, rows: Tensor | slice) -> Data:
        """Some rows; never a view, because a model may work in place."""
        extras = {name: values[rows] for name, values in self.extras.items()}
        return Data(rows_of(self.inputs, rows), self.targets[rows], extras)

    def each(self, batches: Iterable[Tensor | slice]) -> Iterator[Data]:
        """The rows of every batch in turn."""
        return map(self.rows, batches)

    def taken(self, places: Tensor) -> Data:
        """Some rows as all rows of a part."""
        return self.rows(places)

    def names(self) -> list[str]:
        """The names of several inputs."""
        return [label for label, _ in labelled(self.inputs) if label]

    def tensors(self) -> Iterator[Tensor]:
        """All tensors."""
        yield from (*tensors_of(self.inputs), self.targets, *self.extras.values())

    def to(self, device: torch.device) -> Data:
        """The same rows on another device."""
        extras = {name: values.to(device) for name, values in self.extras.items()}
        inputs = mapped(lambda tensor: tensor.to(device), self.inputs)
        return Data(inputs, self.targets.to(device), extras)

    def to_dtype(self, dtype: torch.dtype) -> Data:
        """The same rows with all floating-point values in another dtype."""

        def converted(values: Tensor) -> Tensor:
            return values.to(dtype) if values.is_floating_point() else values

        extras = {name: converted(values) for name, values in self.extras.items()}
        return Data(mapped(converted, self.inputs), converted(self.targets), extras)


@dataclass(frozen=True)
class Reading:
    """How the rows of a part are read.

    Attributes
    ----------
    part
        The name of the part in messages.
    form
        The form of the task's losses.
    dtype
        Of floating-point values.
    labels
        The classes of the task.
    """

    part: str
    form: Form
    dtype: torch.dtype
    labels: Labels

    def data(self, inputs: Any, targets: Any, *, complete: bool = True) -> Data:
        """Rows as new tensors: floating-point values in `dtype`, class indices in int64.

        Rows that are not `complete` are some of a part.

        Raises
        ------
        InputError
            If there are no rows, a value is not finite, or the targets do not match the link.
        """
        read = read_inputs(inputs, f"The {self.part} inputs")
        found = self.labels.read(targets, f"The {self.part} targets", complete=complete)
        for label, values in [*labelled_inputs(read), ("targets", found)]:
            if values.ndim == 0:
                raise InputError(
                    f"The {self.part} {label} are a single value; pass an array with one row per "
                    "sample."
                )
        self.require_same_rows(read, [len(one) for one in tensors_of(read)], len(found))
        return Data(self.inputs(read), self.targets(found))

    def inputs(self, read: Inputs) -> Inputs:
        """Tensors of inputs in `dtype`, checked."""
        cast = mapped(lambda x: x.to(self.dtype) if x.is_floating_point() else x, read)
        for label, values in labelled_inputs(cast):
            _require_finite(values, f"The {self.part} {label} hold", self.dtype)
        return cast

    def targets(self, read: Tensor) -> Tensor:
        """A tensor of targets in the type that the link needs, checked."""
        if self.form.link == "softmax":
            if read.is_floating_point() or read.ndim == 0:
                raise InputError(
                    f"With link 'softmax' the {self.part} targets must be class indices of shape "
                    f"(n,) or (n, d1, ...) and an integer type, but have shape "
                    f"{tuple(read.shape)} and type {read.dtype}."
                )
            return read.long()
        cast = read.to(self.dtype)
        _require_finite(cast, f"The {self.part} targets hold", self.dtype)
        if self.form.link == "sigmoid" and bool(((cast < 0) | (cast > 1)).any()):
            raise InputError(f"With link 'sigmoid' the {self.part} targets must lie in [0, 1].")
        return cast

    def require_same_rows(self, inputs: Any, rows: Sequence[int], targets: int) -> None:
        """Raise an `InputError` unless all inputs, with so many rows each, have as many targets."""
        counts = sorted(set(rows))
        if counts == [targets] and targets > 0:
            return
        if not isinstance(inputs, tuple | Mapping):
            raise InputError(
                f"The {self.part} data has {counts[0]} inputs and {targets} targets; "
                "it needs the same number of each, at least one."
            )
        raise InputError(
            f"The {self.part} inputs are a {type(inputs).__name__} of arrays with "
            f"{' or '.join(map(str, counts[:3]))} rows for {targets} targets, but each needs a row "
            "for every target, at least one; pass rows of a single input as a list or an array, "
            "because a tuple or dict holds several inputs."
        )


def labelled_inputs(inputs: Inputs) -> list[tuple[str, Tensor]]:
    """All tensors with their names in messages."""
    return [(f"inputs{label}", values) for label, values in labelled(inputs)]


def read_inputs(values: Any, what: str) -> Inputs:
    """The inputs of all rows, or of one: an array, or a tuple or dict of arrays."""
    if isinstance(values, Mapping):
        wrong = [key for key in values if not isinstance(key, str)]
        if wrong or not values:
            seen = f"with the key {quoted(wrong[0])}" if wrong else "without keys"
            raise InputError(
                f"{what} are a dict {seen}; its keys must be names of arguments of the model."
            )
        return {key: read_array(values[key], f"{what} {key!r}") for key in sorted(values)}
    if isinstance(values, tuple) and values:
        return tuple(read_array(held, f"{what} {i}") for i, held in enumerate(values))
    return read_array(values, what)


def read_extras(
    given: Mapping[str, Any], shape: tuple[int, ...], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Extra inputs of the loss: a number for every training row or for every target.

    ``"progress"`` is left out; `shape` is that of the training targets.

    Raises
    ------
    InputError
        If there are more or fewer rows, or a value is not finite.
    """
    extras = {}
    for name, source in given.items():
        if isinstance(source, str) and source == "progress":
            continue
        if isinstance(source, str):
            raise InputError(
                f"The loss input {name!r} must be 'progress' or an array with one value per "
                f"training row, got {quoted(source)}."
            )
        values = read_array(source, f"The values of the loss input {name!r}").to(dtype)
        if values.ndim == 0 or values.shape != shape[: values.ndim]:
            raise InputError(
                f"The loss input {name!r} has shape {tuple(values.shape)}, but the training "
                f"targets {shape}; it needs one value per row or per target."
            )
        _require_finite(values, f"The loss input {name!r} holds", dtype)
        extras[name] = values
    return extras


def read_class_weights(weight: Any, link: Link) -> tuple[float, ...] | None:
    """Class weights as numbers; None without any.

    Raises
    ------
    InputError
        If they are not numbers of at least 0, all are 0, or the link is not softmax.
    """
    if weight is None:
        return None
    if isinstance(weight, Mapping | str):
        raise InputError(
            "The class weights must be a list of numbers, one per class in the order of the class "
            f"indices, got {quoted(weight)}."
        )
    weights = class_weights(read_array(weight, "The class weights"), link)
    if not weights.any():
        raise InputError("The class weights are all 0; at least one must be above 0.")
    return tuple(weights.tolist())


def _require_finite(values: Tensor, start: str, dtype: torch.dtype) -> None:
    if values.is_floating_point() and not values.isfinite().all():
        raise InputError(
            f"{start} NaN, infinity or numbers too large for {dtype}; remove or impute those rows "
            "first."
        )
