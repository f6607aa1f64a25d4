"""Tiny tasks, which can be sent to other processes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from evomal.losses.form import Link
from evomal.tasks.task import Task
from evomal.testing.expectations import draw


def small_task(link: Link = "identity", name: str = "small") -> Task:
    """Three inputs, a smooth base learner in double precision, and three classes or one target.

    Its metric tells the slightest difference between learners.
    """
    parts = [_rows(link, rows, seed) for seed, rows in enumerate((24, 16, 16))]
    model = partial(_learner, 3 if link == "softmax" else 1)
    return Task(
        model,
        *parts,
        link=link,
        metric=mean_square,
        batch_size=8,
        rejection_steps=20,
        testing_steps=20,
        name=name,
    )


def mean_square(pred: Tensor, target: Tensor) -> Tensor:
    """Of raw outputs less the target's mean, which is easily minimised and never flat."""
    return (pred - target.to(pred).mean()).square().mean()


def _learner(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


def _rows(link: Link, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    inputs = draw(rows, 3, seed=seed)
    mixed = inputs @ draw(3, 3, seed=10)
    if link == "softmax":
        return inputs, mixed.argmax(dim=1)
    return inputs, (mixed[:, :1] > 0).double() if link == "sigmoid" else torch.tanh(mixed[:, :1])
