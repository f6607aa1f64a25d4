"""How runs end: signals, the time limit, a directory that goes, and what is said to type next."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evomal.runs.run as run_module
from evomal import Callback, InputError, Run, SearchInterrupted, resume, search
from evomal.cli import main
from evomal.expressions.printing import PrintedForm, prefix_form
from evomal.expressions.sympy_process import TIME_LIMIT
from evomal.interrupts import Terminated, interrupts_held, termination_interrupts
from evomal.losses.names import BEST_LOSS
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.base import Method, Outcome
from evomal.runs.directory import DATABASE, LOCK, as_argument, named_run_dir
from evomal.runs.next_steps import to_resume, to_train
from evomal.runs.task_facts import TaskFacts
from evomal.tasks.registry import Origin
from evomal.training import filters, loop, meta_training
from evomal.training.loop import partial_training, performance
from evomal.training.numerics import DeadlineError, deadline, draw_batches
from evomal.training.screening import screen
from evomal.training.settings import EvaluationSettings, Pipeline
from evomal.training.stack import stacked_training
from evomal.training.workbench import Workbench
from faulty_work import mean_squared_error
from run_helpers import TINY, Recorder, contents, running
from tasks_for_tests import regression_task

pytestmark = pytest.mark.usefixtures("instant_formulas")

SEARCH: dict[str, Any] = {**TINY, "seed": 1}


class Kill(Recorder):
    """Sends this process a signal when a candidate is finished."""

    def __init__(self, number: int, at: int) -> None:
        super().__init__()
        self.number, self.left = number, at

    def on_candidate(self, method: Any, outcome: Any) -> None:
        super().on_candidate(method, outcome)
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_search_as_ctrl_c_does(number: signal.Signals, tmp_path: Path) -> None:
    recorder = Kill(number, 7)
    with pytest.raises(SearchInterrupted) as ending:
        search(regression_task(), run_dir=tmp_path, callbacks=[recorder], **SEARCH)
    run = ending.value.run
    assert ending.value.signal == number
    assert run.facts.status == "interrupted"
    assert run.archive.counts.total() == 7
    assert recorder.calls[-1] == ("end", None)
    assert (tmp_path / BEST_LOSS).exists()
    assert signal.getsignal(number) is signal.SIG_DFL
    with pytest.raises(SearchInterrupted):
        resume(tmp_path, regression_task(), callbacks=[Kill(number, 2)])
    assert resume(tmp_path, regression_task()).facts.status == "finished"


def test_an_interruption_says_how_to_go_on(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_candidate(self, method: Method, outcome: Outcome) -> None:
            raise KeyboardInterrupt

    with pytest.raises(SearchInterrupted) as error:
        search(regression_task(), run_dir=tmp_path / "run", callbacks=[Stop()], **SEARCH)
    onwards = f"evomal.resume('{tmp_path / 'run'}', task) in Python"
    assert str(error.value) == f"The search was interrupted. To continue: {onwards}"


def test_a_handler_of_the_program_stays(tmp_path: Path) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        run = search(
            regression_task(), run_dir=tmp_path, callbacks=[Kill(signal.SIGTERM, 3)], **SEARCH
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    assert run.facts.status == "finished"


def test_signals_are_taken_in_the_main_thread_alone() -> None:
    found: list[Any] = []

    def look() -> None:
        with termination_interrupts():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


def test_the_first_signal_gives_the_handlers_back() -> None:
    seen: list[Any] = []

    def terminated() -> None:
        with termination_interrupts():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                seen.append(signal.getsignal(signal.SIGTERM))

    with pytest.raises(Terminated):
        terminated()
    assert seen == [signal.SIG_DFL]


def test_signals_wait_while_a_worker_is_started() -> None:
    seen: list[str] = []

    def terminated() -> None:
        with termination_interrupts(), interrupts_held():
            signal.raise_signal(signal.SIGTERM)
            seen.append("the end of the block")

    with pytest.raises(Terminated):
        terminated()
    assert seen == ["the end of the block"]


def test_signals_wait_if_another_thread_receives_them() -> None:
    seen: list[str] = []
    held = threading.Event()

    def receive() -> None:
        held.wait()
        signal.raise_signal(signal.SIGTERM)  # to this thread, which does not hold it back

    def terminated() -> None:
        with termination_interrupts(), interrupts_held():
            held.set()
            other.join()
            seen.append("the end of the block")

    other = threading.Thread(target=receive)
    other.start()
    with pytest.raises(Terminated):
        terminated()
    assert seen == ["the end of the block"]


def test_sigterm_on_the_command_line(tmp_path: Path) -> None:
    """The directory's name needs quotes."""
    place = tmp_path / "a run; no more"
    arguments = ["search", "diabetes/mlp", "--population-size=6", "--meta-steps=1", "--seed=1"]
    arguments += ["--testing-steps=2", "--rejection-steps=5", "--generations=100", "--workers=1"]
    arguments += ["--preset=paper"]
    with running("-m", "evomal.cli", *arguments, "--run-dir", str(place)) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("Generation 1/100") for line in lines)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "")
    assert f"To continue: evomal resume {shlex.quote(str(place))}\n" in output
    assert Run(place).facts.status == "interrupted"


def test_the_clock_starts_with_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when all is set up: here that alone takes longer than the limit."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def set_up(settings: Any, *_: Any, **__: Any) -> Any:
        nonlocal now
        now += 100.0
        return settings, "as requested"

    monkeypatch.setattr("evomal.runs.search.with_engine", set_up)
    run = search(
        regression_task(), run_dir=tmp_path, max_time=50, engine="loop", group_size=1, **SEARCH
    )
    assert run.facts.stop_reason == "max_time of 50 s exceeded"
    assert run.archive.counts.total() == 0


def test_formulas_get_no_more_time_than_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []

    def printed_forms(requests: Any, time_limit: float) -> Any:
        limits.append(time_limit)
        return [PrintedForm("formula", "latex") for _ in requests]

    run = search(regression_task(), run_dir=tmp_path, max_evaluations=3, **SEARCH)
    count = len(run.archive.hall_of_fame)
    monkeypatch.setattr(run_module, "printed_forms", printed_forms)
    hasty, patient, eager = Run(tmp_path), Run(tmp_path), Run(tmp_path)
    hasty.formula_seconds, patient.formula_seconds = 0.0, 3.0 * count
    first = hasty.hall_of_fame[0]
    assert isinstance(first.loss, SymbolicLoss)
    assert first.formula == prefix_form(first.loss.print_request).formula
    assert patient.hall_of_fame[0].formula == eager.hall_of_fame[0].formula == "formula"
    assert limits == [3.0, TIME_LIMIT]


def screened(engine: Any, **settings: Any) -> None:
    task = regression_task()
    screen(
        Workbench([task], EvaluationSettings(engine=engine, rejection_steps=3, **settings), 0),
        [SymbolicLoss("square(sub(y, f))")],
        Pipeline(tune="meta_steps" in settings, reject=True, match_gradients=True),
    )


STAGES: dict[str, Callable[[], object]] = {
    "draws": lambda: draw_batches(np.random.default_rng(0), 9, 3, 2, torch.device("cpu")),
    "weights, one loss": lambda: screened("loop", meta_steps=2),
    "weights, a group": lambda: screened("batched", meta_steps=2),
    "rejection": lambda: screened("loop"),
    "training": lambda: partial_training(regression_task(), mean_squared_error, 2, 0),
    "metric": lambda: performance(
        regression_task(), regression_task().new_model(0), regression_task().validation
    ),
    "stacked training": lambda: stacked_training(
        regression_task(), [SymbolicLoss("square(sub(y, f))")], 2, 0
    ),
}


@pytest.mark.parametrize("where", STAGES)
def test_every_stage_looks_at_the_clock(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one of them also after its batches are drawn."""
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1

    for module in (filters, loop, meta_training):
        monkeypatch.setattr(module, "check_deadline", check)
    STAGES[where]()
    assert looks >= 1 or where == "draws"
    monkeypatch.undo()
    with pytest.raises(DeadlineError), deadline(-1.0):
        STAGES[where]()


class Mover(Recorder):
    """Takes the run's directory away when a candidate is finished."""

    def __init__(self, run_dir: Path, place: Path | None) -> None:
        super().__init__()
        self.run_dir, self.place = run_dir, place

    def on_candidate(self, method: Any, outcome: Any) -> None:
        if self.run_dir.exists() and method.archive.counts.total() == 3:
            if self.place is None:
                shutil.rmtree(self.run_dir)
            else:
                self.run_dir.rename(self.place)


@pytest.mark.parametrize("moved", [True, False])
def test_a_run_directory_that_goes_during_the_search(moved: bool, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    mover = Mover(here, there if moved else None)
    with pytest.raises(InputError) as error:
        search(regression_task(), run_dir=here, callbacks=[mover], **SEARCH)
    assert str(error.value) == (
        f"The run directory {str(here)!r} was moved or deleted during the search. If it was "
        "moved, move it back, then continue with: "
        f"evomal.resume({str(here)!r}, task) in Python"
    )
    if moved:
        there.rename(here)
        assert resume(here, regression_task()).facts.status == "finished"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "directory is empty"),
        ("a\nb", r"'a\\nb' has a control character"),
        ("a\0b", r"'a\\x00b' has a control character"),
        ("\x1b[31m", "has a control character"),
        (3, "must be a path, not 3"),
        ("x" * 300, "cannot be written .File name too long"),
        ("file", "cannot be made, as 'file' is a file"),
        ("file/run", "cannot be written .Not a directory"),
        ("link", "cannot be made, as 'link' is a link to nothing"),
        ("link/run", "cannot be made, as 'link' is a link to nothing"),
    ],
)
def test_a_run_directory_that_cannot_be(
    name: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    with pytest.raises(InputError, match=message):
        search(regression_task(), run_dir=name, **SEARCH)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.parametrize("name", ["", "absent", "x" * 300, "a\0b", "file", "file/deeper"])
def test_a_directory_that_holds_no_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    for read in (Run, resume):
        with pytest.raises(InputError, match=r"not a run directory|cannot be read"):
            read(name)
    assert main(["resume", name]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_command_line_refuses_an_empty_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["search", "diabetes/mlp", "--run-dir", ""]) == 2
    assert "directory is empty" in capsys.readouterr().err
    assert contents(tmp_path) == {}


def test_a_store_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    for run_dir in (None, "a/b/c"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fail)
            with pytest.raises(InputError, match=r"No run can be stored in .*No space left"):
                search(regression_task(), run_dir=run_dir, **SEARCH)
        assert list(tmp_path.iterdir()) == []


BUILT_IN = TaskFacts("diabetes/mlp", "published", Origin("/my data", "published"), 10, {})
OWN = TaskFacts("mine", "custom", None, 10, {})


def test_what_to_type_next() -> None:
    assert to_resume("runs/0001", [BUILT_IN]) == "evomal resume runs/0001"
    assert to_resume("it's", [BUILT_IN]) == "evomal resume 'it'\"'\"'s'"
    assert to_resume("-x", [BUILT_IN]) == "evomal resume ./-x"
    assert to_resume(Path("a b"), [OWN]) == "evomal.resume('a b', task) in Python"
    assert to_resume("r", [OWN, BUILT_IN]) == "evomal.resume('r', tasks) in Python"
    assert to_train("a b", [BUILT_IN]) == (
        "evomal train diabetes/mlp --loss 'a b' --data-dir '/my data' --split published"
    )
    compare = "evomal.compare(task, evomal.Run('r').best.loss, seeds=range(3)) in Python"
    assert to_train("r", [OWN]) == compare
    assert shlex.split(as_argument("a; b$c")) == ["a; b$c"]
    assert named_run_dir("é/ü") == Path("é/ü")


def test_files_of_a_run(tmp_path: Path) -> None:
    search(regression_task(), run_dir=tmp_path, **SEARCH)
    assert set(contents(tmp_path)) == {DATABASE, BEST_LOSS, LOCK}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_that_cannot_be_written_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["methods"], ["show", "square(sub(y, f))", "--json"]):
        with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            assert main(arguments) == 2
        assert capsys.readouterr().err == (
            "Error: The output cannot be written (No space left on device).\n"
        )


@pytest.mark.parametrize("limit", [2_000, 20_480, 60_000])
def test_a_limit_of_the_size_of_files(limit: int, tmp_path: Path) -> None:
    """As ``ulimit -f`` sets it, before the search and so low that it does not come far."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(InputError, match=r"No run can be stored|Cannot write to the run"):
            search(regression_task(), run_dir=tmp_path / "run", **SEARCH)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    if (tmp_path / "run").exists():
        assert resume(tmp_path / "run", regression_task()).facts.status == "finished"
