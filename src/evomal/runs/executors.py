"""Where the work on candidates is done: in this process, in local ones, or in a Ray cluster.

The work is a pure function of (tasks, candidate, seed, settings), so it does not matter where. All
executors keep one contract: `submit` returns a future that holds the function's value or a
`WorkError`; after a `WorkError` the worker that it happened on is never used again.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import torch

from evomal.errors import InputError
from evomal.runs.execution import Execution, available_cores
from evomal.tasks.task import Task
from evomal.training.numerics import DeadlineError, deadline

T = TypeVar("T")


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


class Executor(Protocol):
    """Runs ``function(tasks, *args)`` somewhere, `workers` of them at a time."""

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

    def __init__(self, tasks: Sequence[Task], threads: int) -> None:
        self._tasks = tasks
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)

    def submit(
        self, function: Callable[..., T], *args: Any, timeout: float | None = None
    ) -> Future[T]:
        """Do the work and return a future that is done."""
        future: Future[T] = Future()
        try:
            with deadline(timeout):
                future.set_result(function(self._tasks, *args))
        except DeadlineError:
            future.set_exception(late(timeout))
        except Exception as error:  # noqa: BLE001 - a user's model or metric may raise anything
            work_error = WorkError(describe_error(error))
            work_error.__cause__ = error
            future.set_exception(work_error)
        return future

    def close(self) -> None:
        """Put torch's number of threads back."""
        torch.set_num_threads(self._threads_before)


def attempt(
    function: Callable[..., T], tasks: Sequence[Task], args: Sequence[Any]
) -> tuple[bool, T | str]:
    """In a worker: (True, the value of the function), or (False, what it raised)."""
    try:
        return True, function(tasks, *args)
    except Exception as error:  # noqa: BLE001 - a user's model or metric may raise anything
        return False, describe_error(error)


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
        for part in (task.model, task.task_loss, task.metric, task.preprocess):
            try:
                pickle.dumps(part)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise InputError(
                    f"The task {task.name!r} cannot be sent to worker processes ({error}); "
                    "define its functions at the top of a module, or use one worker."
                ) from error


def open_executor(tasks: Sequence[Task], threads: int, execution: Execution) -> Executor:
    """The executor for the settings.

    Raises
    ------
    InputError
        If a task cannot be sent to workers, or the cluster cannot be reached.
    """
    workers = execution.workers
    if execution.executor == "ray":
        from evomal.runs.ray_actors import RayActors

        return RayActors(tasks, threads, workers, execution.ray_address)
    if workers == "auto":
        workers = default_workers(tasks, threads)
    if workers == 1:
        return InProcess(tasks, threads)
    from evomal.runs.processes import LocalProcesses

    return LocalProcesses(tasks, threads, workers)


def default_workers(tasks: Sequence[Task], threads: int) -> int:
    """How many candidates fit on this machine at a time: its GPUs, or cores ÷ threads."""
    if tasks[0].device.type != "cpu":
        count: int = torch.get_device_module(tasks[0].device).device_count()
        return count
    return max(1, available_cores() // threads)
