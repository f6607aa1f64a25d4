"""A model with two inputs: matrix factorisation, from the ids of a row and a column to a value.

The values are real: the pixels of scikit-learn's handwritten digits, where an image stands for a
user and a pixel for an item. A fifth of them are to be filled in.

Run: evomal search examples/recommender.py:make_task --preset quick
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

import evomal

USERS, ITEMS = 200, 64


class Factors(nn.Module):
    """The product of two embeddings, and a bias each; called as ``model(user=…, item=…)``."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(USERS, width), nn.Embedding(ITEMS, width)
        self.user_bias, self.item_bias = nn.Embedding(USERS, 1), nn.Embedding(ITEMS, 1)
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=0.3)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        """Values (B,) for ids (B,)."""
        product = (self.users(user) * self.items(item)).sum(dim=1)
        values: torch.Tensor = product + self.user_bias(user)[:, 0] + self.item_bias(item)[:, 0]
        return values


def make_task() -> evomal.Task:
    """60:20:20 pairs of ids, with standardised values; the metric is the mean absolute error."""
    pixels = torch.tensor(load_digits().data[:USERS], dtype=torch.float32)
    order = torch.randperm(USERS * ITEMS, generator=torch.Generator().manual_seed(0))
    first, second = round(0.6 * len(order)), round(0.8 * len(order))
    known = pixels.flatten()[order[:first]]
    values = (pixels.flatten() - known.mean()) / known.std()

    def rows(chosen: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        ids = {"user": chosen // ITEMS, "item": chosen % ITEMS}
        return ids, values[chosen]

    return evomal.Task(
        Factors,
        train=rows(order[:first]),
        validation=rows(order[first:second]),
        test=rows(order[second:]),
        link="identity",
        metric="mae",
        optimizer=evomal.Adam(learning_rate=0.01),
        testing_steps=1000,
        name="recommender",
    )
