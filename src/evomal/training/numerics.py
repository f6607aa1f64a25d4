"""What every stage needs: batches drawn ahead, the test for divergence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


class DivergedError(ArithmeticError):
    """A stage met a non-finite weight, loss, prediction, gradient or fitness."""


def draw_batches(
    rng: np.random.Generator, rows: int, batch_size: int, steps: int, device: torch.device
) -> Tensor:
    """Row indices of `steps` batches, shape (steps, min(batch_size, rows)), int64.

    Every batch holds distinct rows, drawn afresh; batch i does not depend on `steps`.
    """
    size = min(batch_size, rows)
    batches = np.empty((steps, size), dtype=np.int64)
    for batch in batches:
        batch[:] = rng.choice(rows, size, replace=False)
    return torch.from_numpy(batches).to(device)


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether every element is finite, as a boolean scalar tensor on the device."""
    return torch.nn.utils.get_total_norm(tensors, norm_type=math.inf).isfinite()


def require_finite(tensors: Iterable[Tensor]) -> None:
    """Raise `DivergedError` if an element is NaN or infinite."""
    if not all_finite([tensor.detach() for tensor in tensors]):
        raise DivergedError
