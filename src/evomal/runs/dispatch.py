"""Pieces of work on their way through an executor: retried once, ended when the time is up."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Any

from evomal.runs.execution import Execution, StopConditions
from evomal.runs.executors import Executor, WorkError

ATTEMPTS = 2
"""How often a piece of work is tried before it is given up."""


@dataclass(frozen=True)
class _Piece:
    label: Hashable
    function: Callable[..., Any]
    args: tuple[Any, ...]
    attempt: int = 1


class Dispatcher:
    """Gives work to an executor, and takes it back.

    Work that fails is tried once more on a fresh worker. That a machine was lost is not its fault
    and not counted.
    """

    def __init__(self, executor: Executor, execution: Execution) -> None:
        self.stop = StopConditions(execution)
        self._executor = executor
        self._candidate_timeout = execution.candidate_timeout
        self._running: dict[Future[Any], _Piece] = {}

    @property
    def has_room(self) -> bool:
        """Whether a worker is idle."""
        return len(self._running) < self._executor.workers

    @property
    def is_busy(self) -> bool:
        """Whether work is under way."""
        return bool(self._running)

    def start(self, label: Hashable, function: Callable[..., Any], *args: Any) -> None:
        """Begin a piece of work, ``function(tasks, *args)``."""
        self._submit(_Piece(label, function, args))

    def finished(self) -> Iterator[tuple[Any, Any]]:
        """Wait; then the label of every finished piece with its value, or with its `WorkError`.

        Raises
        ------
        SearchStopped
            If the time is up.
        InputError
            If no worker can be had.
        """
        done, _ = wait(self._running, timeout=self.stop.seconds_left(), return_when=FIRST_COMPLETED)
        if not done:
            self.stop.check_time()
        for future in done:
            piece = self._running.pop(future)
            try:
                value: Any = future.result()
            except WorkError as error:
                if error.timed_out:
                    self.stop.check_time()
                attempt = piece.attempt + (not error.machine_lost)
                if attempt <= ATTEMPTS:
                    self._submit(replace(piece, attempt=attempt))
                    continue
                value = error
            yield piece.label, value

    def _submit(self, piece: _Piece) -> None:
        self.stop.check_time()
        limits = [self._candidate_timeout, self.stop.seconds_left()]
        timeout = min((limit for limit in limits if limit is not None), default=None)
        future = self._executor.submit(piece.function, *piece.args, timeout=timeout)
        self._running[future] = piece
