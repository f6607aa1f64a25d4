"""Seeds and generators derived from names, so that no draw depends on another.

Every random draw of a run belongs to a stream named by the run's seed and what it is for, as in
``derive_seed(0, "meta-step", "diabetes/mlp", 17)``. Nothing here touches global state, except
inside `isolated_rng`, which puts it back.
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
    """A 63-bit seed for the named stream; equal names give equal seeds on every machine."""
    digest = hashlib.blake2b(repr(stream).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def derive_generator(*stream: int | str) -> np.random.Generator:
    """A NumPy generator for the named stream."""
    return np.random.Generator(np.random.PCG64(derive_seed(*stream)))


@contextmanager
def isolated_rng(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the global generators inside the block and restore them after it.

    Those of torch, NumPy and Python. Only for code that knows no other generator: layer
    initialisation, dropout, and whatever a user gives (factory, augmentation, metric). A
    `numpy.random.Generator` or `torch.Generator` that such code keeps for itself is out of reach.
    """
    with _restored():
        random.seed(seed)
        if not isinstance(get_bit_generator(), np.random.MT19937):
            set_bit_generator(np.random.MT19937())  # no other can be seeded again
        np.random.seed(seed % 2**32)
        with _seeded_torch(device, seed):
            yield


@contextmanager
def kept_rng() -> Iterator[None]:
    """Restore the global generators of NumPy and Python after a block that does not draw itself.

    Saves the time in which each `isolated_rng` within would restore them (about 60 µs; seeding
    takes 5), as a meta step has several.
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
