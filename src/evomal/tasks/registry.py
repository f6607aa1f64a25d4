"""The built-in tasks: a data set and a model by one name, such as ``"mnist/lenet5"``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from evomal.errors import InputError
from evomal.tasks.datasets import DATASETS, Array, data_directory, load_arrays
from evomal.tasks.models.lenet5 import LeNet5
from evomal.tasks.models.logistic import LogisticRegression
from evomal.tasks.models.mlp import MLP
from evomal.tasks.task import SGD, Data, Task

Split = Literal["honest", "published"]


@dataclass(frozen=True)
class TaskInfo:
    """A built-in task (paper, section 4.2): which data, which model, which settings."""

    dataset: str
    model: Callable[[], nn.Module]
    optimizer: SGD
    rejection_steps: int

    @property
    def parameters(self) -> int:
        """Number of trainable parameters, counted without allocating them."""
        with torch.device("meta"):
            return sum(p.numel() for p in self.model().parameters() if p.requires_grad)


_TABLE = SGD(learning_rate=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
_MNIST = SGD(learning_rate=0.01, momentum=0.0, nesterov=False, weight_decay=0.0)

TASKS: dict[str, TaskInfo] = {
    "diabetes/mlp": TaskInfo("diabetes", partial(MLP, 10, 1), _TABLE, 1000),
    "boston/mlp": TaskInfo("boston", partial(MLP, 13, 1), _TABLE, 1000),
    "california/mlp": TaskInfo("california", partial(MLP, 8, 1), _TABLE, 1000),
    "mnist/logistic": TaskInfo("mnist", partial(LogisticRegression, 784, 10), _MNIST, 100),
    "mnist/mlp": TaskInfo("mnist", partial(MLP, 784, 10), _MNIST, 100),
    "mnist/lenet5": TaskInfo("mnist", partial(LeNet5, 10), _MNIST, 100),
}
"""Every built-in task, by name."""


def load_task(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    split: Split = "honest",
    split_seed: int = 0,
    download: bool = False,
    device: str | torch.device = "cpu",
) -> Task:
    """A built-in task with its data.

    Parameters
    ----------
    name
        One of `TASKS`, such as ``"diabetes/mlp"``.
    data_dir
        Folder of the data sets; default ``EVOMAL_DATA``, else the user's cache folder.
    split
        ``"honest"``: tables 60:20:20 without overlap, images with the official test set and a
        stratified 10 % of the training set for validation. ``"published"`` (tables only): the
        recipe that gives the paper's Table 3. Its test set contains the rows trained on, so its
        numbers say nothing about new data; it exists to compare with that table.
    split_seed
        Fixes which rows go where. It is not the seed of a run, so that a loss is always tested on
        rows that its search has not seen.
    download
        Whether absent data may be downloaded.
    device
        Where the data and the models live.

    Raises
    ------
    InputError
        If there is no such task or split, or the data is absent or damaged.
    """
    if name not in TASKS:
        raise InputError(f"Unknown task {name!r}; choose from {', '.join(TASKS)}.")
    if split_seed < 0:
        raise InputError(f"The split seed must not be negative, but is {split_seed}.")
    info = TASKS[name]
    arrays = load_arrays(info.dataset, data_directory(data_dir), download=download)
    if DATASETS[info.dataset].kind == "table":
        parts = _table_parts(arrays, split, split_seed)
        preprocess = None
    else:
        if split != "honest":
            raise InputError(f"The split {split!r} exists only for tables, not for {name!r}.")
        parts = _image_parts(arrays, split_seed)
        preprocess = partial(_standardise_pixels, mean=0.1307, deviation=0.3081)
    return Task(
        info.model,
        *parts,
        link="identity" if DATASETS[info.dataset].kind == "table" else "softmax",
        optimizer=info.optimizer,
        preprocess=preprocess,
        rejection_steps=info.rejection_steps,
        name=name,
        split=split,
        origin={
            "split": split,
            "split_seed": split_seed,
            "data_dir": None if data_dir is None else str(Path(data_dir).resolve()),
        },
        device=device,
    )


def _table_parts(arrays: tuple[Array, ...], split: str, seed: int) -> list[Data]:
    """Training, validation and test rows, standardised with the training rows' moments."""
    features, targets = arrays
    rows = np.arange(len(features))
    if split == "honest":
        train, rest = train_test_split(rows, test_size=0.4, random_state=seed)
        validation, test = train_test_split(rest, test_size=0.5, random_state=seed)
    elif split == "published":
        _, test = train_test_split(rows, test_size=0.4, random_state=0)
        train, validation = train_test_split(test, test_size=0.5, random_state=0)
    else:
        raise InputError(f"Unknown split {split!r}; choose from honest, published.")
    table = np.column_stack([features, targets])
    table = (table - table[train].mean(axis=0)) / table[train].std(axis=0)
    return [
        Data(
            torch.tensor(table[part, :-1], dtype=torch.float32),
            torch.tensor(table[part, -1:], dtype=torch.float32),
        )
        for part in (train, validation, test)
    ]


def _image_parts(arrays: tuple[Array, ...], seed: int) -> list[Data]:
    """Training, validation and test images as uint8 (n, 1, height, width) with class indices."""
    images, labels, test_images, test_labels = arrays
    train, validation = train_test_split(
        np.arange(len(images)), test_size=0.1, stratify=labels, random_state=seed
    )
    return [
        Data(torch.tensor(x).unsqueeze(1), torch.tensor(y, dtype=torch.long))
        for x, y in [
            (images[np.sort(train)], labels[np.sort(train)]),
            (images[np.sort(validation)], labels[np.sort(validation)]),
            (test_images, test_labels),
        ]
    ]


def _standardise_pixels(images: Tensor, mean: float, deviation: float) -> Tensor:
    """Scale uint8 pixels to mean 0 and standard deviation 1."""
    return images.float().sub(255 * mean).div_(255 * deviation)
