"""The rows of a task, and how they are read from user input."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from evomal.arrays import read_array
from evomal.errors import InputError, TaskWarning, named, quoted
from evomal.losses.form import Form, Link, class_weights
from evomal.seeding import derive_seed, isolated_rng
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.inputs import Inputs, columns_of, count, labelled, mapped, tensors_of

_ROWS_READ_TWICE = 20  # at most; a transform of half the rows is missed once in a million


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


Source = Data | Dataset[Any] | Sequence[Any]


def read_rows(source: Any, part: str, form: Form, dtype: torch.dtype) -> Data:
    """A data split as new tensors: floating-point values in `dtype`, class indices in int64.

    Raises
    ------
    InputError
        If there are no rows, a value is not finite, or the targets do not match the link.
    """
    given, given_targets = _pair(source, part)
    inputs = _read_inputs(given, f"The {part} inputs")
    targets = read_array(given_targets, f"The {part} targets")
    for what, values in [*_named(inputs, part), (f"The {part} targets", targets)]:
        if values.ndim == 0:
            raise InputError(f"{what} are a single number; pass an array with one row per sample.")
    _require_same_rows(inputs, targets, part)
    inputs = mapped(
        lambda values: values.to(dtype) if values.is_floating_point() else values, inputs
    )
    targets = _read_targets(targets, part, form, dtype)
    for what, values in [*_named(inputs, part), (f"The {part} targets", targets)]:
        _require_finite(values, f"{what} hold", dtype)
    return Data(inputs, targets)


def _named(inputs: Inputs, part: str) -> list[tuple[str, Tensor]]:
    """All tensors with their names in messages."""
    return [(f"The {part} inputs{label}", values) for label, values in labelled(inputs)]


def _require_same_rows(inputs: Inputs, targets: Tensor, part: str) -> None:
    rows = sorted({len(values) for values in tensors_of(inputs)})
    if rows == [len(targets)] and rows[0] > 0:
        return
    if isinstance(inputs, Tensor):
        raise InputError(
            f"The {part} data has {rows[0]} inputs and {len(targets)} targets; "
            "it needs the same number of each, at least one."
        )
    raise InputError(
        f"The {part} inputs are a {type(inputs).__name__} of arrays with "
        f"{' or '.join(map(str, rows[:3]))} rows for {len(targets)} targets, but each needs a row "
        "for every target, at least one; pass rows of a single input as a list or an array, "
        "because a tuple or dict holds several inputs."
    )


def _pair(source: Any, part: str) -> tuple[Any, Any]:
    """Inputs and targets in their original types."""
    if isinstance(source, Data):
        return source.inputs, source.targets
    if isinstance(source, DataLoader):
        raise InputError(f"The {part} data is a DataLoader; pass its data set, loader.dataset.")
    if isinstance(source, IterableDataset):
        raise InputError(
            f"The {part} data is an IterableDataset, which cannot be indexed; pass a map-style "
            "Dataset or a pair (inputs, targets) of arrays."
        )
    if isinstance(source, Dataset):
        return _read_dataset(source, part)
    if isinstance(source, tuple | list) and len(source) == 2:
        return source[0], source[1]
    kind = type(source)
    seen = "None" if source is None else f"of type {kind.__module__}.{kind.__qualname__}"
    if isinstance(source, tuple | list):
        seen = f"a {kind.__name__} of length {len(source)}"
    raise InputError(
        f"The {part} data must be a pair (inputs, targets) of tensors or arrays, or a map-style "
        f"Dataset of such pairs, but is {seen}."
    )


def _read_inputs(values: Any, what: str) -> Inputs:
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


def _read_dataset(source: Dataset[Any], part: str) -> tuple[Any, list[Tensor]]:
    """All inputs and all targets of a data set, each row read once, in order.

    Reading is seeded, so that a data set that draws from the global generators gives the same task
    again, and a run on it can be resumed. Random transforms are allowed, because frozen noise can
    be intended. It rarely is: some rows are read twice, with a warning if they differ.
    """
    try:
        count = len(source)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError) as error:
        raise InputError(
            f"The {part} data set has no length; give it a __len__, or pass a pair "
            "(inputs, targets) of arrays."
        ) from error
    with isolated_rng(torch.device("cpu"), derive_seed("read", part)):
        rows = [_read_row(source, index, part) for index in range(count)]
        twice = range(0, count, math.ceil(count / _ROWS_READ_TWICE)) if count else []
        changed = [i for i in twice if not _same(rows[i], _read_row(source, i, part))]
    if changed:
        remedy = ", and pass the transforms as augment=" if part == "training" else ""
        warnings.warn(
            f"Two reads of a row of the {part} data set differ ({len(changed)} of {len(twice)} "
            "rows read twice), as with random transforms; a task reads every row only once, so "
            f"nothing is augmented: pass the rows without random transforms{remedy}.",
            TaskWarning,
            stacklevel=7,
        )
    for index, (inputs, _) in enumerate(rows):
        if _layout(inputs) != _layout(rows[0][0]):
            raise InputError(
                f"Row {index} of the {part} data set has other inputs than row 0: "
                f"{_layout(inputs)}, not {_layout(rows[0][0])}; every row needs the same."
            )
    return columns_of([row[0] for row in rows]), [row[1] for row in rows]


def _layout(inputs: Inputs) -> str:
    """Which tensors there are, for messages."""
    if isinstance(inputs, dict):
        return f"a dict with the keys {quoted(sorted(inputs))}"
    return f"a tuple of {len(inputs)}" if isinstance(inputs, tuple) else "one array"


def _read_row(source: Dataset[Any], index: int, part: str) -> tuple[Inputs, Tensor]:
    """Inputs and target, copied because a data set may reuse the memory.

    A dict with the key ``"labels"``, as in Hugging Face's data sets, holds both.
    """
    try:
        row = source[index]
    except OWN_CODE_ERRORS as error:
        raise InputError(
            f"Row {index} of the {part} data set cannot be read: {named(error)}"
        ) from error
    if isinstance(row, Mapping) and "labels" in row:
        row = {key: held for key, held in row.items() if key != "labels"}, row["labels"]
    if isinstance(row, tuple | list) and len(row) == 2:
        return _read_inputs(row[0], f"The {part} inputs"), read_array(row[1], f"The {part} targets")
    if isinstance(row, Mapping):
        seen = f"dicts with the keys {quoted(list(row))}"
    elif isinstance(row, tuple | list):
        seen = f"of {len(row)} values"
    else:
        seen = f"of type {type(row).__name__}"
    raise InputError(
        f"The rows of the {part} data set must be pairs (input, target), but are {seen}; wrap the "
        "data set in another one that returns pairs, or dicts with the key 'labels'."
    )


def _same(one: tuple[Inputs, Tensor], other: tuple[Inputs, Tensor]) -> bool:
    """Whether two rows have the same values; NaN equals NaN."""
    pairs = [[*tensors_of(inputs), target] for inputs, target in (one, other)]
    return _layout(one[0]) == _layout(other[0]) and all(
        a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
        for a, b in zip(*pairs, strict=True)
    )


def read_extras(given: Mapping[str, Any], train: Data, dtype: torch.dtype) -> dict[str, Tensor]:
    """Extra inputs of the loss: a number for every training row or for every target.

    ``"progress"`` is left out.

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
        if values.ndim == 0 or values.shape != train.targets.shape[: values.ndim]:
            raise InputError(
                f"The loss input {name!r} has shape {tuple(values.shape)}, but the training "
                f"targets {tuple(train.targets.shape)}; it needs one value per row or per target."
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


def _read_targets(targets: Tensor, part: str, form: Form, dtype: torch.dtype) -> Tensor:
    if form.link == "softmax":
        if targets.is_floating_point() or targets.ndim == 0:
            raise InputError(
                f"With link 'softmax' the {part} targets must be class indices of shape (n,) or "
                f"(n, d1, ...) and an integer type, but have shape {tuple(targets.shape)} and type "
                f"{targets.dtype}."
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
