"""Whether an executor keeps the contract of `evomal.runs.executors`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as StillRunning
from typing import Any, NoReturn

import torch

from evomal.runs.executors import Executor, WorkError
from evomal.tasks.task import Task
from evomal.testing.expectations import expect, expect_equal
from evomal.testing.small_tasks import small_task
from evomal.training.numerics import check_deadline
from evomal.training.settings import EvaluationSettings, TrainingSettings
from evomal.training.workbench import Workbench

_PATIENCE = 120.0  # seconds, for any work here; a worker starts in a few
_MANY = 12  # pieces of work

OpenExecutor = Callable[[Sequence[Task], TrainingSettings, int], Executor]


def check_executor(open_executor: OpenExecutor) -> None:
    """Check that an executor keeps the contract of `evomal.runs.executors`.

    Values, what is raised, timeouts, benches that are kept, workers that are lost, and the end.

    Parameters
    ----------
    open_executor
        Makes one of tasks, settings and a seed. What the work itself loses, such as its process, is
        tried only where it is not done in this process.

    Raises
    ------
    AssertionError
        If it does not; the message says what is expected, and what was seen.

    Examples
    --------
    >>> from evomal.runs.executors import InProcess
    >>> check_executor(InProcess)
    """
    tasks, settings, seed = [small_task(), small_task(name="other")], EvaluationSettings(), 7
    executor = open_executor(tasks, settings, seed)
    closed = False
    try:
        _check_values(executor, tasks, settings, seed)
        _check_benches(executor)
        _check_errors(executor)
        pid, _ = _value(executor.submit(_place))
        if pid == os.getpid():
            _check_deadline(executor)
        else:
            _check_lost_workers(executor)
            closed = True
            _check_end(executor)
    finally:
        if not closed:
            executor.close()


def _value(future: Future[Any]) -> Any:
    try:
        return future.result(timeout=_PATIENCE)
    except StillRunning as error:
        raise AssertionError(f"Work must come to an end within {_PATIENCE:g} s.") from error
    except WorkError as error:
        raise AssertionError(f"Work that does nothing wrong must have a value: {error}") from error


def _failure(future: Future[Any], what: str) -> WorkError:
    try:
        error = future.exception(timeout=_PATIENCE)
    except StillRunning as late:
        raise AssertionError(f"{what} must come to an end within {_PATIENCE:g} s.") from late
    if error is None:
        raise AssertionError(f"{what} must end with a WorkError, but with {future.result()!r}.")
    if not isinstance(error, WorkError):
        raise AssertionError(f"{what} must end with a WorkError, but with {error!r}.") from error
    return error


def _check_values(
    executor: Executor, tasks: Sequence[Task], settings: TrainingSettings, seed: int
) -> None:
    workers = executor.workers
    expect(type(workers) is int and workers >= 1, f"There must be workers, not {workers!r}.")
    futures = [executor.submit(_add, place, 2) for place in range(_MANY)]
    values = [_value(future) for future in futures]
    expect_equal(values, [place + 2 for place in range(_MANY)], "The values of work, in order,")
    expect(_value(executor.submit(_nothing)) is None, "The value None must be one, too.")
    late = _value(executor.submit(_add, 1, 2, timeout=1e10))
    expect_equal(late, 3, "The value of work with a very long timeout")
    names, data, found, seed_there, threads = _value(executor.submit(_fixed))
    expect_equal(names, [task.name for task in tasks], "The tasks of a bench")
    same = torch.equal(data, tasks[0].train.inputs.cpu())
    expect(same, "A bench must have the data of its tasks, but has others.")
    expect_equal(found, settings, "The settings of a bench")
    expect_equal(seed_there, seed, "The seed of a bench")
    expect_equal(threads, settings.threads, "torch's threads where work is done")


def _check_benches(executor: Executor) -> None:
    seen = {_value(executor.submit(_place)) for _ in range(_MANY)}
    processes = {pid for pid, _ in seen}
    expect(
        len(seen) == len(processes),
        f"A worker must keep its bench, but {len(processes)} workers had {len(seen)}.",
    )
    expect(
        len(processes) <= executor.workers,
        f"Work must be done by {executor.workers} workers, but {len(processes)} did it.",
    )


def _check_errors(executor: Executor) -> None:
    """A worker on which work failed is not used again, unless it is this process."""
    error = _failure(executor.submit(_raise_two_lines), "Work that raises an error")
    message, _, process = str(error).rpartition(" ")
    expect_equal(message, "ValueError: in process", "The message of work that raised two lines")
    expect(not error.timed_out, "Work that raised an error has not timed out.")
    expect(not error.machine_lost, "Work that raised an error has lost no machine.")
    after = {_value(executor.submit(_place))[0] for _ in range(_MANY)} - {os.getpid()}
    expect(int(process) not in after, "A worker on which work failed must not be used again.")


def _check_deadline(executor: Executor) -> None:
    """Of work in this process, which looks at the time itself."""
    _expect_late(executor.submit(_work_forever, timeout=0.01), 0.01)
    expect_equal(_value(executor.submit(_add, 1, 2)), 3, "The value of work after a timeout")


def _expect_late(future: Future[Any], timeout: float) -> None:
    error = _failure(future, "Work past its timeout")
    expect(error.timed_out, "Work past its timeout must say so by timed_out.")
    message = f"it took longer than {timeout:g} s"
    expect_equal(str(error), message, "The message of work past its timeout")


def _check_lost_workers(executor: Executor) -> None:
    """A hanging worker is ended while others go on; so is one that leaves, and one that garbles."""
    hanging = executor.submit(_hang, timeout=1.0)
    others = [executor.submit(_add, place, 0) for place in range(_MANY)]
    values = [_value(future) for future in others]
    expect_equal(values, list(range(_MANY)), "The values of work beside a hanging worker")
    _expect_late(hanging, 1.0)
    for work in (_leave, _return_a_lock):
        error = _failure(executor.submit(work), f"Work that loses its worker ({work.__name__})")
        expect(not error.timed_out, "Work that lost its worker has not timed out.")
    expect_equal(_value(executor.submit(_add, 1, 2)), 3, "The value of work after lost workers")


def _check_end(executor: Executor) -> None:
    """Closing ends everything at once, whatever is still running."""
    running = [executor.submit(_hang) for _ in range(executor.workers + 1)]
    executor.close()
    for future in running:
        try:
            error = future.exception(timeout=_PATIENCE)
        except CancelledError:
            continue
        except StillRunning as late:
            raise AssertionError("Closing an executor must end work that hangs.") from late
        ended = isinstance(error, WorkError)
        expect(ended, f"Work that closing ended must be a WorkError or cancelled, not {error!r}.")


def _add(bench: Workbench, a: int, b: int) -> int:
    return a + b


def _nothing(bench: Workbench) -> None:
    pass


def _place(bench: Workbench) -> tuple[int, int]:
    """Which process, and where it keeps what the bench has worked out."""
    return os.getpid(), id(bench.schedules)


def _fixed(bench: Workbench) -> tuple[list[str], Any, TrainingSettings, int, int]:
    data = bench.tasks[0].train.inputs.cpu()
    names = [task.name for task in bench.tasks]
    return names, data, bench.settings, bench.seed, torch.get_num_threads()


def _raise_two_lines(bench: Workbench) -> NoReturn:
    raise ValueError(f"in process {os.getpid()}\nsecond line")


def _work_forever(bench: Workbench) -> None:
    while True:
        check_deadline()


def _hang(bench: Workbench) -> None:
    threading.Event().wait()


def _leave(bench: Workbench) -> None:
    os._exit(7)


def _return_a_lock(bench: Workbench) -> Any:
    return threading.Lock()
