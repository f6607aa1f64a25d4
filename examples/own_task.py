"""A task of your own for the command line: handwritten digits of scikit-learn, 8 × 8 pixels.

Run: evomal search examples/own_task.py:make_task --preset quick
     evomal train examples/own_task.py:make_task --loss runs/0001 --seeds 3
"""

from __future__ import annotations

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import evomal

HIDDEN = 32


def make_task() -> evomal.Task:
    """60:20:20 rows, the same at every call: workers and `evomal resume` call this again."""
    images, labels = load_digits(return_X_y=True)
    x_train, x_rest, y_train, y_rest = train_test_split(
        images, labels, test_size=0.4, random_state=0, stratify=labels
    )
    x_val, x_test, y_val, y_test = train_test_split(
        x_rest, y_rest, test_size=0.5, random_state=0, stratify=y_rest
    )
    return evomal.Task(
        lambda: nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)),
        train=(x_train, y_train),
        validation=(x_val, y_val),
        test=(x_test, y_test),
        link="softmax",
        preprocess=lambda pixels: pixels / 16,  # 0 to 1
        optimizer=evomal.SGD(learning_rate=0.05),
        batch_size=32,
        testing_steps=1000,
        name="digits",
    )
