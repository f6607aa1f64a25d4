"""Where the work on candidates is done: in this process, or in several local ones.

The work is a pure function of (task, candidate, seed, settings), so it does not matter where.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

import torch

from evomal.errors import InputError
from evomal.tasks.task import Task

T = TypeVar("T")


class Executor(Protocol):
    """Runs ``function(tasks, *args)`` somewhere, `workers` of them at a time."""

    workers: int

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Start the work; the future holds its result or its error."""
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

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Do the work and return a future that is done; an error is raised at once."""
        future: Future[T] = Future()
        future.set_result(function(self._tasks, *args))
        return future

    def close(self) -> None:
        """Put torch's number of threads back."""
        torch.set_num_threads(self._threads_before)


class LocalProcesses:
    """Spawned processes that hold the tasks; tensors are shared memory.

    Raises
    ------
    InputError
        If a task cannot be sent to another process, as with a lambda for a model factory.
    """

    def __init__(self, tasks: Sequence[Task], threads: int, workers: int) -> None:
        self.workers = workers
        for task in tasks:
            for part in (task.model, task.task_loss, task.metric, task.preprocess):
                try:
                    pickle.dumps(part)
                except (pickle.PicklingError, AttributeError, TypeError) as error:
                    raise InputError(
                        f"The task {task.name!r} cannot be sent to worker processes ({error}); "
                        "define its functions at the top of a module, or use one worker."
                    ) from error
        self._pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_initialize,
            initargs=(tasks, threads),
        )

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Start the work in one of the processes.

        Raises
        ------
        InputError
            If the processes cannot start, or one has died.
        """
        try:
            return self._pool.submit(_work, function, *args)
        except BrokenProcessPool as error:
            raise _worker_died() from error

    def close(self) -> None:
        """End the processes."""
        # Python 3.14 has a public method for this, ProcessPoolExecutor.terminate_workers.
        processes = list((vars(self._pool).get("_processes") or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def result_of(future: Future[T]) -> T:
    """The result of finished or running work, or the error that it raised.

    Raises
    ------
    InputError
        If the worker process has died.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise _worker_died() from error


def _worker_died() -> InputError:
    return InputError(
        "A worker process died, perhaps for lack of memory; use fewer workers. (In a script, guard "
        'the search with `if __name__ == "__main__":`, as spawned processes import the script.)'
    )


def open_executor(tasks: Sequence[Task], threads: int, workers: int) -> Executor:
    """The executor for a number of workers."""
    if workers == 1:
        return InProcess(tasks, threads)
    return LocalProcesses(tasks, threads, workers)


def available_workers(threads: int) -> int:
    """How many candidates fit on this machine at a time: cores ÷ threads per candidate."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // threads)


_tasks: Sequence[Task] = ()  # in a worker process


def _initialize(tasks: Sequence[Task], threads: int) -> None:
    """Prepare a worker process; Ctrl-C is the coordinator's to handle."""
    global _tasks
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    _tasks = tasks


def _work(function: Callable[..., T], *args: Any) -> T:
    return function(_tasks, *args)
