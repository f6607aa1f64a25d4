"""A recurrent network: an LSTM that reads scikit-learn's handwritten digits row by row.

Run: evomal search examples/lstm.py:make_task --preset quick
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import evomal


class Reader(nn.Module):
    """An LSTM over the rows of an image, and logits from its last output."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, width, batch_first=True)
        self.output = nn.Linear(width, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits (B, 10) of sequences (B, 8, 8)."""
        outputs, _ = self.lstm(rows)
        logits: torch.Tensor = self.output(outputs[:, -1])
        return logits


def make_task() -> evomal.Task:
    """60:20:20 images."""
    digits = load_digits()
    x_train, x_rest, y_train, y_rest = train_test_split(
        digits.images / 16, digits.target, test_size=0.4, random_state=0, stratify=digits.target
    )
    x_val, x_test, y_val, y_test = train_test_split(
        x_rest, y_rest, test_size=0.5, random_state=0, stratify=y_rest
    )
    return evomal.Task(
        Reader,
        train=(x_train, y_train),
        validation=(x_val, y_val),
        test=(x_test, y_test),
        link="softmax",
        optimizer=evomal.Adam(learning_rate=0.01),
        clip_norm=1.0,
        batch_size=64,
        rejection_steps=100,
        testing_steps=500,
        name="lstm",
    )
