"""Wrong labels in clean data, to learn losses that are robust to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from evomal.seeding import derive_generator
from evomal.tasks.data import Data


def with_label_noise(parts: Sequence[Data], fraction: float, seed: int) -> list[Data]:
    """Parts whose targets are wrong in this fraction of the rows, drawn at random.

    The targets are class indices (n,), or 0 and 1 of shape (n, 1). All other classes are equally
    probable.
    """
    classes = int(max(part.targets.max() for part in parts)) + 1
    noisy = []
    for number, part in enumerate(parts):
        rng = derive_generator(seed, "label-noise", number)
        rows = torch.from_numpy(rng.permutation(len(part))[: round(fraction * len(part))])
        shifts = torch.from_numpy(rng.integers(1, classes, len(rows)))
        targets = part.targets.clone()
        targets[rows] = (targets[rows] + shifts.view_as(targets[rows])) % classes
        noisy.append(dataclasses.replace(part, targets=targets))
    return noisy
