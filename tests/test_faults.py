"""Whole runs in which the work on candidates goes wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from evomal import InputError, Run, resume, search
from evomal.methods.base import Outcome
from evomal.runs.store import RunStore
from faulty_work import FailsOnce
from run_helpers import TINY, without_timing
from tasks_for_tests import regression_task

pytestmark = pytest.mark.usefixtures("instant_formulas")


def run_with(metric: Any, run_dir: Path, **arguments: Any) -> Run:
    return search(regression_task(metric=metric), run_dir=run_dir, seed=1, **TINY, **arguments)


def outcomes(run: Run) -> list[Outcome]:
    store = RunStore.open(run.run_dir)
    found = list(store.outcomes())
    store.close()
    return found


def decisions(run: Run) -> list[tuple[str, float, int | None, str | None]]:
    return [(o.status, o.fitness, o.source, o.reason) for o in outcomes(run)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run in which nothing goes wrong."""
    folder = tmp_path_factory.mktemp("whole")
    return run_with(FailsOnce(folder / "mark", "fail", often=0), folder)


def victim(whole: Run) -> Outcome:
    """The first candidate that was trained."""
    return next(o for o in outcomes(whole) if o.status == "evaluated")


FAULTS = ["fail", "run_out_of_memory", "die", "leave", "hang"]


@pytest.mark.parametrize("how", FAULTS)
def test_a_fault_changes_nothing_but_the_time(how: str, whole: Run, tmp_path: Path) -> None:
    metric = FailsOnce(tmp_path / "mark", how, victim(whole).fitness)
    limit = {"candidate_timeout": 5.0} if how == "hang" else {}
    run = run_with(metric, tmp_path / "run", workers=2, **limit)
    assert metric.mark.read_bytes() == b"x"
    assert without_timing(run.summary()) == without_timing(whole.summary())


OUT_OF_MEMORY = "OutOfMemoryError: CUDA out of memory"


@pytest.mark.parametrize(
    ("how", "workers", "reason"),
    [
        ("fail", 1, "ValueError: first line"),
        ("fail", 2, "ValueError: first line"),
        ("run_out_of_memory", 1, OUT_OF_MEMORY),
        ("run_out_of_memory", 2, OUT_OF_MEMORY),
        ("die", 2, "its worker process died (SIGKILL, perhaps for lack of memory)"),
        ("hang", 2, "it took longer than 3 s"),
    ],
)
def test_a_candidate_that_fails_twice_is_failed_and_the_run_goes_on(
    how: str, workers: int, reason: str, whole: Run, tmp_path: Path
) -> None:
    chosen = victim(whole)
    metric = FailsOnce(tmp_path / "mark", how, chosen.fitness, often=2)
    limit = {"candidate_timeout": 3.0} if how == "hang" else {}
    run = run_with(metric, tmp_path / "run", workers=workers, **limit)
    assert metric.mark.read_bytes() == b"xx"
    number = chosen.candidate.number
    assert decisions(run)[number] == ("failed", math.inf, None, reason)
    assert decisions(run)[:number] == decisions(whole)[:number]
    assert run.facts["status"] == "finished"
    summary = run.summary()
    assert summary["outcomes"]["failed"] == 1
    assert summary["failures"] == [{"number": number, "reason": reason}]
    assert all(entry["fitness"] < math.inf for entry in summary["hall_of_fame"])


def test_a_task_that_cannot_be_trained_at_all_ends_the_run(whole: Run, tmp_path: Path) -> None:
    metric = FailsOnce(tmp_path / "mark", "fail", often=2)
    with pytest.raises(InputError) as error:
        run_with(metric, tmp_path / "run")
    assert str(error.value) == (
        "The task 'test/identity' cannot be trained under its own loss: ValueError: first line."
    )
    assert isinstance(error.value.__cause__, Exception)
    assert isinstance(error.value.__cause__.__cause__, ValueError)
    assert Run(tmp_path / "run").facts["status"] == "failed"
    mended = resume(tmp_path / "run", regression_task(metric=metric))
    assert without_timing(mended.summary()) == without_timing(whole.summary())
