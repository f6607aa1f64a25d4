"""Where the work on candidates is done: in this process, in local ones, or in a Ray cluster.

The work is a pure function of (tasks, settings, seed, candidate), so it does not matter where. The
first three are the same for a whole run: every worker makes one `Workbench` of them. All executors
keep one contract: `submit` returns a future that holds the function's value or a
`WorkError`; after a `WorkError` the worker that it happened on is never used again.
"""

from __future__ import annotations

import ctypes
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import torch

from evomal.errors import InputError
from evomal.tasks.precision import float32_precisions, set_float32_precisions
from evomal.tasks.task import Task
from evomal.training.numerics import DeadlineError, DivergedError, deadline
from evomal.training.settings import TrainingSettings
from evomal.training.stages import stage_of
from evomal.training.workbench import Workbench

T = TypeVar("T")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


class WorkError(Exception):
    """A piece of work came to nothing; the message says why, on one line.

    Attributes
    ----------
    timed_out
        It ran past its timeout.
    machine_lost
        The machine it ran on is gone, so the work itself is not to blame.
    """

    def __init__(self, reason: str, *, timed_out: bool = False, machine_lost: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out
        self.machine_lost = machine_lost
        self._stage: str | None = None
        self._verb = "was given up:"

    @classmethod
    def raised(cls, error: Exception) -> WorkError:
        """Of work that raised an error."""
        is_divergence = isinstance(error, DivergedError)
        own = cls(str(error) if is_divergence else describe_error(error))
        own._stage = stage_of(error)
        own._verb = "failed, as" if is_divergence else "failed with"
        return own

    def reason(self, stage: str) -> str:
        """What is recorded of a candidate: the stage, unless it is known better, and the error."""
        return f"{self._stage or stage} {self._verb} {self}"


class Executor(Protocol):
    """Runs ``function(workbench, *args)`` somewhere, `workers` of them at a time."""

    workers: int

    def submit(
        self, function: Callable[..., T], *args: Any, timeout: float | None = None
    ) -> Future[T]:
        """Start the work, to be given up after `timeout` seconds.

        The future holds its value; a `WorkError` if it raised, ran late or lost its worker; or an
        `InputError` if no worker can be had.
        """
        ...

    def close(self) -> None:
        """Give everything back, at once, whatever is still running."""
        ...


class InProcess:
    """Does the work at once, in this process."""

    workers = 1

    def __init__(self, tasks: Sequence[Task], settings: TrainingSettings, seed: int) -> None:
        self._bench = Workbench(tasks, settings, seed)
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(settings.threads)

    def submit(
        self, function: Callable[..., T], *args: Any, timeout: float | None = None
    ) -> Future[T]:
        """Do the work and return a future that is done."""
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
        """Put torch's number of threads back."""
        torch.set_num_threads(self._threads_before)


def attempt(
    function: Callable[..., T], bench: Workbench, args: Sequence[Any]
) -> tuple[bool, T | WorkError]:
    """In a worker: (True, the value of the function), or (False, the error of what it raised)."""
    try:
        return True, function(bench, *args)
    except Exception as error:  # noqa: BLE001 - a user's model or metric may raise anything
        return False, WorkError.raised(error)


def torch_settings() -> dict[str, Any]:
    """Settings of torch that change results, for workers to have the same."""
    return {
        "default_dtype": torch.get_default_dtype(),
        "float32": float32_precisions(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def prepare_worker(threads: int, settings: Mapping[str, Any]) -> None:
    """In a worker process: torch as it is in the coordinator, and memory that is kept."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own code, even under -W error
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.set_default_dtype(settings["default_dtype"])
    set_float32_precisions(settings["float32"])
    torch.use_deterministic_algorithms(settings["deterministic"], warn_only=settings["warn_only"])
    torch.backends.cudnn.deterministic = settings["cudnn_deterministic"]
    torch.backends.cudnn.benchmark = settings["cudnn_benchmark"]


def keep_freed_memory() -> None:
    """Let this process use freed memory again, where the C library is glibc.

    As it is, large tensors are given back to the system at every step and fetched again page by
    page, which is up to a tenth of the time of a search. Now pieces of up to 32 MiB are kept, but
    for more than 256 MiB at the end of the heap.
    """
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_TRIM_THRESHOLD, 1 << 28)
            mallopt(_M_MMAP_THRESHOLD, 1 << 25)  # the most there is


def describe_error(error: Exception) -> str:
    """An error on one line, with its type."""
    lines = str(error).split("\n")
    text = next((line.strip() for line in lines if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def late(timeout: float | None) -> WorkError:
    """The error of work that ran past its timeout."""
    return WorkError(f"it took longer than {timeout:g} s", timed_out=True)


def require_picklable(tasks: Sequence[Task]) -> None:
    """Raise an `InputError` if a task cannot be sent to another process."""
    for task in tasks:
        for part in (task.model, task.task_loss, task.metric, task.preprocess, task.augment):
            try:
                pickle.dumps(part)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise InputError(
                    f"The task {task.name!r} cannot be sent to worker processes ({error}); "
                    "define its functions at the top of a module, or use one worker."
                ) from error
