"""Workers in spawned processes on this machine; a worker is replaced after an error.

One thread per worker waits for its results, and every worker has its own pipe, so a process that
dies never holds anything that another one needs.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from evomal.errors import InputError
from evomal.interrupts import interrupts_held
from evomal.runs.executors import (
    WorkError,
    attempt,
    late,
    prepare_worker,
    torch_settings,
)
from evomal.runs.sending import Sent, received, require_picklable, sent
from evomal.tasks.task import Task
from evomal.training.settings import TrainingSettings
from evomal.training.workbench import Workbench

T = TypeVar("T")

_SPAWN = multiprocessing.get_context("spawn")
_START_ATTEMPTS = 3  # in a row
_DIES_WITHIN = 10.0  # seconds, unless it is stuck in the kernel
_LONGEST_WAIT = 20 * 86400.0  # seconds; the system's limit is 24 days


class LocalProcesses:
    """Spawned processes, each with a `Workbench`; the tasks' data is in shared memory.

    Tasks made in Python are pickled; those that `evomal.load_task` has imported are imported again.
    GPUs are assigned to workers in turn.

    Raises
    ------
    InputError
        If a task cannot be sent to another process, as with a lambda for a model factory.
    """

    def __init__(
        self, tasks: Sequence[Task], settings: TrainingSettings, seed: int, workers: int
    ) -> None:
        self._tasks = sent(tasks)
        require_picklable(self._tasks)
        self.workers = workers
        self._devices = [_device_of_worker(tasks[0], index) for index in range(workers)]
        self._settings, self._seed = settings, seed
        self._lock = threading.Lock()
        self._closed = False
        self._started_once = False
        self._alive: set[_Worker] = set()
        if os.name == "posix":
            resource_tracker.ensure_running()  # starting it later would let Ctrl-C through
        try:
            self._idle = [self._start(index) for index in range(workers)]
        except BaseException:
            for worker in self._alive:
                worker.end()
            raise
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="evomal-worker")

    def submit(
        self, function: Callable[..., T], *args: Any, timeout: float | None = None
    ) -> Future[T]:
        """Start the work on an idle worker, or on the next one to become idle."""
        return self._pool.submit(self._attempt, function, args, timeout)

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._closed = True
            for worker in self._alive:
                worker.process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for worker in self._alive:
            worker.end()

    def _attempt(self, function: Callable[..., T], args: Sequence[Any], timeout: float | None) -> T:
        """Do a piece of work on a worker of this thread; there is one worker per thread."""
        worker = self._take()
        try:
            value: T = worker.work(function, args, timeout)
        except WorkError:
            self._replace(worker)
            raise
        self._idle.append(worker)
        return value

    def _take(self) -> _Worker:
        """A worker that is ready.

        Raises
        ------
        InputError
            If none can be started.
        """
        worker = self._idle.pop()
        for _ in range(_START_ATTEMPTS):
            try:
                ready = worker.wait_until_ready()
            except InputError:
                self._idle.append(worker)  # it says the same to whoever is next
                raise
            if ready:
                self._started_once = True
                return worker
            if not (worker.was_killed or self._started_once):
                self._idle.append(worker)
                break  # another attempt would fail, too
            self._replace(worker)
            worker = self._idle.pop()
        raise InputError(
            "The worker processes cannot start; see their output. (In a script, guard the "
            'search with `if __name__ == "__main__":`, as spawned processes import the script.)'
        )

    def _replace(self, worker: _Worker) -> None:
        worker.end()
        with self._lock:
            self._alive.discard(worker)
        self._idle.append(self._start(worker.index))

    def _start(self, index: int) -> _Worker:
        with self._lock:
            if self._closed:
                raise WorkError("the executor was closed")
            try:
                worker = _Worker(
                    index, self._tasks, self._settings, self._seed, self._devices[index]
                )
            except (OSError, RuntimeError) as error:
                if "bootstrapping" in str(error):  # this is a worker, importing an unguarded script
                    raise
                raise InputError(
                    f"Cannot start a worker process ({error}); use fewer workers, or increase the "
                    "memory (the data is in shared memory; in Docker, set --shm-size)."
                ) from error
            self._alive.add(worker)
        return worker


class _Worker:
    """One process and our end of its pipe."""

    def __init__(
        self,
        index: int,
        tasks: Sequence[Sent],
        settings: TrainingSettings,
        seed: int,
        device: torch.device,
    ) -> None:
        self.index = index
        self._ready = False
        self._failure: InputError | None = None
        self._pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(
            target=_serve,
            args=(theirs, tasks, settings, seed, device, torch_settings()),
            daemon=True,
        )
        with interrupts_held():
            self.process.start()
        theirs.close()

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended the process."""
        self.process.join(1.0)
        return (self.process.exitcode or 0) < 0

    def wait_until_ready(self) -> bool:
        """Whether it has started and is alive; blocks until this is known.

        Raises
        ------
        InputError
            If it cannot import a task.
        """
        if self._failure is not None:
            raise self._failure
        if not self._ready:
            try:
                answer = self._receive(None)
            except (EOFError, OSError):
                return False
            if isinstance(answer, InputError):
                self._failure = answer
                raise answer
            self._ready = True
        return self.process.is_alive()

    def work(self, function: Callable[..., Any], args: Sequence[Any], timeout: float | None) -> Any:
        """The value of the function.

        Raises
        ------
        WorkError
            If it raised, timed out, or the process died.
        """
        try:
            self._pipe.send_bytes(pickle.dumps((function, args)))
            done, value = self._receive(timeout)
        except TimeoutError as error:
            raise late(timeout) from error
        except (EOFError, OSError) as error:
            self.process.join(1.0)
            raise WorkError(f"its worker process died ({self._last_words()})") from error
        if not done:
            raise value
        return value

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.join(_DIES_WITHIN)
        self._pipe.close()

    def _receive(self, timeout: float | None) -> Any:
        if timeout is not None:
            timeout = min(timeout, _LONGEST_WAIT)
        ready = wait([self._pipe, self.process.sentinel], timeout)
        if not ready:
            raise TimeoutError
        if self._pipe not in ready and not self._pipe.poll():  # it can die after its last message
            raise EOFError
        return pickle.loads(self._pipe.recv_bytes())  # noqa: S301 - from our own process

    def _last_words(self) -> str:
        code = self.process.exitcode
        if code == -9:
            return "SIGKILL, possibly out of memory"
        if code is not None and code < 0:
            return f"signal {-code}"
        return f"exit status {code}"


def _device_of_worker(task: Task, index: int) -> torch.device:
    """The CPU, the requested GPU, or one GPU for every worker in turn."""
    if task.device.type == "cpu" or str(task.device) != task.device.type:
        return task.device
    count = torch.get_device_module(task.device).device_count()
    return torch.device(task.device.type, index % count)


def _serve(
    pipe: Connection[Any, Any],
    tasks: Sequence[Sent],
    settings: TrainingSettings,
    seed: int,
    device: torch.device,
    of_torch: Mapping[str, Any],
) -> None:
    """The main loop of a worker process: answer requests until the pipe closes.

    Ctrl-C is handled by the coordinator; if the coordinator dies, the worker ends immediately.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare_worker(settings.threads, of_torch)
    try:
        bench = Workbench(received(tasks, device), settings, seed)
    except InputError as error:
        pipe.send_bytes(pickle.dumps(error))
        return
    answer: object = "ready"
    while True:
        message = pickle.dumps(answer)
        try:
            pipe.send_bytes(message)
            request = pipe.recv_bytes()
        except (EOFError, OSError):  # the coordinator is gone
            return
        function, args = pickle.loads(request)  # noqa: S301 - from our coordinator
        answer = attempt(function, bench, args)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
