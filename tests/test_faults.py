"""Whole runs in which the work on candidates goes wrong."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch import Tensor

from evomal import Callback, InputError, Run, RunStart, resume, search
from evomal.methods.base import Method, Outcome
from evomal.runs.store import RunStore
from faulty_work import FailsOnce, Faulty, mean_squared_error
from run_helpers import TINY, without_timing
from tasks_for_tests import Perceptron, regression_task

pytestmark = pytest.mark.usefixtures("instant_formulas")


SEARCH: dict[str, Any] = {**TINY, "population_size": 8, "generations": 2, "seed": 2}


def run_with(metric: Any, run_dir: Path, **arguments: Any) -> Run:
    return search(regression_task(metric=metric), run_dir=run_dir, **SEARCH, **arguments)


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
    return run_with(Faulty([]), tmp_path_factory.mktemp("whole"))


def faults_of(whole: Run, hows: Sequence[str], folder: Path, often: int) -> dict[int, FailsOnce]:
    """What goes wrong with the first candidates that were trained, one fault each."""
    trained = [o for o in outcomes(whole) if o.status == "evaluated"]
    return {
        outcome.candidate.number: FailsOnce(folder / how, how, outcome.fitness, often)
        for how, outcome in zip(hows, trained, strict=False)
    }


@pytest.mark.parametrize("hows", [["fail", "run_out_of_memory", "die", "leave"], ["hang"]])
def test_faults_change_nothing_but_the_time(hows: list[str], whole: Run, tmp_path: Path) -> None:
    faults = list(faults_of(whole, hows, tmp_path, 1).values())
    limit = {"candidate_timeout": 10.0} if "hang" in hows else {}
    run = run_with(Faulty(faults), tmp_path / "run", workers=2, **limit)
    assert [fault.mark.read_bytes() for fault in faults] == [b"x"] * len(hows)
    assert without_timing(run.summary()) == without_timing(whole.summary())


FAILED = "its training failed with"
GIVEN_UP = "its training was given up:"
REASONS = {
    "fail": f"{FAILED} ValueError: first line",
    "run_out_of_memory": f"{FAILED} OutOfMemoryError: CUDA out of memory",
    "die": f"{GIVEN_UP} its worker process died (SIGKILL, possibly out of memory)",
    "hang": f"{GIVEN_UP} it took longer than 10 s",
}


@pytest.mark.parametrize(
    ("hows", "workers"),
    [
        (["fail", "run_out_of_memory"], 1),
        (["fail", "die"], 2),
        (["hang"], 2),
    ],
)
def test_candidates_that_fail_twice_are_failed_and_the_run_goes_on(
    hows: list[str], workers: int, whole: Run, tmp_path: Path
) -> None:
    faults = faults_of(whole, hows, tmp_path, 2)
    limit = {"candidate_timeout": 10.0} if "hang" in hows else {}
    run = run_with(Faulty(list(faults.values())), tmp_path / "run", workers=workers, **limit)
    assert [fault.mark.read_bytes() for fault in faults.values()] == [b"xx"] * len(hows)
    expected = decisions(whole)[: SEARCH["population_size"]]
    for number, fault in faults.items():
        expected[number] = ("failed", math.inf, None, REASONS[fault.how])
    assert decisions(run)[: len(expected)] == expected
    assert run.facts.status == "finished"
    summary = run.summary()
    assert summary["outcomes"]["failed"] == len(hows)
    assert summary["failures"] == [
        {"number": number, "reason": REASONS[fault.how]} for number, fault in faults.items()
    ]
    assert all(entry["fitness"] < math.inf for entry in summary["hall_of_fame"])


def test_a_run_in_which_nothing_works_any_more_ends_and_can_be_resumed(tmp_path: Path) -> None:
    """As after an error from which a GPU does not recover."""
    sizes: dict[str, Any] = {"population_size": 14, "generations": 2, "seed": 1}
    arguments: dict[str, Any] = {**TINY, **sizes}
    expected = search(regression_task(), run_dir=tmp_path / "whole", **arguments)
    metric = Broken(tmp_path / "broken")
    task = regression_task(metric=metric)

    class Breaker(Callback):
        def on_candidate(self, method: Method, outcome: Outcome) -> None:
            if method.archive.counts.total() == 2:
                metric.mark.touch()

    with pytest.raises(InputError, match=r"10 candidates .*broken\. Fix the cause, then"):
        search(task, run_dir=tmp_path / "run", callbacks=[Breaker()], **arguments)
    broken = Run(tmp_path / "run")
    assert broken.archive.counts["failed"] >= 10
    assert broken.facts.status == "failed"
    metric.mark.unlink()
    resumed = resume(tmp_path / "run", task)
    assert resumed.archive.counts["failed"] == 0
    found, wanted = (without_timing(run.summary()) for run in (resumed, expected))
    assert {**found, "metric": ""} == {**wanted, "metric": ""}


class Tracked(Perceptron):
    """Counts how many are alive."""

    alive: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        super().__init__(1)
        self.alive.add(id(self))
        weakref.finalize(self, self.alive.discard, id(self))


def test_what_failed_leaves_no_models_behind(tmp_path: Path) -> None:
    task = regression_task(model=Tracked, task_loss=Broken(tmp_path / "broken"))
    most = 0

    class Counter(Callback):
        def on_run_start(self, method: Method, start: RunStart) -> None:
            (tmp_path / "broken").touch()

        def on_candidate(self, method: Method, outcome: Outcome) -> None:
            nonlocal most
            gc.collect()
            most = max(most, len(Tracked.alive))

    with pytest.raises(InputError, match="in a row failed"):
        search(
            task, run_dir=tmp_path / "run", callbacks=[Counter()], **{**TINY, "population_size": 12}
        )
    assert most <= 1


class Broken:
    """A metric, or task loss, that raises while a file is there."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        if self.mark.exists():
            raise ValueError("broken")
        return mean_squared_error(pred, target)


def test_a_task_that_cannot_be_trained_at_all_ends_the_run(whole: Run, tmp_path: Path) -> None:
    fault = FailsOnce(tmp_path / "mark", "fail", whole.task_loss_fitness, often=2)
    metric = Faulty([fault])
    task = regression_task(metric=metric)
    with pytest.raises(InputError) as error:
        search(task, run_dir=tmp_path / "run", **SEARCH)
    assert str(error.value) == (
        "The task 'test/identity' cannot be trained with its own loss: ValueError: first line."
    )
    assert isinstance(error.value.__cause__, Exception)
    assert isinstance(error.value.__cause__.__cause__, ValueError)
    assert Run(tmp_path / "run").facts.status == "failed"
    resumed = resume(tmp_path / "run", regression_task(metric=metric))
    assert without_timing(resumed.summary()) == without_timing(whole.summary())
