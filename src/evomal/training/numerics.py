"""Functions for all stages: batches drawn ahead, divergence tests, deadlines, pauses."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor


class DivergedError(ArithmeticError):
    """A stage produced NaN or infinity; the message names the value."""

    def __init__(self, what: str = "a value") -> None:
        super().__init__(f"{what} became NaN or infinite")


METRIC = "the metric"
"""Name of a fitness in a `DivergedError`."""


class DeadlineError(TimeoutError):
    """A stage exceeded its `deadline`."""


_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
_pause: ContextVar[float] = ContextVar("pause", default=math.inf)


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Let stages inside the block raise `DeadlineError` after this many seconds; None means never.

    For work in this process, which cannot be ended from outside. Stages check the clock at every
    step, so a step that hangs is not ended.
    """
    with _from_now(_deadline, seconds):
        yield


@contextmanager
def pausing(seconds: float | None) -> Iterator[None]:
    """Let Algorithm 1 inside the block pause after that many seconds; None: never.

    It pauses at the end of a meta step, so that it makes one at least.
    """
    with _from_now(_pause, seconds):
        yield


@contextmanager
def _from_now(moment: ContextVar[float], seconds: float | None) -> Iterator[None]:
    """Set a moment for the block."""
    token = moment.set(math.inf if seconds is None else time.monotonic() + seconds)
    try:
        yield
    finally:
        moment.reset(token)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of the CPU or a GPU is exhausted.

    For the CPU, torch raises a plain ``RuntimeError``, recognisable only by its message.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def check_deadline() -> None:
    """Raise `DeadlineError` if the time of the enclosing `deadline` is over."""
    if time.monotonic() > _deadline.get():
        raise DeadlineError


def is_time_to_pause() -> bool:
    """Whether the time of the enclosing `pausing` is over."""
    return time.monotonic() >= _pause.get()


@contextmanager
def quiet_vmap() -> Iterator[None]:
    """Suppress the warning of ``torch.vmap`` about operations without batching, such as pooling."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield


def draw_batches(
    rng: np.random.Generator, rows: int, batch_size: int, steps: int, device: torch.device
) -> Tensor:
    """Row indices of `steps` batches, shape (steps, min(batch_size, rows)), int64.

    Every batch has distinct, independently drawn rows; batch i does not depend on `steps`.
    """
    size = min(batch_size, rows)
    batches = np.empty((steps, size), dtype=np.int64)
    for batch in batches:
        check_deadline()
        batch[:] = rng.choice(rows, size, replace=False)
    return torch.from_numpy(batches).to(device)


def require_finite(tensors: Iterable[Tensor], *names: str) -> None:
    """Raise `DivergedError` if an element is NaN or infinite.

    `names` are the names of the tensors in order; the last one applies to all following ones.
    """
    tensors = list(tensors)
    if all_finite(tensors):
        return
    bad = next(i for i, tensor in enumerate(tensors) if not all_finite([tensor]))
    raise DivergedError(*names[min(bad, len(names) - 1) :][:1])


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether no element is NaN or infinite: a tensor (), to avoid synchronising a GPU."""
    tensors = [tensor.detach() for tensor in tensors]
    if not tensors[0].is_cpu:
        return torch.stack([tensor.isfinite().all() for tensor in tensors]).all()
    # A finite sum proves that all terms are finite, and is the cheapest pass over large gradients;
    # the sum of large finite terms can overflow, so a non-finite sum proves nothing.
    total = torch.stack([tensor.sum() for tensor in tensors]).sum()
    finite = bool(total.isfinite()) or all(bool(tensor.isfinite().all()) for tensor in tensors)
    return torch.tensor(finite)


def finite_rows(tensors: Sequence[Tensor]) -> Tensor:
    """Mask of rows with only finite numbers in all tensors (P, …), shape (P,)."""
    rows = [tensor.detach().reshape(len(tensor), -1).isfinite().all(dim=1) for tensor in tensors]
    return torch.stack(rows).all(dim=0)
