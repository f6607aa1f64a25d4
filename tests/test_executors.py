"""Executors beyond their contract: faults in worker processes, memory, settings of torch."""

from __future__ import annotations

import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import faulty_work
from evomal.errors import InputError
from evomal.runs.dispatch import default_workers, open_executor
from evomal.runs.execution import Execution, available_cores
from evomal.runs.executors import InProcess, WorkError, torch_settings
from evomal.runs.processes import LocalProcesses
from evomal.tasks.task import Task
from evomal.training.settings import EvaluationSettings
from run_helpers import run_python, running
from tasks_for_tests import Perceptron, regression_task

SETTINGS = EvaluationSettings()


def result(future: Future[Any]) -> Any:
    return future.result(timeout=120)


def two_tasks() -> list[Task]:
    return [regression_task(), regression_task(name="b")]


@pytest.fixture(scope="module")
def two_processes() -> Iterator[LocalProcesses]:
    with closing(LocalProcesses(two_tasks(), SETTINGS, 0, 2)) as executor:
        yield executor


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (faulty_work.fail, "ValueError: first line"),
        (faulty_work.fail_silently, "AssertionError"),
        (faulty_work.run_out_of_memory, "OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_an_error_is_told_on_one_line(work: Callable[..., None], message: str) -> None:
    with closing(InProcess([regression_task()], SETTINGS, 0)) as executor:
        assert str(executor.submit(work).exception()) == message


def test_workers_have_the_torch_settings_of_their_coordinator() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        with closing(LocalProcesses([regression_task()], SETTINGS, 0, 1)) as executor:
            assert result(executor.submit(faulty_work.settings)) == torch_settings()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_workers_keep_the_memory_they_freed(two_processes: LocalProcesses) -> None:
    """Else there are some 46 000 faults, one for every page that is given back and fetched."""
    assert result(two_processes.submit(faulty_work.page_faults)) < 2000


def test_workers_start_without_the_compiler_of_torch(two_processes: LocalProcesses) -> None:
    """It takes a second to import."""
    assert not result(two_processes.submit(faulty_work.has_imported, "torch._inductor"))


def test_an_error_in_this_process_keeps_its_cause() -> None:
    with closing(InProcess([regression_task()], SETTINGS, 0)) as executor:
        error = executor.submit(faulty_work.fail).exception()
    assert isinstance(error, WorkError)
    assert isinstance(error.__cause__, ValueError)


def test_ctrl_c_in_this_process_is_no_fault_of_the_work() -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with (
        closing(InProcess([regression_task()], SETTINGS, 0)) as executor,
        pytest.raises(KeyboardInterrupt),
    ):
        executor.submit(interrupted)


def test_processes_share_the_data_and_keep_their_tasks(two_processes: LocalProcesses) -> None:
    seen = {result(two_processes.submit(faulty_work.pid)) for _ in range(20)}
    assert os.getpid() not in seen
    assert len(seen) <= 2
    _, before, shared = result(two_processes.submit(faulty_work.inputs))
    assert shared
    result(two_processes.submit(faulty_work.double))
    try:
        for _ in range(4):  # whichever process answers, it is the same memory
            assert torch.equal(result(two_processes.submit(faulty_work.inputs))[1], 2 * before)
    finally:
        task = two_processes._tasks[0]
        assert isinstance(task, Task)
        task.train.inputs.copy_(before)
    assert torch.equal(result(two_processes.submit(faulty_work.inputs))[1], before)


LOST = [
    (faulty_work.die, "SIGKILL, possibly out of memory"),
    (faulty_work.leave, "exit status 7"),
    (faulty_work.return_what_cannot_be_sent, "exit status 1"),
]


def test_lost_workers_say_why_and_are_replaced(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    with closing(LocalProcesses([regression_task()], SETTINGS, 0, 1)) as executor:
        (worker,) = executor._alive
        worker.process.kill()  # while it starts
        before: list[Any] = [worker.process.pid]
        for work, reason in LOST:
            before.append(result(executor.submit(faulty_work.pid)))
            error = executor.submit(work).exception(timeout=120)
            assert isinstance(error, WorkError)
            assert str(error) == f"its worker process died ({reason})"
        error = executor.submit(faulty_work.hang, str(mark), timeout=3.0).exception(timeout=120)
        assert isinstance(error, WorkError)
        assert error.timed_out
        before.append(int(mark.read_text()))
        assert not any(map(is_running, before))
        idle = result(executor.submit(faulty_work.pid))
        assert len({*before, idle}) == 6
        (worker,) = executor._alive
        os.kill(idle, signal.SIGKILL)
        worker.process.join()
        assert result(executor.submit(faulty_work.pid)) != idle


def test_closing_ends_everything_at_once(tmp_path: Path) -> None:
    marks = [tmp_path / name for name in ("a", "b")]
    executor = LocalProcesses([regression_task()], SETTINGS, 0, 2)
    futures = [executor.submit(faulty_work.hang, str(mark)) for mark in marks]
    waiting = executor.submit(faulty_work.pid)
    pids = [read_when_there(mark) for mark in marks]
    executor.close()
    assert not any(map(is_running, pids))
    assert waiting.cancelled()
    assert all(isinstance(future.exception(timeout=10), WorkError) for future in futures)


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def poll(condition: Callable[[], bool]) -> None:
    never = threading.Event()
    for _ in range(1200):
        if condition():
            return
        never.wait(0.05)
    raise AssertionError("it never came true")


def wait_until_gone(pid: int) -> None:
    poll(lambda: not is_running(pid))


def read_when_there(mark: Path) -> int:
    poll(lambda: mark.exists() and mark.read_text() != "")
    return int(mark.read_text())


ORPHANS = """
import sys
import faulty_work
from evomal.runs.processes import LocalProcesses
from evomal.training.settings import EvaluationSettings
from tasks_for_tests import regression_task
if __name__ == "__main__":
    executor = LocalProcesses([regression_task()], EvaluationSettings(), 0, 2)
    futures = [executor.submit(faulty_work.hang, mark) for mark in sys.argv[1:]]
    futures[0].result()
"""


def test_workers_end_when_their_coordinator_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ORPHANS)
    marks = [tmp_path / name for name in ("a", "b")]
    with running(str(script), *map(str, marks)) as process:
        pids = [read_when_there(mark) for mark in marks]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for pid in pids:
            wait_until_gone(pid)


UNGUARDED = """
import faulty_work
from evomal import InputError
from evomal.runs.processes import LocalProcesses
from evomal.training.settings import EvaluationSettings
from tasks_for_tests import regression_task
executor = LocalProcesses([regression_task()], EvaluationSettings(), 0, 1)
try:
    executor.submit(faulty_work.pid).result()
except InputError as error:
    print(error)
"""


def test_an_unguarded_script_is_told_what_to_do(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    status, output, errors = run_python(str(script), cwd=tmp_path)
    assert status == 0
    assert "The worker processes cannot start" in output
    assert 'if __name__ == "__main__":' in output
    assert "bootstrapping phase" in errors


def local_model() -> Any:
    return lambda: Perceptron(1)


def test_what_cannot_be_sent_is_an_input_error() -> None:
    with pytest.raises(InputError, match="cannot be sent to worker processes"):
        LocalProcesses([regression_task(model=local_model())], SETTINGS, 0, 2)


def test_the_number_of_workers_fits_the_machine() -> None:
    tasks = [regression_task()]
    many, auto = EvaluationSettings(threads=10**6), Execution(workers="auto")
    assert default_workers(tasks, 1) == available_cores()
    assert default_workers(tasks, many.threads) == 1
    with closing(open_executor(tasks, many, 0, auto, 99)) as executor:
        assert isinstance(executor, InProcess)
    torch.set_num_threads(1)
    with closing(open_executor(tasks, SETTINGS, 0, auto, 1)) as executor:
        assert executor.workers == 1, "more than a generation has work for"


BAD: list[dict[str, Any]] = [
    {"workers": 0},
    {"workers": 1.5},
    {"max_evaluations": 0},
    {"patience": -1},
    *(
        {name: value}
        for name in ("max_time", "candidate_timeout")
        for value in (0, -1, float("inf"))
    ),
    {"target_fitness": float("nan")},
    {"max_time": "60"},
    {"target_fitness": "1"},
    {"executor": "dask"},
    {"ray_address": "auto"},
]


@pytest.mark.parametrize("fields", BAD, ids=str)
def test_senseless_settings_are_input_errors(fields: dict[str, Any]) -> None:
    Execution().validate()
    with pytest.raises(InputError, match=next(iter(fields))):
        Execution(**fields).validate()
