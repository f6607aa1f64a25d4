"""The precision of base learners."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

Precision = Literal["full", "tf32", "bfloat16"]


class InBfloat16(nn.Module):
    """A network whose forward pass runs under bfloat16 autocast."""

    def __init__(self, learner: nn.Module) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network returns."""
        device = next(self.parameters()).device.type
        # no cache of cast parameters: functional calls would reuse stale ones
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            return self.learner(*args, **kwargs)


def float32_precisions() -> dict[str, Any]:
    """Torch's settings for float32 products, for `set_float32_precisions`."""
    if _BY_BACKEND:
        found = {name: backend.fp32_precision for name, backend in _BY_BACKEND.items()}
        return {name: "ieee" if value == "none" else value for name, value in found.items()}
    return {
        "matmul": torch.get_float32_matmul_precision(),
        "cudnn": torch.backends.cudnn.allow_tf32,
    }


def set_float32_precisions(precisions: Mapping[str, Any]) -> None:
    """Restore the settings returned by `float32_precisions`."""
    if not _BY_BACKEND:
        torch.set_float32_matmul_precision(precisions["matmul"])
        torch.backends.cudnn.allow_tf32 = precisions["cudnn"]
    found = float32_precisions()
    for name, backend in _BY_BACKEND.items():
        if found[name] != precisions[name]:
            backend.fp32_precision = precisions[name]


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Let float32 products on GPUs use TensorFloat-32 in the block, if that is the precision."""
    if precision != "tf32":
        yield
        return
    before = float32_precisions()
    on_gpu = dict.fromkeys(("cuda.matmul", "cudnn.conv"), "tf32")
    try:
        set_float32_precisions({**before, **on_gpu, "matmul": "high", "cudnn": True})
        yield
    finally:
        set_float32_precisions(before)


def _backends() -> dict[str, Any]:
    """Modules with their own precision setting; none before torch 2.9, with its older settings."""
    all_of_them: Any = torch.backends
    if not hasattr(all_of_them.cuda.matmul, "fp32_precision"):
        return {}
    return {
        "cuda.matmul": all_of_them.cuda.matmul,
        "cudnn.conv": all_of_them.cudnn.conv,
        "mkldnn.matmul": all_of_them.mkldnn.matmul,
        "mkldnn.conv": all_of_them.mkldnn.conv,
    }


_BY_BACKEND = _backends()
