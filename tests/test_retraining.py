"""Trainings on fresh seeds, and how long those of a fitness are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from evomal import Milestones, Task
from evomal.losses.symbolic import SymbolicLoss
from evomal.runs.recipe import find_recipes
from evomal.runs.retrainings import Wanted
from evomal.training.horizon import LEAST_OPERATIONS, step_operations, with_steps
from evomal.training.loop import performance, train
from evomal.training.retraining import Retrained, Retraining, matching_factor, retrain
from run_helpers import tiny_settings
from tasks_for_tests import classification_task, regression_task

SQUARED, ABSOLUTE = SymbolicLoss("square(sub(y, f))"), SymbolicLoss("abs(sub(y, f))")


def test_a_training_is_a_plain_one_with_checkpoints() -> None:
    task = regression_task()
    todo = Retraining("tuning", 1, 0.5, 20, (10, 20), resamples=3)
    found = retrain(task, SQUARED, todo, seed=4)
    learner = train(
        task, SQUARED, 20, stream=(4, "tuning", task.name, 1), rate=0.5, meta_testing=True
    )
    assert found.curve[-1] == performance(task, learner, task.validation)
    assert len(found.curve) == 2
    assert (found.factor, found.last) == (0.5, found.curve[-1])
    assert len(found.resampled) == 3
    assert len(set(found.resampled)) == 3
    again = retrain(task, ABSOLUTE, todo, seed=4)
    assert again.curve != found.curve


def test_a_training_stops_when_it_no_longer_improves() -> None:
    task = regression_task()
    task.metric = iter_metric(values := [5.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.0])
    checkpoints = tuple(range(1, len(values) + 1))
    patient = Retraining("tuning", 0, 1.0, len(values), checkpoints, stops_early=True)
    assert retrain(task, SQUARED, patient, 0).curve == (5.0, 1.0, 2.0, 2.0, 2.0, 2.0)
    task.metric = iter_metric(values)
    to_the_end = replace(patient, stops_early=False)
    assert retrain(task, SQUARED, to_the_end, 0).curve == tuple(values)


def iter_metric(values: Sequence[float]) -> Any:
    left = iter(values)
    return lambda pred, target: next(left)


def test_a_metric_that_is_undefined_on_the_way_is_no_divergence() -> None:
    task = regression_task()
    task.metric = iter_metric([math.nan, 2.0, 1.0])
    found = retrain(task, SQUARED, Retraining("tuning", 0, 1.0, 3, (1, 2, 3)), 0)
    assert (found.curve, found.values) == ((None, 2.0, 1.0), [math.inf, 2.0, 1.0])


def test_a_random_task_loss_has_the_same_scale_every_time() -> None:
    task = regression_task()
    task.task_loss = lambda pred, target: ((pred - target) ** 2 * torch.rand_like(pred)).mean()
    assert len({matching_factor(task, SQUARED, 0) for _ in range(3)}) == 1


def test_the_recipe_is_tuned_without_the_schedule_of_meta_testing() -> None:
    asked: list[Retraining] = []

    def trainings(wanted: Sequence[Wanted]) -> list[Retrained]:
        asked.extend(todo for _, _, todo in wanted)
        return [Retrained((abs(math.log(todo.factor)),), 1.0) for _, _, todo in wanted]

    find_recipes(trainings, [0.1], 10)
    assert not any(todo.meta_testing for todo in asked)
    task, losses = regression_task(schedule=Milestones((0.3,))), (SQUARED, None)
    plain, decayed = (
        [retrain(task, one, replace(asked[0], meta_testing=flag), 0) for one in losses]
        for flag in (False, True)
    )
    assert plain != decayed


def test_a_training_that_diverges_has_no_curve() -> None:
    found = retrain(regression_task(), SQUARED, Retraining("tuning", 0, 1e9, 50, (50,)), 0)
    assert (found.curve, found.last) == ((), math.inf)


@pytest.mark.parametrize("make", [regression_task, classification_task])
def test_the_scale_of_a_loss_is_evened_out(make: Any) -> None:
    task = make()
    loss = SymbolicLoss.of_form("square(sub(y, f))", task.form)
    large = SymbolicLoss.of_form("square(sub(y, f))", task.form, phi=[100.0, 1.0, 1.0])
    ratio = matching_factor(task, loss, 0) / matching_factor(task, large, 0)
    assert ratio == pytest.approx(1e4, rel=1e-4)
    todo = Retraining("tuning", 0, 1.0, 5, (5,), matched=True)
    a, b = (retrain(task, one, todo, 0) for one in (loss, large))
    assert a.curve == pytest.approx(b.curve, rel=1e-3)


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(4, 8, batch_first=True)
        self.last = torch.nn.Linear(8, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(self.lstm(inputs)[0][:, -1])  # type: ignore[no-any-return]


def test_affordable_steps() -> None:
    task = regression_task(testing_steps=5000)
    given = tiny_settings(testing_steps=None, training_budget=1e12)
    assert with_steps(given, [task]).testing_steps == 5000
    operations = step_operations(task)
    some = tiny_settings(testing_steps=None, training_budget=789 * operations)
    assert with_steps(some, [task]).testing_steps == 780, "two digits"
    few = tiny_settings(testing_steps=None, training_budget=operations)
    assert with_steps(few, [task]).testing_steps == 100
    assert with_steps(tiny_settings(testing_steps=7), [task]).testing_steps == 7
    assert operations == LEAST_OPERATIONS
    rows = torch.randn(128, 100, 4), torch.randn(128, 1)
    sequences = Task(Recurrent, rows, rows, link="identity", name="sequences")
    parameters = sum(p.numel() for p in Recurrent().parameters())
    assert step_operations(sequences) == 2 * parameters * 128 * 100
