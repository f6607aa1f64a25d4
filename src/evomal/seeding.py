"""Seeds and generators derived from names, so that no draw depends on another.

Every random draw of a run belongs to a stream named by the run's seed and what it is for, as in
``derive_seed(0, "meta-step", "diabetes/mlp", 17)``. Nothing here touches global state, except
inside `isolated_rng`, which puts it back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(*stream: int | str) -> int:
    """A 63-bit seed for the named stream; equal names give equal seeds on every machine."""
    digest = hashlib.blake2b(repr(stream).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def derive_generator(*stream: int | str) -> np.random.Generator:
    """A NumPy generator for the named stream."""
    return np.random.Generator(np.random.PCG64(derive_seed(*stream)))


@contextmanager
def isolated_rng(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore them after it.

    Only for code that knows no other generator: layer initialisation, dropout, a user's factory.
    """
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
