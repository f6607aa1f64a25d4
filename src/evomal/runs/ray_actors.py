"""Workers as actors in a Ray cluster, for runs on several machines."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from evomal.errors import InputError
from evomal.runs.executors import (
    WorkError,
    attempt,
    describe_error,
    late,
    prepare_worker,
    torch_settings,
)
from evomal.runs.sending import Sent, received, sent
from evomal.tasks.task import Task
from evomal.training.settings import TrainingSettings
from evomal.training.workbench import Workbench

T = TypeVar("T")

_POLL = 0.5  # seconds between polls of the cluster
_LOSS_IS_KNOWN_AFTER = 40.0  # maximum seconds until the cluster detects a lost node
_START_ATTEMPTS = 10  # in a row; several can be on a lost node
_ANSWERS_WITHIN = 10.0  # seconds


@dataclass(frozen=True)
class _Slot:
    """A ready actor and its node."""

    actor: Any
    node: str


class RayActors:
    """Actors, each with a `Workbench`; the tasks are put into the cluster's object store once.

    An actor that dies is replaced as soon as the cluster has resources; until then, the work waits
    for the other actors.

    Raises
    ------
    InputError
        If Ray is not installed, or the cluster cannot be reached or is too small for one worker.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        settings: TrainingSettings,
        seed: int,
        workers: int | Literal["auto"],
        address: str | None,
        most: int,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError('The executor ray needs Ray; pip install "evomal[ray]".') from error
        self._ray: Any = ray
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            address = address or os.environ.get("RAY_ADDRESS")
            try:
                _require_answer(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, ValueError, RuntimeError) as error:
                where = (
                    "cannot be started" if address is None else f"at {address!r} does not answer"
                )
                raise InputError(f"The Ray cluster {where}: {describe_error(error)}") from error
        try:
            gpus = 0 if tasks[0].device.type == "cpu" else 1
            room = self._room(settings.threads, gpus)
            self.workers = min(room, most) if workers == "auto" else workers
            try:
                self._tasks = ray.put(sent(tasks))
            except TypeError as error:
                raise InputError(
                    f"Cannot send the tasks to the Ray cluster: {describe_error(error)}"
                ) from error
            self._new_actor = (
                self._ray.remote(_Actor).options(num_cpus=settings.threads, num_gpus=gpus).remote
            )
            self._arguments = settings, seed, tasks[0].device.type, torch_settings()
            self._lock = threading.Lock()
            self._closed = False
            self._failed_starts = 0
            self._actors: set[Any] = set()
            self._idle: list[_Slot] = []
            self._starting: dict[Any, Any] = {}  # actors by the reference to their first answer
            for _ in range(self.workers):
                self._start()
        except BaseException:
            self._leave()
            raise
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="evomal-ray")

    def submit(
        self, function: Callable[..., T], *args: Any, timeout: float | None = None
    ) -> Future[T]:
        """Start the work on an idle actor, or on the next one to become idle."""
        return self._pool.submit(self._attempt, function, args, timeout)

    def close(self) -> None:
        """End the actors, and Ray itself if it was started here."""
        with self._lock:
            self._closed = True
            for actor in self._actors:
                self._ray.kill(actor)
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._leave()

    def _leave(self) -> None:
        if self._is_ours:
            self._ray.shutdown()

    def _room(self, threads: int, gpus: int) -> int:
        """Number of workers that fit in the cluster."""
        resources = self._ray.cluster_resources()
        room = int(resources.get("CPU", 0) // threads)
        room = min(room, int(resources.get("GPU", 0))) if gpus else room
        if room < 1:
            raise InputError(
                f"The Ray cluster is too small for a worker with {threads} CPUs and {gpus} GPUs; "
                f"it has {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs."
            )
        return room

    def _start(self) -> None:
        actor = self._new_actor(self._tasks, *self._arguments)
        self._actors.add(actor)
        self._starting[actor.node.remote()] = actor

    def _take(self) -> _Slot:
        """An idle actor; waits until there is one.

        Raises
        ------
        InputError
            If actors do not start.
        """
        while not self._closed:
            with self._lock:
                if self._idle:
                    return self._idle.pop()
                starting = list(self._starting)
            if starting:
                started, _ = self._ray.wait(starting, timeout=_POLL)
            else:
                time.sleep(_POLL)
                started = []
            for reference in started:
                self._admit(reference)
        raise WorkError("the executor was closed")

    def _admit(self, reference: Any) -> None:
        """Add an actor to the idle ones after its first answer."""
        with self._lock:
            actor = self._starting.pop(reference, None)
            if actor is None:  # done by another thread
                return
            try:
                answer = self._ray.get(reference)
                if isinstance(answer, InputError):
                    raise answer
                self._idle.append(_Slot(actor, answer))
                self._failed_starts = 0
            except self._ray.exceptions.RayError as error:
                self._actors.discard(actor)
                self._failed_starts += 1
                if self._failed_starts >= _START_ATTEMPTS:
                    raise InputError(
                        f"Cannot start workers in the Ray cluster: {describe_error(error)}"
                    ) from error
                self._start()

    def _attempt(self, function: Callable[..., T], args: Sequence[Any], timeout: float | None) -> T:
        slot = self._take()
        errors = self._ray.exceptions
        try:
            done, value = self._ray.get(slot.actor.work.remote(function, args), timeout=timeout)
        except errors.GetTimeoutError as error:
            self._replace(slot)
            raise late(timeout) from error
        except errors.RayError as error:
            lost = not self._closed and self._is_lost(slot.node)
            self._replace(slot)
            reason = (
                "its machine was lost" if lost else f"its worker died ({describe_error(error)})"
            )
            raise WorkError(reason, machine_lost=lost) from error
        if not done:
            self._replace(slot)
            raise value
        with self._lock:
            self._idle.append(slot)
        result: T = value
        return result

    def _replace(self, slot: _Slot) -> None:
        with self._lock:
            if not self._closed:
                self._ray.kill(slot.actor)
                self._actors.discard(slot.actor)
                self._start()

    def _is_lost(self, node: str) -> bool:
        """Whether a node has left the cluster; this is detected with a delay."""
        end = time.monotonic() + _LOSS_IS_KNOWN_AFTER
        while time.monotonic() < end and not self._closed:
            if not any(n["NodeID"] == node and n["Alive"] for n in self._ray.nodes()):
                return True
            time.sleep(_POLL)
        return False


def _require_answer(address: str | None) -> None:
    """Raise an ``OSError`` if nothing listens at host:port, because Ray would end the process."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_ANSWERS_WITHIN).close()


class _Actor:
    """The actor in the cluster."""

    def __init__(
        self,
        tasks: Sequence[Sent],
        settings: TrainingSettings,
        seed: int,
        device: str,
        of_torch: Mapping[str, Any],
    ) -> None:
        prepare_worker(settings.threads, of_torch)
        self._failure: InputError | None = None
        try:
            self._bench = Workbench(received(tasks, device), settings, seed)
        except InputError as error:
            self._failure = error

    def node(self) -> str | InputError:
        """The node of the actor when it is ready, or why it cannot import a task."""
        import ray

        if self._failure is not None:
            return self._failure

        node: str = ray.get_runtime_context().get_node_id()
        return node

    def work(self, function: Callable[..., T], args: Sequence[Any]) -> tuple[bool, T | WorkError]:
        """See `attempt`."""
        return attempt(function, self._bench, args)
