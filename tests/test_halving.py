"""Successive halving of partial trainings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evomal import Run, SymbolicLoss, resume, search
from evomal.training.halving import bars, halted, rungs
from evomal.training.loop import halved_training, partial_training
from evomal.training.numerics import DivergedError
from evomal.training.stack import stacked_training
from run_helpers import OVERFLOW, TINY, Recorder, without_timing
from tasks_for_tests import TEXTS, VARIED_TASKS, image_task, regression_task

pytestmark = pytest.mark.usefixtures("instant_formulas")

INF = math.inf


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, []), (2, [1]), (3, [1, 2]), (4, [1, 2]), (10, [3, 5]), (500, [125, 250])],
)
def test_rungs_are_at_a_quarter_and_a_half(steps: int, expected: list[int]) -> None:
    assert rungs(steps) == expected


@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        ([], (INF, INF)),
        ([(0.5, 0.25, 0.75)], (0.5, 0.25)),
        ([(0.5, 0.25, 0.75), (1.0,), (0.75, 0.5)], (0.75, 0.375)),
        ([(1.0,), (3.0,)], (2.0, INF)),
    ],
)
def test_a_bar_is_the_median_of_what_came_so_far(curves: Any, expected: tuple[float, ...]) -> None:
    assert bars(curves, 500) == expected


def test_a_training_is_halted_if_it_has_no_end() -> None:
    assert [halted((0.5,) * count, 500) for count in (1, 2, 3)] == [True, True, False]
    assert not halted((0.5,), 1)


@pytest.mark.parametrize("name", VARIED_TASKS)
def test_rungs_do_not_disturb_a_training(name: str) -> None:
    """L_P at a rung is that of a training of so many steps, and at the end that without rungs."""
    task = VARIED_TASKS[name]()
    loss = SymbolicLoss(TEXTS[0], torch.ones(3, dtype=torch.float64), task.link)
    curve = halved_training(task, loss, 9, 5, (INF, INF))
    assert curve == tuple(partial_training(task, loss, steps, 5) for steps in (3, 5, 9))
    assert halved_training(task, loss, 9, 5, curve[:2]) == curve, "equal to the bar is enough"
    assert halved_training(task, loss, 9, 5, (curve[0] - 1e-9, INF)) == curve[:1]
    assert halved_training(task, loss, 9, 5, (INF, curve[1] - 1e-9)) == curve[:2]


OVERFLOWING_VALUE = "y"
for _ in range(8):
    OVERFLOWING_VALUE = f"square({OVERFLOWING_VALUE})"


@pytest.mark.parametrize("text", [OVERFLOW, f"add(square(sub(y, f)), {OVERFLOWING_VALUE})"])
def test_a_training_that_diverges_is_not_merely_halted(text: str) -> None:
    """Even if only its value is infinite and the predictions are not."""
    task, loss = regression_task(), SymbolicLoss(text)
    with pytest.raises(DivergedError):
        halved_training(task, loss, 9, 5, (0.0, 0.0))
    (curve,) = stacked_training(task, [loss], 9, 5, (0.0, 0.0))
    assert curve == (INF,)


def infinite_at_first(pred: Tensor, target: Tensor) -> Tensor:
    error = (pred - target).square().mean()
    return torch.where(error < 0.14, error, INF)


def test_a_metric_that_is_not_finite_yet_stops_only_where_there_is_a_bar() -> None:
    task = regression_task(torch.float64, metric=infinite_at_first)
    loss = SymbolicLoss(TEXTS[0], torch.ones(3, dtype=torch.float64))
    last = partial_training(task, loss, 40, 5)
    for limits, expected in [((INF, INF), 3), ((0.4, INF), 1)]:
        curve = halved_training(task, loss, 40, 5, limits)
        (stacked,) = stacked_training(task, [loss], 40, 5, limits)
        assert stacked == pytest.approx(curve)
        assert len(curve) == expected
        assert curve[0] == INF
        assert curve[-1] == (last if expected == 3 else INF)


def drawing(pred: Tensor, target: Tensor) -> Tensor:
    torch.rand(3)
    return pred.square().mean()


def test_a_metric_that_draws_does_not_disturb_a_training() -> None:
    task = image_task(torch.float64, metric=drawing)
    loss = SymbolicLoss(TEXTS[0], torch.ones(3, dtype=torch.float64), "softmax")
    plain = partial_training(task, loss, 8, 5)
    assert halved_training(task, loss, 8, 5, (INF, INF))[-1] == plain
    (stacked,) = stacked_training(task, [loss], 8, 5, (INF, INF))
    assert stacked[-1] == pytest.approx(plain, rel=1e-9)


SEARCH: dict[str, Any] = {**TINY, "seed": 3, "population_size": 8, "generations": 5}


@pytest.fixture(scope="module")
def tasks() -> list[Any]:
    return [regression_task(name="a"), regression_task(name="b", batch_size=16)]


@pytest.fixture(scope="module")
def whole(tasks: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return search(tasks, run_dir=tmp_path_factory.mktemp("halved"), halving=True, **SEARCH)


def test_a_search_halts_what_is_worse_than_earlier_generations(whole: Run) -> None:
    outcomes = sorted(whole.archive.judged, key=lambda outcome: outcome.candidate.number)
    assert all(len(outcome.curves) == 2 for outcome in outcomes)
    halted_ones = [o for o in outcomes if o.status == "halted"]
    assert halted_ones
    assert all(o.candidate.generation > 0 for o in halted_ones)
    assert {o.status for o in outcomes} == {"evaluated", "halted"}
    assert whole.archive.counts["halted"] == len(halted_ones)
    steps = TINY["testing_steps"]
    for outcome in outcomes:
        ends = [curve[-1] for curve in outcome.curves]
        assert outcome.fitness == pytest.approx(sum(ends) / 2)
        stopped = [halted(curve, steps) for curve in outcome.curves]
        assert any(stopped) is (outcome.status == "halted")
        earlier = [o for o in outcomes if o.candidate.generation < outcome.candidate.generation]
        for task, curve in enumerate(outcome.curves):
            bar = bars([o.curves[task] for o in earlier[-8:]], steps)
            assert all(v <= b for v, b in zip(curve[:-1], bar, strict=False))
            if stopped[task]:
                assert curve[-1] > bar[len(curve) - 1]
    best = whole.archive.best
    assert best is not None
    assert best.status == "evaluated"


def test_stacked_trainings_are_halted_and_resumed_alike(tasks: list[Any], tmp_path: Path) -> None:
    settings: dict[str, Any] = {**SEARCH, "halving": True, "engine": "stacked", "group_size": 3}
    whole = search(tasks, run_dir=tmp_path / "whole", **settings)
    assert whole.archive.counts["halted"]
    with pytest.raises(KeyboardInterrupt):
        search(tasks, run_dir=tmp_path / "run", callbacks=[Recorder("candidate", 19)], **settings)
    again = resume(tmp_path / "run", tasks)
    assert without_timing(again.summary()) == without_timing(whole.summary())


@pytest.mark.parametrize("workers", [1, 2])
def test_halving_does_not_depend_on_workers_and_interruptions(
    whole: Run, tasks: list[Any], workers: int, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(
            tasks,
            run_dir=tmp_path,
            halving=True,
            workers=workers,
            callbacks=[Recorder("candidate", 21)],
            **SEARCH,
        )
    again = resume(tmp_path, tasks)
    assert without_timing(again.summary()) == without_timing(whole.summary())


def test_without_halving_nothing_is_halted(tasks: list[Any], tmp_path: Path) -> None:
    run = search(tasks, run_dir=tmp_path, **SEARCH)
    assert run.archive.counts["halted"] == 0
    assert run.archive.judged == []
