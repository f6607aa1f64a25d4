"""Check for rows shared by two splits: results on them say nothing about new data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evomal.seeding import derive_generator
from evomal.tasks.data import Data
from evomal.tasks.inputs import labelled, rows_of, tensors_of

if TYPE_CHECKING:
    from evomal.tasks.task import Task

LEAST_SHARE = 0.01
"""Fraction of a split's rows that causes a warning; image data sets have a few duplicates."""

_ELEMENTS = 16
"""Number of elements, of inputs and of targets, in the first comparison of rows."""

_SAMPLE = 1000
"""Number of rows for estimating how often values repeat."""

_BY_CHANCE = 0.01
"""Expected number of training rows equal to a given row if columns were independent. Above this,
shared rows are normal, as in a table with a few categories."""


def check_shared_rows(task: Task) -> Iterator[str]:
    """Check that validation and test rows are not training rows with the same targets.

    Rows that are read lazily are not compared.
    """
    given = {"validation": task.validation, "test": task.test}
    parts = {name: data for name, data in given.items() if isinstance(data, Data)}
    train = task.train
    if not isinstance(train, Data):
        return
    counts = shared_rows(train, *parts.values())
    for (part, data), count in zip(parts.items(), counts, strict=True):
        if count < 2 or count < LEAST_SHARE * len(data) or _expected(train) > _BY_CHANCE:
            continue
        yield (
            f"{count} of {len(data)} {part} rows ({count / len(data):.1%}) are also training rows "
            "(inputs and targets), so results on them are better than on new rows; remove them "
            "from one of the two splits."
        )


def shared_rows(train: Data, *parts: Data) -> list[int]:
    """Number of rows of each split that are also training rows, except constant images.

    Exact. A digest of a few elements selects the rows to compare in full.
    """
    known = _digests(train)
    return [_shared(train, known, part) for part in parts]


def _shared(train: Data, known: npt.NDArray[np.uint64], part: Data) -> int:
    shapes = [
        [(label, tensor.shape[1:]) for label, tensor in labelled(data.inputs)]
        for data in (train, part)
    ]
    if shapes[0] != shapes[1]:  # sequences of another length
        return 0
    own = _digests(part)
    suspects = np.flatnonzero(np.isin(own, known))
    if not len(suspects):
        return 0
    rows = set(_contents(train, np.flatnonzero(np.isin(known, own[suspects]))))
    found = torch.tensor([content in rows for content in _contents(part, suspects)])
    inputs = tensors_of(rows_of(part.inputs, torch.from_numpy(suspects)))
    varied = [_varied(tensor) for tensor in inputs]
    return int((found & torch.stack(varied).any(dim=0)).sum())


def _varied(tensor: Tensor) -> Tensor:
    """Which rows are not constant images, (n,)."""
    flat = tensor.reshape(len(tensor), -1)
    return ((flat != flat[:, :1]).any(dim=1) | (tensor.ndim <= 2)).cpu()


def _digests(data: Data) -> npt.NDArray[np.uint64]:
    """A number for every row, of up to `_ELEMENTS` of its inputs and of its targets."""
    total = np.zeros(len(data), dtype=np.uint64)
    rng = derive_generator(0, "digests")
    for tensor in (*tensors_of(data.inputs), data.targets):
        table = tensor.reshape(len(tensor), -1)
        columns = np.linspace(0, table.shape[1] - 1, min(_ELEMENTS, table.shape[1])).astype(int)
        content = _bytes(table[:, torch.from_numpy(columns).to(table.device)])
        padded = np.zeros((len(data), -(-content.shape[1] // 8) * 8), dtype=np.uint8)
        padded[:, : content.shape[1]] = content
        for word in padded.view(np.uint64).T:
            total += word * rng.integers(2**64, dtype=np.uint64)  # modulo 2^64
    return total


def _contents(data: Data, rows: npt.NDArray[np.int64]) -> list[bytes]:
    """The values of some rows, a text of bytes each."""
    places = torch.from_numpy(rows).to(data.targets.device)
    tensors = (*tensors_of(data.inputs), data.targets)
    whole = [_bytes(tensor[places]) for tensor in tensors]
    return [row.tobytes() for row in np.concatenate(whole, axis=1)]


def _bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """The values of every row (n, …) as bytes (n, k)."""
    flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().reshape(len(tensor), -1)


def _expected(data: Data) -> float:
    """How many rows equal a given one, if columns were independent; from a sample of the rows."""
    rows = torch.arange(0, len(data), -(-len(data) // _SAMPLE))
    pairs = max(1, len(rows) * (len(rows) - 1))
    share = 1.0
    for tensor in (*tensors_of(data.inputs), data.targets):
        table = tensor[rows.to(tensor.device)].reshape(len(rows), -1).double().cpu()
        for column in table.T.numpy():
            counts = np.unique(column, return_counts=True)[1]
            share *= float((counts * (counts - 1)).sum()) / pairs
    return len(data) * share
