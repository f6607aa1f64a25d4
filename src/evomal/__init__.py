"""EvoMAL: learn a symbolic loss function for any PyTorch model and data set."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomal.errors import InputError, TaskWarning
    from evomal.expressions.expression import Expression, parse
    from evomal.losses.files import load_loss, save_loss
    from evomal.losses.handcrafted import LabelSmoothingLoss
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
    from evomal.methods.baseline import BaselineSettings
    from evomal.methods.evomal import EvoMALSettings
    from evomal.methods.glo import GLOSettings
    from evomal.methods.gp_lfl import GPLFLSettings
    from evomal.methods.ml3 import ML3Settings
    from evomal.methods.settings import SearchSettings
    from evomal.methods.taylorglo import TaylorGLOSettings
    from evomal.runs.callbacks import Callback, RunStart
    from evomal.runs.check import Check, Finding, check_task
    from evomal.runs.execution import Execution
    from evomal.runs.progress import PlainProgress
    from evomal.runs.run import Run
    from evomal.runs.scoring import Score, Scorer, score
    from evomal.runs.search import SearchInterrupted, resume, search
    from evomal.runs.trackers import MLflowTracker, TensorBoardTracker
    from evomal.tasks.metrics import PerformanceMetric
    from evomal.tasks.optimizers import SGD, Adam, AdamW
    from evomal.tasks.registry import load_task
    from evomal.tasks.schedules import Cosine, Milestones
    from evomal.tasks.task import Task
    from evomal.training.meta_testing import compare

__version__ = "0.1.0"

# Imported on first use: importing torch takes seconds, and `evomal --help` does not need it.
_HOMES = {
    "AbsoluteCrossEntropyLoss": "evomal.losses.target",
    "Adam": "evomal.tasks.optimizers",
    "AdamW": "evomal.tasks.optimizers",
    "BaselineSettings": "evomal.methods.baseline",
    "Callback": "evomal.runs.callbacks",
    "Check": "evomal.runs.check",
    "Cosine": "evomal.tasks.schedules",
    "EvoMALSettings": "evomal.methods.evomal",
    "Execution": "evomal.runs.execution",
    "Expression": "evomal.expressions.expression",
    "Finding": "evomal.runs.check",
    "FocalLoss": "evomal.losses.target",
    "FocalSparseLabelSmoothingLoss": "evomal.losses.sparse",
    "GeneralizedCrossEntropyLoss": "evomal.losses.target",
    "GLOSettings": "evomal.methods.glo",
    "GPLFLSettings": "evomal.methods.gp_lfl",
    "InputError": "evomal.errors",
    "LabelSmoothingLoss": "evomal.losses.handcrafted",
    "LogCoshLoss": "evomal.losses.log_cosh",
    "ML3Settings": "evomal.methods.ml3",
    "MLflowTracker": "evomal.runs.trackers",
    "Milestones": "evomal.tasks.schedules",
    "NeuralLoss": "evomal.losses.neural",
    "PerformanceMetric": "evomal.tasks.metrics",
    "PlainProgress": "evomal.runs.progress",
    "Run": "evomal.runs.run",
    "RunStart": "evomal.runs.callbacks",
    "SGD": "evomal.tasks.optimizers",
    "Score": "evomal.runs.scoring",
    "Scorer": "evomal.runs.scoring",
    "SearchInterrupted": "evomal.runs.search",
    "SearchSettings": "evomal.methods.settings",
    "SparseLabelSmoothingLoss": "evomal.losses.sparse",
    "SparselySmoothedLoss": "evomal.losses.sparse",
    "SymbolicLoss": "evomal.losses.symbolic",
    "Task": "evomal.tasks.task",
    "TaskWarning": "evomal.errors",
    "TaylorGLOSettings": "evomal.methods.taylorglo",
    "TaylorLoss": "evomal.losses.taylor",
    "TensorBoardTracker": "evomal.runs.trackers",
    "check_task": "evomal.runs.check",
    "compare": "evomal.training.meta_testing",
    "load_loss": "evomal.losses.files",
    "load_task": "evomal.tasks.registry",
    "parse": "evomal.expressions.expression",
    "resume": "evomal.runs.search",
    "save_loss": "evomal.losses.files",
    "score": "evomal.runs.scoring",
    "search": "evomal.runs.search",
}

__all__ = [
    "SGD",
    "AbsoluteCrossEntropyLoss",
    "Adam",
    "AdamW",
    "BaselineSettings",
    "Callback",
    "Check",
    "Cosine",
    "EvoMALSettings",
    "Execution",
    "Expression",
    "Finding",
    "FocalLoss",
    "FocalSparseLabelSmoothingLoss",
    "GLOSettings",
    "GPLFLSettings",
    "GeneralizedCrossEntropyLoss",
    "InputError",
    "LabelSmoothingLoss",
    "LogCoshLoss",
    "ML3Settings",
    "MLflowTracker",
    "Milestones",
    "NeuralLoss",
    "PerformanceMetric",
    "PlainProgress",
    "Run",
    "RunStart",
    "Score",
    "Scorer",
    "SearchInterrupted",
    "SearchSettings",
    "SparseLabelSmoothingLoss",
    "SparselySmoothedLoss",
    "SymbolicLoss",
    "Task",
    "TaskWarning",
    "TaylorGLOSettings",
    "TaylorLoss",
    "TensorBoardTracker",
    "check_task",
    "compare",
    "load_loss",
    "load_task",
    "parse",
    "resume",
    "save_loss",
    "score",
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
