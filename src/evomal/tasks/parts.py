"""The parts of a task, in memory or read lazily, from whatever a user holds them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from evomal.arrays import read_array
from evomal.errors import InputError
from evomal.tasks import arguments
from evomal.tasks.classes import fixed_sample
from evomal.tasks.data import Data, Reading
from evomal.tasks.labels import Labels
from evomal.tasks.lazy import LazyData, RowReader, read_lazily
from evomal.tasks.memory import require_room
from evomal.tasks.memory_maps import is_mapped, mapped_array
from evomal.tasks.rows import DatasetRows, MappedRows

if TYPE_CHECKING:
    from evomal.tasks.task import Task

Part = Data | LazyData
"""The rows of a part of a task."""

Source = Part | Dataset[Any] | Sequence[Any]
"""What a part of a task can be read from."""


@dataclass(frozen=True)
class PartReader:
    """Reads the parts of a task, the training rows first.

    Attributes
    ----------
    task
        The task, of which the form, device and name are used.
    dtype
        Of floating-point values.
    labels
        The classes of the task.
    in_memory
        Whether to read all rows at once; otherwise Datasets and memory maps are read lazily.
    loader_workers
        Processes that read ahead.
    """

    task: Task
    dtype: torch.dtype
    labels: Labels
    in_memory: bool
    loader_workers: int

    def __post_init__(self) -> None:
        arguments.flag(self.in_memory, "argument in_memory")
        arguments.whole_number(self.loader_workers, "number of loader workers", 0)
        if self.in_memory and self.loader_workers:
            raise InputError("Loader workers need in_memory=False, or omit loader_workers.")

    def read(self, source: Any, part: str, most: int | None = None) -> Part:
        """One part: all rows, or a fixed sample of at most `most`.

        Raises
        ------
        InputError
            If there are no rows, they do not fit, or they do not fit into memory.
        """
        if most is None:
            return self._whole(source, part)
        most = arguments.whole_number(most, f"number of {part} rows", 1)
        return fixed_sample(self._whole(source, part, most), most, self.task.form, self.task.name)

    def _whole(self, source: Any, part: str, sample: int = 0) -> Part:
        """All rows; of lazily read ones, at least `sample` are known."""
        reading = Reading(part, self.task.form, self.dtype, self.labels)
        if isinstance(source, Data):
            source = source.inputs, source.targets
        if isinstance(source, LazyData):
            return self._lazily(source.reader.source, reading, sample, source.reader.selected)
        if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
            rows = DatasetRows(source, part)
            if not self.in_memory:
                return self._lazily(rows, reading, sample)
            return reading.data(*rows.read_all()).to(self.task.device)
        inputs, targets = _pair(source, part)
        if not self.in_memory and any(map(is_mapped, _columns(inputs))):
            return self._lazily(_mapped_rows(inputs, targets, reading), reading, sample)
        arrays = [values for values in _columns(inputs) if isinstance(values, np.ndarray)]
        require_room(part, sum(values.nbytes for values in arrays))
        return reading.data(inputs, targets).to(self.task.device)

    def _lazily(
        self,
        source: DatasetRows | MappedRows,
        reading: Reading,
        sample: int,
        selected: Tensor | None = None,
    ) -> LazyData:
        reader = RowReader(source, reading, selected)
        return read_lazily(reader, self.loader_workers, sample).to(self.task.device)


def _pair(source: Any, part: str) -> tuple[Any, Any]:
    """Inputs and targets in their original types."""
    if isinstance(source, DataLoader):
        raise InputError(f"The {part} data is a DataLoader; pass its data set, loader.dataset.")
    if isinstance(source, IterableDataset):
        raise InputError(
            f"The {part} data is an IterableDataset, which cannot be indexed; pass a map-style "
            "Dataset or a pair (inputs, targets) of arrays."
        )
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


def _columns(inputs: Any) -> list[Any]:
    """Every array of the inputs of a model."""
    if isinstance(inputs, Mapping):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, tuple) else [inputs]


def _mapped_rows(inputs: Any, targets: Any, reading: Reading) -> MappedRows:
    """Inputs of which at least one is a memory map, and targets, which are read."""

    def column(values: Any, label: str = "") -> Any:
        what = f"The {reading.part} inputs{label}"
        return mapped_array(values, what) if is_mapped(values) else read_array(values, what)

    found: Any
    if isinstance(inputs, Mapping):
        found = {name: column(values, f" {name!r}") for name, values in inputs.items()}
    elif isinstance(inputs, tuple):
        found = tuple(column(values, f" {i}") for i, values in enumerate(inputs))
    else:
        found = column(inputs)
    read = reading.targets(reading.labels.read(targets, f"The {reading.part} targets"))
    reading.require_same_rows(inputs, [len(values) for values in _columns(found)], len(read))
    return MappedRows(found, read)
