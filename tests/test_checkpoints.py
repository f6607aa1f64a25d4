"""Tunings that pause, are stored, and go on: to the same bits, in this process or another one."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evomal import NeuralLoss, Run, SymbolicLoss, Task, resume, search
from evomal.losses.meta import MetaLoss
from evomal.runs import queue
from evomal.runs.directory import DATABASE
from evomal.runs.dispatch import Dispatcher
from evomal.runs.execution import Execution, StopConditions
from evomal.runs.executors import late
from evomal.training import filters, meta_training, screening
from evomal.training.engines import batched
from evomal.training.engines.choice import engine_on
from evomal.training.meta_schedule import MetaSchedule
from evomal.training.numerics import DeadlineError, DivergedError, pausing
from evomal.training.settings import EvaluationSettings
from evomal.training.tuning_state import TuningPaused, states_from_bytes, states_to_bytes
from evomal.training.workbench import Workbench
from run_helpers import OVERFLOW, TINY, run_python, without_timing
from tasks_for_tests import TEXTS, image_task, regression_task

pytestmark = pytest.mark.usefixtures("instant_formulas")

ML3: dict[str, Any] = {
    "method": "ml3",
    "preset": "paper",
    "meta_steps": 9,
    "testing_steps": 5,
    "seed": 1,
}


@pytest.fixture
def steps_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of all meta steps that are made from now on."""
    made: list[int] = []
    as_it_is = MetaSchedule.step

    def counted(self: MetaSchedule, i: int) -> Any:
        made.append(i)
        return as_it_is(self, i)

    monkeypatch.setattr(MetaSchedule, "step", counted)
    return made


@pytest.fixture
def pause_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "CHECKPOINT_SECONDS", 0.0)


def checkpoints(run_dir: Path) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(run_dir / DATABASE)
    rows = connection.execute("SELECT * FROM checkpoints").fetchall()
    connection.close()
    return rows


def change(run_dir: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(run_dir / DATABASE)
    with connection:
        connection.execute(statement, values)
    connection.close()


# Engines

Tuned = list[Tensor | DivergedError]


def with_pauses(bench: Workbench, losses: Sequence[MetaLoss]) -> tuple[Tuned, int]:
    """The tuned weights, and how often the tuning has paused, each time through its bytes."""
    states, pauses = states_from_bytes(states_to_bytes([]), bench.device), 0
    while True:
        try:
            with pausing(0.0):
                return engine_on(bench).tune(losses, states), pauses
        except TuningPaused as pause:
            states = states_from_bytes(states_to_bytes(pause.states), bench.device)
            pauses += 1


def assert_equal_bits(one: Tuned, other: Tuned) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert isinstance(a, Tensor) is isinstance(b, Tensor)
        if isinstance(a, Tensor):
            assert isinstance(b, Tensor)
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


def varied_losses(task: Task) -> list[MetaLoss]:
    """Some that work, one that diverges, one without weights."""
    return [
        SymbolicLoss(TEXTS[1], link=task.link),
        SymbolicLoss(OVERFLOW, link=task.link),
        NeuralLoss(link=task.link, hidden=(4, 3)),
        SymbolicLoss("f", link=task.link),
        NeuralLoss(link=task.link, hidden=(4, 3)).double(),
    ]


@pytest.mark.parametrize(
    ("engine", "base_steps"), [("loop", 1), ("loop", 3), ("batched", 1), ("stacked", 1)]
)
@pytest.mark.parametrize("make", [regression_task, image_task])
def test_pauses_change_no_bit(
    engine: Any, base_steps: int, make: Callable[[], Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_training, "CHECK_EVERY", 3)
    task = make()
    settings = EvaluationSettings(meta_steps=8, base_steps=base_steps, engine=engine)
    bench, losses = Workbench([task], settings, 5), varied_losses(task)
    whole = engine_on(bench).tune(losses)
    assert [isinstance(one, DivergedError) for one in whole] == [False, True, False, False, False]
    found, pauses = with_pauses(bench, losses)
    assert_equal_bits(found, whole)
    assert pauses == 7
    assert all(torch.equal(a.phi, b.phi) for a, b in zip(losses, varied_losses(task), strict=True))


def test_parts_of_a_group_that_did_not_fit_go_on_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, as_it_is = regression_task(), meta_training.tune_group
    sizes: list[int] = []

    def short_of_memory(bench: Any, tunings: Any, **options: Any) -> Any:
        if len(tunings) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(tunings))
        return as_it_is(bench, tunings, **options)

    monkeypatch.setattr(batched, "tune_group", short_of_memory)
    bench = Workbench([task], EvaluationSettings(meta_steps=4, engine="batched"), 5)
    losses = [SymbolicLoss(text) for text in TEXTS[:2]] * 2
    whole = engine_on(bench).tune(losses)
    found, pauses = with_pauses(bench, losses)
    assert_equal_bits(found, whole)
    assert pauses == 3
    assert set(sizes) == {2}


# Runs


def same(one: Run, other: Run) -> bool:
    return without_timing(one.summary()) == without_timing(other.summary())


@pytest.mark.parametrize("engine", ["loop", "batched", "stacked"])
@pytest.mark.parametrize("prescreen", [False, True])
def test_a_search_is_the_same_with_pauses_and_does_nothing_twice(
    engine: Any,
    prescreen: bool,
    tmp_path: Path,
    steps_made: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    filtered: list[int] = []
    as_it_is = filters.correlations

    def counted(bench: Any, losses: Any) -> Any:
        filtered.append(len(losses))
        return as_it_is(bench, losses)

    monkeypatch.setattr(screening, "correlations", counted)
    settings = {**TINY, "meta_steps": 4, "generations": 2, "prescreen": prescreen, "engine": engine}
    whole = search(regression_task(), run_dir=tmp_path / "whole", seed=3, **settings)
    made, rows = steps_made[:], filtered[:]
    del steps_made[:], filtered[:]
    monkeypatch.setattr(queue, "CHECKPOINT_SECONDS", 0.0)
    paused = search(regression_task(), run_dir=tmp_path / "paused", seed=3, **settings)
    assert same(paused, whole)
    assert sorted(steps_made) == sorted(made)
    assert sorted(filtered) == sorted(rows)
    assert checkpoints(tmp_path / "paused") == []
    took = [[name for name, value in vars(run.seconds).items() if value] for run in (paused, whole)]
    assert took[0] == took[1]


@pytest.mark.usefixtures("pause_always")
def test_pauses_in_other_processes(tmp_path: Path) -> None:
    one = search(regression_task(), run_dir=tmp_path / "one", restarts=2, **ML3)
    two = search(regression_task(), run_dir=tmp_path / "two", restarts=2, workers=2, **ML3)
    assert same(one, two)


KILLED = """
import os, signal, sys
from evomal import search
from evomal.runs import queue
from evomal.training.meta_schedule import MetaSchedule
from tasks_for_tests import regression_task

queue.CHECKPOINT_SECONDS = 0.0
step = MetaSchedule.step

def deadly(self, i):
    if i == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, i)

MetaSchedule.step = deadly
search(regression_task(), run_dir=sys.argv[1], progress=False, **eval(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("killed") / "run"
    status, _, errors = run_python("-c", KILLED, str(run_dir), repr(ML3))
    assert status == -9, errors
    assert [row[0] for row in checkpoints(run_dir)] == ["0"]
    return run_dir


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    """A run that was killed in the seventh of nine meta steps."""
    return Path(shutil.copytree(killed_once, tmp_path / "killed"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return search(regression_task(), run_dir=tmp_path_factory.mktemp("whole"), **ML3)


def test_a_killed_tuning_goes_on_where_it_was(
    whole: Run, killed: Path, steps_made: list[int]
) -> None:
    assert Run(killed).facts.status == "killed"
    assert same(resume(killed, regression_task()), whole)
    assert steps_made == [6, 7, 8]
    assert checkpoints(killed) == []


@pytest.mark.parametrize(
    "damage",
    [
        ("UPDATE checkpoints SET states = ?", b"nothing"),
        ("UPDATE checkpoints SET states = ?", "text"),
        ("UPDATE checkpoints SET states = substr(states, 1, ?)", 100),
        ("UPDATE checkpoints SET digest = ?", "x"),
        ("UPDATE checkpoints SET candidates = ?", "0,1"),
        ("UPDATE checkpoints SET candidates = ?", b"\xff"),
    ],
    ids=str,
)
def test_a_damaged_checkpoint_costs_time_alone(
    damage: tuple[str, object], whole: Run, killed: Path, steps_made: list[int]
) -> None:
    change(killed, *damage)
    assert same(resume(killed, regression_task()), whole)
    assert steps_made == list(range(9))


@pytest.mark.usefixtures("pause_always")
def test_a_tuning_whose_time_is_up_goes_on_where_it_was(
    whole: Run, tmp_path: Path, steps_made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_made.clear()

    def check_deadline() -> None:
        if len(steps_made) == 5:
            raise DeadlineError

    with monkeypatch.context() as clock:
        clock.setattr(meta_training, "check_deadline", check_deadline)
        clock.setattr(
            StopConditions, "seconds_left", lambda self: 0.0 if len(steps_made) == 5 else 99.0
        )
        run = search(regression_task(), run_dir=tmp_path / "late", max_time=99, **ML3)
    assert (run.facts.status, run.facts.stop_reason) == ("stopped", "max_time of 99 s exceeded")
    assert same(resume(run.run_dir, regression_task()), whole)
    assert steps_made == list(range(9))


class Late:
    """An executor on which everything takes longer than it may."""

    workers = 1

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []

    def submit(
        self, function: Callable[..., Any], *args: Any, timeout: float | None = None
    ) -> Future[Any]:
        self.timeouts.append(timeout)
        future: Future[Any] = Future()
        future.set_exception(late(timeout))
        return future

    def close(self) -> None:
        """Nothing to do."""


@pytest.mark.parametrize(("spent", "left"), [(0.0, 20.0), (15.0, 5.0), (25.0, 0.0)])
def test_the_time_of_a_candidate_is_that_of_all_its_pieces(spent: float, left: float) -> None:
    executor = Late()
    dispatcher = Dispatcher(executor, Execution(candidate_timeout=10.0))
    dispatcher.start("work", print, candidates=2, spent=spent)
    found = [*dispatcher.finished(), *dispatcher.finished()]
    assert executor.timeouts == [left, left]
    assert [(label, str(error)) for label, error in found] == [("work", "it took longer than 20 s")]
