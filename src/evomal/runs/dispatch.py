"""Dispatch of work to the executor of a run.

Failed work is retried once; all work ends at the time limit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Any

import torch

from evomal.runs.execution import Execution, StopConditions, available_cores
from evomal.runs.executors import Executor, InProcess, WorkError, late
from evomal.tasks.task import Task
from evomal.training.settings import TrainingSettings

ATTEMPTS = 2
"""Number of attempts per piece of work."""

MACHINES_LOST = 8
"""Number of machines lost during a piece of work before the work counts as the cause."""


@dataclass(frozen=True)
class _Piece:
    label: Hashable
    function: Callable[..., Any]
    args: tuple[Any, ...]
    candidates: int
    spent: float
    attempt: int = 1
    machines_lost: int = 0


class Dispatcher:
    """Submits work to an executor and collects the results.

    Failed work is retried once; its worker is never used again. The loss of a machine does not
    count as a failure unless it happens repeatedly. `start` is the start time of the run by
    ``time.monotonic()``; default now.
    """

    def __init__(
        self, executor: Executor, execution: Execution, start: float | None = None
    ) -> None:
        self.stop = StopConditions(execution, start)
        self._executor = executor
        self._candidate_timeout = execution.candidate_timeout
        self._running: dict[Future[Any], _Piece] = {}

    @property
    def has_room(self) -> bool:
        """Whether a worker is idle."""
        return len(self._running) < self._executor.workers

    @property
    def is_busy(self) -> bool:
        """Whether work is in progress."""
        return bool(self._running)

    def start(
        self,
        label: Hashable,
        function: Callable[..., Any],
        *args: Any,
        candidates: int = 1,
        spent: float = 0.0,
    ) -> None:
        """Submit a piece of work, ``function(workbench, *args)``, on a number of candidates.

        `spent` is how many seconds earlier pieces of the same work have taken.
        """
        self._submit(_Piece(label, function, args, candidates, spent))

    def abandon(self) -> None:
        """Ignore the results of all work in progress."""
        self._running.clear()

    def finished(self) -> Iterator[tuple[Any, Any]]:
        """Wait, then return the label of every finished piece with its value or `WorkError`.

        Raises
        ------
        SearchStopped
            At the time limit.
        InputError
            If no worker can be started.
        """
        # In slices, because Ctrl-C cannot interrupt a long wait on every platform.
        limits = [limit for limit in (1.0, self.stop.seconds_left()) if limit is not None]
        done, _ = wait(self._running, timeout=min(limits), return_when=FIRST_COMPLETED)
        if not done:
            self.stop.check_time()
        for future in done:
            piece = self._running.pop(future)
            error = future.exception()
            if not isinstance(error, WorkError):
                yield piece.label, future.result()
                continue
            if error.timed_out:
                self.stop.check_time()
                if piece.spent:
                    error = late(self._time_of(piece))
            if error.machine_lost:
                piece = replace(piece, machines_lost=piece.machines_lost + 1)
            else:
                piece = replace(piece, attempt=piece.attempt + 1)
            if piece.attempt <= ATTEMPTS and piece.machines_lost <= MACHINES_LOST:
                self._submit(piece)
            else:
                yield piece.label, error

    def _submit(self, piece: _Piece) -> None:
        self.stop.check_time()
        own = self._time_of(piece)
        limits = [own and max(0.0, own - piece.spent), self.stop.seconds_left()]
        timeout = min((limit for limit in limits if limit is not None), default=None)
        future = self._executor.submit(piece.function, *piece.args, timeout=timeout)
        self._running[future] = piece

    def _time_of(self, piece: _Piece) -> float | None:
        """Seconds that a piece of work may take, with what was spent before; None: any."""
        own = self._candidate_timeout
        return None if own is None else own * piece.candidates


def open_executor(
    tasks: Sequence[Task], settings: TrainingSettings, seed: int, execution: Execution, most: int
) -> Executor:
    """The executor of a run, with at most `most` workers unless their number is given.

    Raises
    ------
    InputError
        If a task cannot be sent to workers, or the cluster cannot be reached.
    """
    workers, threads = execution.workers, settings.threads
    if execution.executor == "ray":
        from evomal.runs.ray_actors import RayActors

        return RayActors(tasks, settings, seed, workers, execution.ray_address, most)
    on_gpu = tasks[0].device.type != "cpu"
    if workers == 1 or (workers == "auto" and not on_gpu and default_workers(tasks, threads) == 1):
        return InProcess(tasks, settings, seed)
    from evomal.runs.processes import LocalProcesses

    # On a GPU, even a single worker is a process: some errors make a GPU unusable in a process.
    count = min(default_workers(tasks, threads), most) if workers == "auto" else workers
    return LocalProcesses(tasks, settings, seed, count)


def default_workers(tasks: Sequence[Task], threads: int) -> int:
    """Number of candidates that this machine can process in parallel: GPUs, or cores ÷ threads."""
    if tasks[0].device.type == "cpu":
        return max(1, available_cores() // threads)
    count: int = torch.get_device_module(tasks[0].device).device_count()
    return count
