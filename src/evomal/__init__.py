"""EvoMAL: learn a symbolic loss function for any PyTorch model and data set."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomal.errors import InputError
    from evomal.expressions.expression import Expression, parse
    from evomal.losses.files import load_loss, save_loss
    from evomal.losses.symbolic import SymbolicLoss
    from evomal.methods.settings import SearchSettings
    from evomal.runs.callbacks import Callback
    from evomal.runs.run import Run
    from evomal.runs.search import SearchInterrupted, search
    from evomal.tasks.registry import load_task
    from evomal.tasks.task import SGD, Task
    from evomal.training.meta_testing import compare

__version__ = "0.1.0"

# Imported on first use: importing torch takes seconds, and `evomal --help` does not need it.
_HOMES = {
    "Callback": "evomal.runs.callbacks",
    "Expression": "evomal.expressions.expression",
    "InputError": "evomal.errors",
    "Run": "evomal.runs.run",
    "SGD": "evomal.tasks.task",
    "SearchInterrupted": "evomal.runs.search",
    "SearchSettings": "evomal.methods.settings",
    "SymbolicLoss": "evomal.losses.symbolic",
    "Task": "evomal.tasks.task",
    "compare": "evomal.training.meta_testing",
    "load_loss": "evomal.losses.files",
    "load_task": "evomal.tasks.registry",
    "parse": "evomal.expressions.expression",
    "save_loss": "evomal.losses.files",
    "search": "evomal.runs.search",
}

__all__ = [
    "SGD",
    "Callback",
    "Expression",
    "InputError",
    "Run",
    "SearchInterrupted",
    "SearchSettings",
    "SymbolicLoss",
    "Task",
    "compare",
    "load_loss",
    "load_task",
    "parse",
    "save_loss",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evomal' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
