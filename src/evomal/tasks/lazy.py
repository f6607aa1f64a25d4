"""Rows that are read batch by batch, for data that does not fit into memory."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from multiprocessing import current_process
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from evomal.errors import InputError
from evomal.seeding import derive_generator, derive_seed, isolated_rng
from evomal.tasks.data import Data, Reading
from evomal.tasks.description import fingerprint
from evomal.tasks.rows import DatasetRows, MappedRows

SAMPLE = 1000
"""Number of rows of a Dataset that are read when a task is made."""

_CHUNK = 64  # rows of the sample that are in memory at a time
_CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class RowReader(Dataset[Any]):
    """Reads rows of a source by their numbers.

    A batch is a pure function of these: they seed the global generators while it is read, so random
    transforms are the same wherever it is read, and others in every batch.
    """

    source: DatasetRows | MappedRows
    reading: Reading
    selected: Tensor | None = None
    """The rows of the source that there are; None for all."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.source if self.selected is None else self.selected)

    def __getitem__(self, numbers: list[int]) -> Data:
        """A batch on the CPU."""
        if self.selected is not None:
            numbers = self.selected[numbers].tolist()
        with isolated_rng(_CPU, derive_seed("read", *numbers)):
            return self.source.read(numbers, self.reading)


class _Answers(Dataset[Any]):
    """Batches, or the error with which one cannot be read: torch would change its message."""

    def __init__(self, reader: RowReader) -> None:
        self.reader = reader

    def __getitem__(self, numbers: list[int]) -> Data | InputError:
        try:
            return self.reader[numbers]
        except InputError as error:
            return error


class _Requests:
    """The row numbers of the batches that are wanted."""

    def __init__(self) -> None:
        self.numbers: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


@dataclasses.dataclass(frozen=True)
class LazyData:
    """The rows of a part, read when they are needed; used like `Data`, but without `inputs`.

    Attributes
    ----------
    reader
        Reads rows.
    known_rows, targets
        The rows whose targets are known, and these: all, or a fixed sample.
    digest
        Of a fixed sample of the rows, uint8 (16,).
    workers
        Processes that read ahead; without any, a batch is read when it is needed.
    device
        Where batches go.
    extras
        Extra inputs of the loss by name, with a value for every row.
    """

    reader: RowReader
    known_rows: Tensor
    targets: Tensor
    digest: Tensor
    workers: int = 0
    device: torch.device = _CPU
    extras: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.reader)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def inputs(self) -> NoReturn:
        """There are none in memory."""
        raise AttributeError("lazily read data has no inputs in memory; use rows(...)")

    def rows(self, rows: Tensor | slice) -> Data:
        """Some rows, on the device."""
        return self._complete(self.reader[self._numbers(rows)], rows)

    def each(self, batches: Iterable[Tensor | slice]) -> Iterator[Data]:
        """The rows of every batch in turn, read ahead by the workers."""
        if not self.workers:
            yield from map(self.rows, batches)
            return
        batches = list(batches)
        requests, loader = self._loader
        requests.numbers = [self._numbers(rows) for rows in batches]
        for rows, answer in zip(batches, loader, strict=True):
            if isinstance(answer, InputError):
                raise answer
            yield self._complete(answer, rows)

    def taken(self, places: Tensor) -> LazyData:
        """Some of the known rows, by their places among these, as all rows of a part."""
        rows, targets = self.known_rows[places], self.targets[places]
        selected = rows.cpu() if self.reader.selected is None else self.reader.selected[rows.cpu()]
        return dataclasses.replace(
            self,
            reader=dataclasses.replace(self.reader, selected=selected),
            known_rows=torch.arange(len(rows), device=self.device),
            targets=targets,
            extras={name: values[rows] for name, values in self.extras.items()},
        )

    def to(self, device: torch.device) -> LazyData:
        """The same rows, with batches on another device."""
        return dataclasses.replace(
            self,
            known_rows=self.known_rows.to(device),
            targets=self.targets.to(device),
            device=device,
            extras={name: values.to(device) for name, values in self.extras.items()},
        )

    def names(self) -> list[str]:
        """None: the digest is over the names of several inputs, too."""
        return []

    def tensors(self) -> Iterator[Tensor]:
        """What identifies the rows: their number, types and a sample, and what is in memory."""
        count = torch.tensor([len(self)])
        yield from (count, self.digest, self.known_rows, self.targets, *self.extras.values())

    @cached_property
    def _loader(self) -> tuple[_Requests, DataLoader[Any]]:
        """Worker processes, which stay for the next batches."""
        if current_process().daemon:
            current_process().daemon = False  # a worker of a search may have its own
        requests = _Requests()
        loader: DataLoader[Any] = DataLoader(
            _Answers(self.reader),
            batch_size=None,  # one request is one batch
            sampler=requests,
            num_workers=self.workers,
            collate_fn=_unchanged,
            persistent_workers=True,
            multiprocessing_context="fork" if sys.platform == "linux" else None,
            generator=torch.Generator(),  # not the global one
        )
        return requests, loader

    def _numbers(self, rows: Tensor | slice) -> list[int]:
        if isinstance(rows, slice):
            return list(range(len(self)))[rows]
        return rows.tolist()

    def _complete(self, batch: Data, rows: Tensor | slice) -> Data:
        extras = {name: values[rows] for name, values in self.extras.items()}
        return dataclasses.replace(batch.to(self.device), extras=extras)


def read_lazily(reader: RowReader, workers: int, sample: int) -> LazyData:
    """A part whose rows are read later, except for a fixed sample of at least `sample` rows.

    Raises
    ------
    InputError
        If there are no rows, or some of the sample cannot be read.
    """
    count, part = len(reader), reader.reading.part
    if count == 0:
        raise InputError(f"The {part} data has no rows; it needs at least one.")
    rng = derive_generator("sample", part)
    drawn = rng.choice(count, min(count, max(SAMPLE, sample)), replace=False)
    rows = torch.from_numpy(drawn).sort().values
    digest, targets = hashlib.blake2b(digest_size=16), []
    for some in torch.split(rows, _CHUNK):
        batch = reader[some.tolist()]
        digest.update(fingerprint([batch]).encode())
        targets.append(batch.targets)
    found = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
    known = rows, torch.cat(targets)
    if isinstance(reader.source, MappedRows):  # all targets are in memory
        known = torch.arange(count), reader.source.targets
        if reader.selected is not None:
            known = known[0], known[1][reader.selected]
    return LazyData(reader, *known, found, workers)


def _unchanged(answer: Any) -> Any:
    return answer
