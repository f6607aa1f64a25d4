"""A binary task with few positives, judged by a metric of scikit-learn: balanced accuracy.

Is a handwritten digit an 8? One in ten is.

Run: evomal search examples/imbalanced.py:make_task --preset quick
"""

from __future__ import annotations

from functools import partial

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import evomal


def make_model() -> nn.Module:
    """One logit per image."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))


def make_task() -> evomal.Task:
    """60:20:20 images, labelled in words; classes are in the order no, yes."""
    pixels, digit = load_digits(return_X_y=True)
    labels = ["yes" if value == 8 else "no" for value in digit]
    split = partial(train_test_split, random_state=0)
    x_train, x_rest, y_train, y_rest = split(pixels / 16, labels, test_size=0.4, stratify=labels)
    x_val, x_test, y_val, y_test = split(x_rest, y_rest, test_size=0.5, stratify=y_rest)
    return evomal.Task(
        make_model,
        train=(x_train, y_train),
        validation=(x_val, y_val),
        test=(x_test, y_test),
        link="sigmoid",
        classes=["no", "yes"],
        metric="balanced_accuracy",
        report=["f1", "roc_auc"],
        optimizer=evomal.Adam(learning_rate=0.003),
        rejection_steps=100,
        testing_steps=500,
        name="eights",
    )
