"""Executors: they process candidates in this process, in local processes, or in a Ray cluster.

The work is a pure function of (tasks, settings, seed, candidate), so its place does not matter. The
first three are fixed for a run: every worker creates one `Workbench` from them. All executors obey
one contract: `submit` returns a future with the function's value or a `WorkError`; after a
`WorkError`, its worker is never used again.
"""

from __future__ import annotations

import ctypes
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import torch

from evomal.tasks.precision import float32_precisions, set_float32_precisions
from evomal.tasks.task import Task
from evomal.training.numerics import DeadlineError, DivergedError, deadline
from evomal.training.settings import TrainingSettings
from evomal.training.stages import stage_of
from evomal.training.workbench import Workbench

T = TypeVar("T")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


class WorkError(Exception):
    """A piece of work failed; the message gives the reason on one line.

    Attributes
    ----------
    timed_out
        Whether it exceeded its timeout.
    machine_lost
        Whether its machine was lost, so that the work itself is not the cause.
    """

    def __init__(self, reason: str, *, timed_out: bool = False, machine_lost: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out
        self.machine_lost = machine_lost
        self._stage: str | None = None
        self._verb = "was given up:"

    @classmethod
    def raised(cls, error: Exception) -> WorkError:
        """The error for work that raised."""
        is_divergence = isinstance(error, DivergedError)
        own = cls(str(error) if is_divergence else describe_error(error))
        own._stage = stage_of(error)
        own._verb = "failed, as" if is_divergence else "failed with"
        return own

    def reason(self, stage: str) -> str:
        """The reason to record: the stage of the error, or `stage` if unknown, and the error."""
        return f"{self._stage or stage} {self._verb} {self}"


class Executor(Protocol):
    """Runs up to `workers` calls of ``function(workbench, *args)`` in parallel."""

    workers: int

    def submit(
        self, function: Callable[..., T], *args: Any, timeout: float | None = None
    ) -> Future[T]:
        """Start the work, with a timeout of `timeout` seconds.

        The future has its value; a `WorkError` if it raised, timed out or lost its worker; or an
        `InputError` if no worker can be started.
        """
        ...

    def close(self) -> None:
        """Release all resources immediately, even if work is still running."""
        ...


class InProcess:
    """Does the work immediately in this process."""

    workers = 1

    def __init__(self, tasks: Sequence[Task], settings: TrainingSettings, seed: int) -> None:
        self._bench = Workbench(tasks, settings, seed)
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(settings.threads)

    def submit(
        self, function: Callable[..., T], *args: Any, timeout: float | None = None
    ) -> Future[T]:
        """Do the work and return a finished future."""
        future: Future[T] = Future()
        try:
            with deadline(timeout):
                future.set_result(function(self._bench, *args))
        except DeadlineError:
            future.set_exception(late(timeout))
        except Exception as error:  # noqa: BLE001 - a user's model or metric may raise anything
            work_error = WorkError.raised(error)
            work_error.__cause__ = error
            traceback.clear_frames(error.__traceback__)  # they hold models, batches, gradients
            future.set_exception(work_error)
        return future

    def close(self) -> None:
        """Restore torch's number of threads."""
        torch.set_num_threads(self._threads_before)


def attempt(
    function: Callable[..., T], bench: Workbench, args: Sequence[Any]
) -> tuple[bool, T | WorkError]:
    """Run in a worker: (True, the function's value), or (False, the error)."""
    try:
        return True, function(bench, *args)
    except Exception as error:  # noqa: BLE001 - a user's model or metric may raise anything
        return False, WorkError.raised(error)


def torch_settings() -> dict[str, Any]:
    """Torch settings that change results, to be copied to workers."""
    return {
        "default_dtype": torch.get_default_dtype(),
        "float32": float32_precisions(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def prepare_worker(threads: int, settings: Mapping[str, Any]) -> None:
    """Set up a worker process: torch settings of the coordinator, and reuse of freed memory."""
    warnings.simplefilter("ignore", DeprecationWarning)  # in torch's code, even under -W error
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.set_default_dtype(settings["default_dtype"])
    set_float32_precisions(settings["float32"])
    if settings["deterministic"] or torch.are_deterministic_algorithms_enabled():
        # not otherwise: even a call that changes nothing imports torch's compiler for a second
        torch.use_deterministic_algorithms(
            settings["deterministic"], warn_only=settings["warn_only"]
        )
    torch.backends.cudnn.deterministic = settings["cudnn_deterministic"]
    torch.backends.cudnn.benchmark = settings["cudnn_benchmark"]


def keep_freed_memory() -> None:
    """Let this process reuse freed memory, if the C library is glibc.

    By default, large tensors are returned to the system at every step and mapped again page by
    page, which takes up to a tenth of the time of a search. This keeps blocks of up to 32 MiB,
    except for more than 256 MiB at the end of the heap.
    """
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_TRIM_THRESHOLD, 1 << 28)
            mallopt(_M_MMAP_THRESHOLD, 1 << 25)  # the maximum


def describe_error(error: Exception) -> str:
    """An error on one line, with its type."""
    lines = str(error).split("\n")
    text = next((line.strip() for line in lines if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def late(timeout: float | None) -> WorkError:
    """The error for work that exceeded its timeout."""
    return WorkError(f"it took longer than {timeout:g} s", timed_out=True)
