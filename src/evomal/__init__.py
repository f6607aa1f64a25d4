"""EvoMAL: learn a symbolic loss function for any PyTorch model and data set."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomal.expressions.expression import Expression, parse
    from evomal.losses.files import load_loss, save_loss
    from evomal.losses.symbolic import SymbolicLoss

__version__ = "0.1.0"

# Imported on first use: importing torch takes seconds, and `evomal --help` does not need it.
_HOMES = {
    "Expression": "evomal.expressions.expression",
    "SymbolicLoss": "evomal.losses.symbolic",
    "load_loss": "evomal.losses.files",
    "parse": "evomal.expressions.expression",
    "save_loss": "evomal.losses.files",
}

__all__ = ["Expression", "SymbolicLoss", "load_loss", "parse", "save_loss"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evomal' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
