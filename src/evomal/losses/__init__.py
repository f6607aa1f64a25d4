"""Losses as ordinary PyTorch modules, and their files."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomal.losses.base import Loss
    from evomal.losses.files import load_loss, save_loss
    from evomal.losses.handcrafted import LabelSmoothingLoss
    from evomal.losses.log_cosh import LogCoshLoss
    from evomal.losses.meta import MetaLoss
    from evomal.losses.neural import NeuralLoss
    from evomal.losses.sparse import (
        FocalSparseLabelSmoothingLoss,
        SparseLabelSmoothingLoss,
        SparselySmoothedLoss,
    )
    from evomal.losses.symbolic import SymbolicLoss
    from evomal.losses.target import (
        AbsoluteCrossEntropyLoss,
        FocalLoss,
        GeneralizedCrossEntropyLoss,
    )
    from evomal.losses.taylor import TaylorLoss

# Imported on first use, as in `evomal` itself.
_HOMES = {
    "AbsoluteCrossEntropyLoss": "target",
    "FocalLoss": "target",
    "FocalSparseLabelSmoothingLoss": "sparse",
    "GeneralizedCrossEntropyLoss": "target",
    "LabelSmoothingLoss": "handcrafted",
    "LogCoshLoss": "log_cosh",
    "Loss": "base",
    "MetaLoss": "meta",
    "NeuralLoss": "neural",
    "SparseLabelSmoothingLoss": "sparse",
    "SparselySmoothedLoss": "sparse",
    "SymbolicLoss": "symbolic",
    "TaylorLoss": "taylor",
    "load_loss": "files",
    "save_loss": "files",
}

__all__ = [
    "AbsoluteCrossEntropyLoss",
    "FocalLoss",
    "FocalSparseLabelSmoothingLoss",
    "GeneralizedCrossEntropyLoss",
    "LabelSmoothingLoss",
    "LogCoshLoss",
    "Loss",
    "MetaLoss",
    "NeuralLoss",
    "SparseLabelSmoothingLoss",
    "SparselySmoothedLoss",
    "SymbolicLoss",
    "TaylorLoss",
    "load_loss",
    "save_loss",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evomal.losses' has no attribute {name!r}")
    value = getattr(import_module(f"evomal.losses.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
