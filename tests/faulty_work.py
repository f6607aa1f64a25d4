"""Work that goes wrong in every way, for the tests of executors; importable in worker processes."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomal.runs.executors import torch_settings
from evomal.training.workbench import Workbench


def pid(bench: Workbench) -> int:
    return os.getpid()


def has_imported(bench: Workbench, module: str) -> bool:
    return module in sys.modules


def settings(bench: Workbench) -> dict[str, Any]:
    return torch_settings()


def page_faults(bench: Workbench) -> int:
    """Of making and freeing 42 MiB five times; the least of four tries, as a heap may grow once."""

    def make() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            pieces = [torch.ones(mebibytes << 18) for mebibytes in (6, 9, 12, 15)]
            del pieces
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    return min(make() for _ in range(4))


def inputs(bench: Workbench) -> tuple[list[str], Tensor, bool]:
    data = bench.tasks[0].train.inputs
    return [task.name for task in bench.tasks], data, data.is_shared()


def double(bench: Workbench) -> None:
    bench.tasks[0].train.inputs.mul_(2)


def fail(bench: Workbench) -> None:
    raise ValueError("first line\nsecond line")


def fail_silently(bench: Workbench) -> None:
    raise AssertionError


def run_out_of_memory(bench: Workbench) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def return_what_cannot_be_sent(bench: Workbench) -> Any:
    return lambda: None


def die(bench: Workbench) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(bench: Workbench) -> None:
    os._exit(7)


def hang(bench: Workbench, mark: str) -> None:
    """Until the end of time, after leaving the process's number in a file."""
    Path(mark).write_text(str(os.getpid()))
    threading.Event().wait()


def mean_squared_error(pred: Tensor, target: Tensor) -> Tensor:
    return torch.nn.functional.mse_loss(pred, target)


class FailsOnce:
    """A metric that goes wrong when it is first computed on predictions of a certain error.

    Parameters
    ----------
    mark
        A file that remembers whether it has gone wrong before.
    how
        A function of this module.
    value
        The mean squared error at which it goes wrong; None for the first of all.
    often
        How often it goes wrong.
    """

    def __init__(self, mark: Path, how: str, value: float | None = None, often: int = 1) -> None:
        self.mark, self.how, self.value, self.often = mark, how, value, often

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        result = mean_squared_error(pred, target)
        if self.value is None or abs(float(result) - self.value) < 1e-9:
            times = len(self.mark.read_bytes()) if self.mark.exists() else 0
            if times < self.often:
                self.mark.write_bytes(b"x" * (times + 1))
                if self.how == "hang":
                    threading.Event().wait()
                globals()[self.how](None)
        return result


class Faulty:
    """A metric that goes wrong in all these ways."""

    def __init__(self, faults: Sequence[FailsOnce]) -> None:
        self.faults = faults

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        for fault in self.faults:
            fault(pred, target)
        return mean_squared_error(pred, target)
