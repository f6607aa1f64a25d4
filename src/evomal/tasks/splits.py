"""The rows of built-in tasks for training, validation and test."""

from __future__ import annotations

import numpy as np
import torch

from evomal.losses.form import Link
from evomal.tasks.data import Data
from evomal.tasks.data_files import Array


def table_parts(arrays: tuple[Array, ...], link: Link, split: str, seed: int) -> list[Data]:
    """Training, validation and test rows, standardised with the statistics of the training rows.

    Classes are not standardised. A split with them is stratified.
    """
    from sklearn.model_selection import train_test_split  # takes as long to import as torch

    features, targets = arrays
    rows = np.arange(len(features))
    classes = None if link == "identity" else targets
    if split == "honest":
        train, rest = train_test_split(rows, test_size=0.4, stratify=classes, random_state=seed)
        held = None if classes is None else classes[rest]
        validation, test = train_test_split(rest, test_size=0.5, stratify=held, random_state=seed)
    else:
        _, test = train_test_split(rows, test_size=0.4, random_state=0)
        train, validation = train_test_split(test, test_size=0.5, random_state=0)
    if classes is not None:
        inputs = _standardised(features, train)
        targets = classes.astype(np.int64) if link == "softmax" else classes[:, None]
    else:
        table = _standardised(np.column_stack([features, targets]), train)
        inputs, targets = table[:, :-1], table[:, -1:]
    dtype = torch.long if link == "softmax" else torch.float32
    return [
        Data(
            torch.tensor(inputs[part], dtype=torch.float32),
            torch.tensor(targets[part], dtype=dtype),
        )
        for part in (train, validation, test)
    ]


def _standardised(table: Array, train: Array) -> Array:
    """All rows on the scale of the training rows; a column that is constant there is 0 there."""
    deviation = table[train].std(axis=0)
    scaled: Array = (table - table[train].mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return scaled


def image_parts(arrays: tuple[Array, ...], seed: int) -> list[Data]:
    """Training, validation and test images, uint8 (n, channels, height, width), and classes."""
    from sklearn.model_selection import train_test_split

    images, labels, test_images, test_labels = arrays
    train, validation = train_test_split(
        np.arange(len(images)), test_size=0.1, stratify=labels, random_state=seed
    )
    return [
        Data(torch.tensor(x if x.ndim == 4 else x[:, None]), torch.tensor(y, dtype=torch.long))
        for x, y in [
            (images[np.sort(train)], labels[np.sort(train)]),
            (images[np.sort(validation)], labels[np.sort(validation)]),
            (test_images, test_labels),
        ]
    ]
