"""The rows of data sets and of memory maps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from evomal.arrays import read_array, stacked
from evomal.errors import InputError, TaskWarning, named, quoted
from evomal.seeding import derive_seed, isolated_rng
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.data import Data, Reading, read_inputs
from evomal.tasks.inputs import Inputs, columns_of, tensors_of
from evomal.tasks.labels import label_array
from evomal.tasks.memory import require_room

_ROWS_READ_TWICE = 20  # at most; a transform of half the rows is missed once in a million
_COPIES = 2  # of the rows in memory while they are read: one by one, and in one tensor


@dataclass(frozen=True)
class DatasetRows:
    """The rows of a map-style Dataset, each a pair (inputs, target) or a dict with ``"labels"``.

    Attributes
    ----------
    dataset
        The data set.
    part
        Its name in messages.
    """

    dataset: Dataset[Any]
    part: str

    def __len__(self) -> int:
        """Number of rows.

        Raises
        ------
        InputError
            If the data set has no length.
        """
        try:
            return len(self.dataset)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError) as error:
            raise InputError(
                f"The {self.part} data set has no length; give it a __len__, or pass a pair "
                "(inputs, targets) of arrays."
            ) from error

    def read(self, numbers: Sequence[int], reading: Reading) -> Data:
        """Some rows.

        Raises
        ------
        InputError
            If one cannot be read, or does not fit.
        """
        inputs, targets = self._columns(numbers, [self._row(i) for i in numbers])
        what = f"The {self.part} inputs"
        if isinstance(inputs, dict):
            inputs = {key: stacked(held, f"{what} {key!r}") for key, held in inputs.items()}
        elif isinstance(inputs, tuple):
            inputs = tuple(stacked(held, f"{what} {i}") for i, held in enumerate(inputs))
        else:
            inputs = stacked(inputs, what)
        return reading.data(inputs, targets, complete=False)

    def read_all(self) -> tuple[Any, list[Any]]:
        """All inputs and all targets, each row read once, in order.

        Reading is seeded, so that a data set that draws from the global generators gives the same
        task again, and a run on it can be resumed. Random transforms are allowed, because frozen
        noise can be intended. It rarely is: some rows are read twice, with a warning if they
        differ.
        """
        count = len(self)
        with isolated_rng(torch.device("cpu"), derive_seed("read", self.part)):
            rows = []
            for index in range(count):
                rows.append(self._row(index))
                if index == 0:  # all have the same shape
                    held = sum(tensor.nbytes for tensor in tensors_of(rows[0][0]))
                    require_room(self.part, _COPIES * count * held)
            twice = range(0, count, math.ceil(count / _ROWS_READ_TWICE)) if count else []
            changed = [i for i in twice if not _same(rows[i], self._row(i))]
        if changed:
            remedy = ", and pass the transforms as augment=, or pass in_memory=False"
            warnings.warn(
                f"Two reads of a row of the {self.part} data set differ ({len(changed)} of "
                f"{len(twice)} rows read twice), as with random transforms; a task reads every row "
                "only once, so nothing is augmented: pass the rows without random transforms"
                f"{remedy if self.part == 'training' else ''}.",
                TaskWarning,
                stacklevel=6,
            )
        return self._columns(range(count), rows)

    def _columns(
        self, numbers: Sequence[int], rows: Sequence[tuple[Inputs, Any]]
    ) -> tuple[Any, list[Any]]:
        """Inputs and targets of rows with these numbers."""
        for index, (inputs, _) in zip(numbers, rows, strict=True):
            if _names(inputs) != _names(rows[0][0]):
                raise InputError(
                    f"Row {index} of the {self.part} data set has other inputs than row "
                    f"{numbers[0]}: {_layout(inputs)}, not {_layout(rows[0][0])}; every row needs "
                    "the same."
                )
        return columns_of([row[0] for row in rows]), [row[1] for row in rows]

    def _row(self, index: int) -> tuple[Inputs, Any]:
        """Inputs and target, copied because a data set may reuse the memory; text as text."""
        try:
            row = self.dataset[index]
        except OWN_CODE_ERRORS as error:
            raise InputError(
                f"Row {index} of the {self.part} data set cannot be read: {named(error)}"
            ) from error
        if isinstance(row, Mapping) and "labels" in row:
            row = {key: held for key, held in row.items() if key != "labels"}, row["labels"]
        if isinstance(row, tuple | list) and len(row) == 2:
            what = f"The {self.part} targets"
            labels = label_array(row[1], what)
            target = read_array(row[1], what) if labels is None else labels.tolist()
            return read_inputs(row[0], f"The {self.part} inputs"), target
        if isinstance(row, Mapping):
            seen = f"dicts with the keys {quoted(list(row))}"
        elif isinstance(row, tuple | list):
            seen = f"of {len(row)} values"
        else:
            seen = f"of type {type(row).__name__}"
        raise InputError(
            f"The rows of the {self.part} data set must be pairs (input, target), but are {seen}; "
            "wrap the data set in another one that returns pairs, or dicts with the key 'labels'."
        )


@dataclass(frozen=True)
class MappedRows:
    """The rows of memory maps, or of arrays beside them; the targets are in memory.

    Attributes
    ----------
    inputs
        A tuple or dict, as the model gets them, or one.
    targets
        For every row.
    """

    inputs: Any
    targets: Tensor

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.targets)

    def read(self, numbers: Sequence[int], reading: Reading) -> Data:
        """Some rows.

        Raises
        ------
        InputError
            If a value is not finite.
        """
        rows = list(numbers)
        read = read_inputs(_rows(self.inputs, rows), f"The {reading.part} inputs")
        return Data(reading.inputs(read), self.targets[rows])


def _rows(inputs: Any, rows: list[int]) -> Any:
    if isinstance(inputs, dict):
        return {name: held[rows] for name, held in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(held[rows] for held in inputs)
    return inputs[rows]


def _names(inputs: Inputs) -> set[str] | int:
    """The names of a model's inputs, or their number."""
    if isinstance(inputs, dict):
        return set(inputs)
    return len(inputs) if isinstance(inputs, tuple) else 0


def _layout(inputs: Inputs) -> str:
    """Which tensors there are, for messages."""
    if isinstance(inputs, dict):
        return f"a dict with the keys {quoted(sorted(inputs))}"
    return f"a tuple of {len(inputs)}" if isinstance(inputs, tuple) else "one array"


def _same(one: tuple[Inputs, Any], other: tuple[Inputs, Any]) -> bool:
    """Whether two rows have the same values; NaN equals NaN."""
    if not (isinstance(one[1], Tensor) and isinstance(other[1], Tensor)):
        if one[1] != other[1]:
            return False
        one, other = (one[0], torch.zeros(0)), (other[0], torch.zeros(0))
    pairs = [[*tensors_of(inputs), target] for inputs, target in (one, other)]
    return _names(one[0]) == _names(other[0]) and all(
        a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
        for a, b in zip(*pairs, strict=True)
    )
