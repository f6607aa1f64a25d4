"""What a data split may be: pairs, map-style data sets with and without chance in them."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from evomal.errors import InputError, TaskWarning
from evomal.tasks.task import Task
from tasks_for_tests import Perceptron

X = torch.arange(15.0).reshape(5, 3) / 10
Y = torch.arange(5.0)[:, None]
OWN = np.random.default_rng(0)


class Rows(Dataset[Any]):
    """A map-style data set whose rows a function makes."""

    def __init__(self, row: Callable[[int], Any], length: int = 5) -> None:
        self.row, self.length = row, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.row(index)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(X, Y, strict=True))


class Unsized(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


def make(train: Any, **parts: Any) -> Task:
    return Task(Perceptron, train, parts.pop("validation", (X, Y)), **parts, link="identity")


# Not data


def keyed(index: int) -> dict[str, Tensor]:
    return {"image": X[index], "label": Y[index]}


def absent(index: int) -> Any:
    raise FileNotFoundError(f"no file for row {index}\nsearched in images/")


REFUSED: dict[str, tuple[Any, str]] = {
    "loader": (
        DataLoader(TensorDataset(X, Y)),
        "The training data is a DataLoader; pass its data set, loader.dataset.",
    ),
    "iterable": (Endless(), "The training data is an IterableDataset"),
    "without length": (Unsized(), "The training data set has no length; give it a __len__"),
    "dict": ({"inputs": X, "targets": Y}, "a pair (inputs, targets)"),
    "frame": (pd.DataFrame(X), "but is of type pandas.DataFrame"),
    "one tensor": (X, "but is of type torch.Tensor"),
    "two rows in an array": (np.zeros((2, 3)), "but is of type numpy.ndarray"),
    "None": (None, "but is None"),
    "three": ((X, Y, Y), "but is a tuple of length 3"),
    "list of rows": (list(zip(X, Y, strict=True)), "but is a list of length 5"),
    "zip": (zip(X, Y, strict=True), "but is of type builtins.zip"),
    "loader in a pair": ((DataLoader(TensorDataset(X)), Y), "The training inputs are of type Data"),
    "one number": ((X, 3.0), "The training targets are a single value"),
    "rows with keys": (Rows(keyed), "are dicts with the keys ['image', 'label']; wrap"),
    "rows of three": (Rows(lambda i: (X[i], Y[i], i)), "must be pairs (input, target), but are of"),
    "rows of inputs": (Rows(lambda i: X[i]), "but are of type Tensor"),
    "rows of text": (Rows(lambda i: (X[i], "cat")), "The training targets hold text"),
    "rows that fail": (
        Rows(absent),
        "Row 0 of the training data set cannot be read: FileNotFoundError: no file for row 0",
    ),
}


@pytest.mark.parametrize(("source", "fragment"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_data_is_named(source: Any, fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        make(source)
    message = str(caught.value)
    assert fragment in message
    assert "\n" not in message


# Chance


def jittered(index: int) -> tuple[Tensor, Tensor]:
    return X[index % 5] + torch.randn(3), Y[index % 5]


def jittered_by_numpy(index: int) -> tuple[Tensor, Tensor]:
    return X[index % 5] + torch.from_numpy(np.random.randn(3)), Y[index % 5]


def jittered_by_python(index: int) -> tuple[Tensor, Tensor]:
    return X[index % 5] + torch.tensor([random.gauss() for _ in range(3)]), Y[index % 5]


def test_a_plain_data_set_is_read_without_a_warning() -> None:
    def row(index: int) -> tuple[Tensor, Tensor]:
        return X[index].clone(), Y[index]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = make(Rows(row), validation=(X + 10, Y))
    assert torch.equal(task.train.inputs, X)


def test_memory_that_a_data_set_uses_again_is_copied_in_time() -> None:
    buffer = torch.zeros(3)

    def row(index: int) -> tuple[Tensor, float]:
        return buffer.copy_(X[index]), float(index)

    task = make(Rows(lambda i: (row(i)[0], [row(i)[1]])))
    assert torch.equal(task.train.inputs, X)


def test_random_transforms_are_told_with_the_remedy() -> None:
    with pytest.warns(TaskWarning) as caught:
        make(Rows(jittered))
    (warning,) = caught
    message = str(warning.message)
    assert "Two reads of a row of the training data set differ (5 of 5 rows " in message
    assert message.endswith("transforms as augment=, or pass in_memory=False.")
    assert warning.filename == __file__


def test_elsewhere_than_in_training_there_is_nothing_to_augment() -> None:
    with pytest.warns(TaskWarning, match=r"validation data set differ .* transforms\.$"):
        make((X, Y), validation=Rows(jittered))


@pytest.mark.parametrize(
    "change",
    [
        lambda i: (X[i % 5], torch.rand(1)),
        lambda i: (X[0] if random.random() < 0.5 else X[0].flip(0), Y[0]),
        lambda i: (X[i % 5].numpy() * np.random.rand(), Y[0]),
        lambda i: (OWN.normal(size=3), Y[0]),
    ],
    ids=["targets", "Python's generator", "numpy's generator", "a generator of its own"],
)
def test_chance_is_found_wherever_it_comes_from(change: Callable[[int], Any]) -> None:
    with pytest.warns(TaskWarning, match=r"Two reads of a row"):
        make(Rows(change, 1000))


def test_few_rows_of_many_are_read_twice() -> None:
    reads: list[int] = []

    def row(index: int) -> tuple[Tensor, Tensor]:
        reads.append(index)
        return X[index % 5], Y[index % 5]

    make(Rows(row, 1000))
    assert reads == [*range(1000), *range(0, 1000, 50)]


def states() -> tuple[str, str, str]:
    torchs, numpys = torch.random.get_rng_state(), np.random.get_state()
    return str(torchs.tolist()), str(numpys), str(random.getstate())


@pytest.mark.parametrize("row", [jittered, jittered_by_numpy, jittered_by_python])
def test_the_same_chance_in_two_tasks_and_none_outside(
    row: Callable[[int], tuple[Tensor, Tensor]],
) -> None:
    with pytest.warns(TaskWarning):
        one = make(Rows(row))
    torch.rand(3), np.random.rand(3), random.random()
    before = states()
    with pytest.warns(TaskWarning):
        other = make(Rows(row))
    assert one.fingerprint() == other.fingerprint()
    assert states() == before
    noise = one.train.inputs - X
    assert len({round(float(value), 5) for value in noise.flatten()}) == 15


def test_nan_is_told_as_nan_and_not_as_chance() -> None:
    with pytest.raises(InputError, match=re.escape("The training inputs hold NaN")):
        make(Rows(lambda i: (X[i] / 0 * 0, Y[i])))
