"""Seeds and generators derived from names, so that draws are independent of each other.

Every random draw of a run belongs to a stream named by the run's seed and its purpose, as in
``derive_seed(0, "meta-step", "diabetes/mlp", 17)``. Global state is changed only inside
`isolated_rng`, which restores it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import get_bit_generator, set_bit_generator  # type: ignore[attr-defined]

if TYPE_CHECKING:
    import torch

_nothing_to_keep = ContextVar("nothing_to_keep", default=False)
"""Whether `kept_rng` restores what the next `isolated_rng` seeds."""


def derive_seed(*stream: int | str) -> int:
    """A 63-bit seed for the named stream; equal names give equal seeds on all machines."""
    digest = hashlib.blake2b(repr(stream).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def derive_generator(*stream: int | str) -> np.random.Generator:
    """A NumPy generator for the named stream."""
    return np.random.Generator(np.random.PCG64(derive_seed(*stream)))


@contextmanager
def isolated_rng(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python inside the block, then restore them.

    Only for code that uses no other generator: layer initialisation, dropout, and user functions
    (factory, augmentation, metric). A `numpy.random.Generator` or `torch.Generator` owned by such
    code is not controlled.
    """
    with _restored():
        random.seed(seed)
        if not isinstance(get_bit_generator(), np.random.MT19937):
            set_bit_generator(np.random.MT19937())  # the only one that can be reseeded
        np.random.seed(seed % 2**32)
        with _seeded_torch(device, seed):
            yield


@contextmanager
def kept_rng() -> Iterator[None]:
    """Restore the global generators of NumPy and Python once, after a block without direct draws.

    A meta step has several `isolated_rng`, and restoring in each takes about 60 µs (seeding
    takes 5).
    """
    with _restored():
        token = _nothing_to_keep.set(True)
        try:
            yield
        finally:
            _nothing_to_keep.reset(token)


@contextmanager
def _restored() -> Iterator[None]:
    """Restore the global generators of NumPy and Python, unless `kept_rng` does."""
    if _nothing_to_keep.get():
        token = _nothing_to_keep.set(False)
        try:
            yield
        finally:
            _nothing_to_keep.reset(token)
        return
    python = random.getstate()
    generator, state = get_bit_generator(), np.random.get_state(legacy=False)
    try:
        yield
    finally:
        random.setstate(python)
        set_bit_generator(generator)
        np.random.set_state(state)


@contextmanager
def _seeded_torch(device: torch.device, seed: int) -> Iterator[None]:
    import torch

    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch GPUs too
            yield
        return
    gpus = torch.get_device_module(device)
    index = gpus.current_device() if device.index is None else device.index
    with torch.random.fork_rng(devices=[index], device_type=device.type), gpus.device(index):
        torch.default_generator.manual_seed(seed)
        gpus.manual_seed(seed)
        yield
