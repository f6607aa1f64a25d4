"""The time of a loss, forward and backward, compared with torch's loss."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from evomal.losses.form import Link

_BATCH = 1024
_ELEMENTS = 2**14  # in a batch of single outputs; at most 64 times as many with many classes
_ROUNDS = 15

_OWN: dict[Link, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "softmax": ("cross-entropy", nn.functional.cross_entropy),
    "sigmoid": ("binary cross-entropy", nn.functional.binary_cross_entropy_with_logits),
    "identity": ("squared error", nn.functional.mse_loss),
}


def timing(loss: Any, link: Link, classes: int) -> dict[str, Any]:
    """Nanoseconds per output element in float32, and the ratio to torch's loss of the same kind.

    Medians of alternating rounds, so that other load affects both equally.
    """
    rows = max(1, min(_BATCH, 64 * _ELEMENTS // classes)) if link == "softmax" else _ELEMENTS
    draw = torch.Generator().manual_seed(0)
    shape = (rows, classes) if link == "softmax" else (rows,)
    pred = torch.randn(shape, generator=draw)
    target = torch.arange(rows) % classes
    if link == "sigmoid":
        target = target.float()
    elif link == "identity":
        target = torch.randn(rows, generator=draw)
    name, own = _OWN[link]
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(_ROUNDS):
        for which, function in enumerate((loss, own)):
            seconds[which].append(_seconds(function, pred, target))
    mine, theirs = (statistics.median(seconds[which]) for which in (0, 1))
    return {
        "ns_per_element": round(1e9 * mine / pred.numel(), 2),
        "relative": round(mine / theirs, 2),
        "relative_to": name,
        "how": f"measured, forward and backward, batch of {rows}, float32, median of {_ROUNDS}",
    }


def _seconds(function: Callable[[Tensor, Tensor], Tensor], pred: Tensor, target: Tensor) -> float:
    leaf = pred.clone().requires_grad_()
    began = time.perf_counter()
    value = function(leaf, target)
    (value.sum() + 0.0 * leaf.sum()).backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - began
