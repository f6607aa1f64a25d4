"""Meta-testing: equal conditions for both losses, the tuned baseline, divergence, bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from evomal.errors import InputError
from evomal.losses.symbolic import SymbolicLoss
from evomal.tasks import lazy
from evomal.tasks.metrics import PerformanceMetric, mean_squared_error
from evomal.tasks.optimizers import SGD
from evomal.tasks.task import Task
from evomal.training.loop import partial_training, performance, train
from evomal.training.meta_testing import (
    LEARNING_RATE_FACTORS,
    Comparison,
    Sample,
    compare,
    tuned_rate,
)
from tasks_for_tests import PLAIN, Perceptron, classification_task, image_task, regression_task

SQUARED_ERROR = SymbolicLoss("square(sub(y, f))")
CROSS_ENTROPY = SymbolicLoss("mul(-1, mul(y, log(f)))", link="softmax")


def finite(sample: Sample | None) -> list[float]:
    assert sample is not None
    return [value for value in sample.values if value is not None]


# Equal conditions


@pytest.mark.parametrize(
    ("make", "loss"),
    [(regression_task, SQUARED_ERROR), (image_task, CROSS_ENTROPY)],
    ids=["squared error", "cross-entropy with dropout"],
)
def test_the_task_loss_as_an_expression_gives_the_task_losss_metrics(
    make: Callable[..., Task], loss: SymbolicLoss
) -> None:
    task = make(metric=make().task_loss, optimizer=SGD(0.02))
    result = compare(task, loss, [3, 5, 8])
    learned, plain = finite(result.learned), finite(result.task_loss)
    assert learned == pytest.approx(plain, rel=1e-5)
    assert len(set(plain)) == 3
    assert result.task_loss_tuned is None


def test_both_losses_see_the_same_learner_and_batches() -> None:
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {"learned": [], "task_loss": []}

    class Watched(SymbolicLoss):
        def forward(self, pred: Tensor, target: Tensor, **inputs: Tensor | float) -> Tensor:
            seen["learned"].append((pred.detach(), target))
            return super().forward(pred, target, **inputs)

    def task_loss(pred: Tensor, target: Tensor) -> Tensor:
        seen["task_loss"].append((pred.detach(), target))
        return (pred - target).abs().mean()

    task = regression_task(task_loss=task_loss)
    seen["task_loss"].clear()  # a task tries its task loss when it is made
    compare(task, Watched("square(square(sub(y, f)))"), [0, 1], steps=4)
    ours, theirs = seen["learned"], seen["task_loss"]
    assert len(ours) == len(theirs) == 8
    for i in range(8):
        assert torch.equal(ours[i][1], theirs[i][1])
        assert torch.equal(ours[i][0], theirs[i][0]) == (i in (0, 4))  # θ₀, before the first step
    assert not torch.equal(ours[0][1], ours[4][1])


def test_a_comparison_repeats_and_leaves_the_global_generator() -> None:
    task, state = image_task(), torch.random.get_rng_state()
    first, again = (compare(task, CROSS_ENTROPY, [0, 1], steps=5).to_dict() for _ in range(2))
    assert first == again
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_seed_means_the_same_whatever_other_seeds_there_are() -> None:
    task = regression_task()
    several = finite(compare(task, SQUARED_ERROR, [4, 6, 9]).learned)
    assert finite(compare(task, SQUARED_ERROR, [9]).learned) == several[2:]


def test_no_random_stream_is_that_of_a_search() -> None:
    task = regression_task()
    task.test = task.validation
    found = finite(compare(task, SQUARED_ERROR, [0], steps=10).learned)
    assert found[0] != partial_training(task, SQUARED_ERROR, 10, 0)


@pytest.mark.parametrize("steps", [None, 0, 7])
def test_metrics_are_on_test_rows_after_the_steps_asked_for(steps: int | None) -> None:
    count = 0

    def task_loss(pred: Tensor, target: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return (pred - target).square().mean()

    task = regression_task(task_loss=task_loss, testing_steps=12)
    count = 0  # a task tries its task loss when it is made
    result = compare(task, SQUARED_ERROR, [2], steps=steps)
    expected_steps = 12 if steps is None else steps
    assert count == expected_steps
    learner = train(task, SQUARED_ERROR, expected_steps, stream=(2, "meta-testing", task.name))
    assert task.test is not None
    assert finite(result.learned) == [performance(task, learner, task.test)]


def test_test_rows_may_be_read_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "SAMPLE", 5)  # of the targets, which are read with the rows
    found = [
        compare(classification_task(report=["f1_macro"], in_memory=held), CROSS_ENTROPY, [1, 2])
        for held in (True, False)
    ]
    assert found[0].to_dict() == found[1].to_dict()


def test_every_training_is_reported() -> None:
    reports: list[tuple[str, int, float | None]] = []
    task = regression_task()
    result = compare(task, SQUARED_ERROR, [1, 2], steps=3, report=lambda *row: reports.append(row))
    names = [("learned", 1), ("learned", 2), ("task_loss", 1), ("task_loss", 2)]
    values = [*result.learned.values, *result.task_loss.values]
    assert reports == [(*name, value) for name, value in zip(names, values, strict=True)]


# The tuned baseline


def validation_metrics(task: Task, steps: int, seed: int) -> dict[float, float]:
    """Validation metric of the task loss at every learning rate, one training each."""
    found = {}
    for factor in LEARNING_RATE_FACTORS:
        settings = replace(task.optimizer, learning_rate=factor * task.learning_rate)
        one = regression_task(optimizer=settings)
        stream = (seed, "meta-testing", task.name)
        learner = train(one, one.task_loss, steps, stream=stream)
        found[factor] = performance(one, learner, one.validation)
    return found


@pytest.mark.parametrize("rate", [0.002, 0.02, 0.3])
def test_tuning_picks_the_best_on_validation_rows(rate: float) -> None:
    task = regression_task(optimizer=replace(PLAIN, learning_rate=rate))
    scores = validation_metrics(task, 15, seed=4)
    best = min(scores, key=lambda r: scores[r])
    assert tuned_rate(task, 4, 15) == best
    result = compare(task, SQUARED_ERROR, [4, 5], steps=15, tune_baseline=True)
    assert result.task_loss_tuned is not None
    assert result.task_loss_tuned.learning_rate == best * rate
    assert result.learned.learning_rate == result.task_loss.learning_rate == rate
    tuned = regression_task(optimizer=replace(PLAIN, learning_rate=best * rate))
    assert finite(result.task_loss_tuned) == finite(
        compare(tuned, SQUARED_ERROR, [4, 5], steps=15).task_loss
    )


def test_different_tasks_are_tuned_to_different_rates() -> None:
    found = {
        tuned_rate(regression_task(optimizer=replace(PLAIN, learning_rate=rate)), 4, 15)
        for rate in (0.002, 0.3)
    }
    assert len(found) == 2


def test_tuning_skips_rates_that_diverge() -> None:
    task = regression_task(optimizer=SGD(20.0), task_loss=lambda p, t: (p - t).pow(4).mean())
    reports: dict[str, float | None] = {}
    rate = tuned_rate(task, 0, 15, report=lambda name, _, value: reports.update({name: value}))
    assert len(reports) == len(LEARNING_RATE_FACTORS)
    assert reports["validation at learning rate 200"] is None
    assert reports[f"validation at learning rate {20 * rate:g}"] is not None


def test_when_every_rate_diverges_the_input_is_at_fault() -> None:
    task = regression_task(optimizer=SGD(1e9), task_loss=lambda p, t: (p - t).pow(4).mean())
    with pytest.raises(InputError, match="diverges at every learning rate"):
        compare(task, SQUARED_ERROR, [0], steps=15, tune_baseline=True)


# Divergence and samples


def test_a_diverged_training_has_no_value() -> None:
    exploding = SymbolicLoss("square(" * 6 + "sub(add(y, add(1, 1)), f)" + ")" * 6)
    result = compare(regression_task(), exploding, [0, 1], steps=15)
    assert result.learned == Sample([None, None], 0.1)
    assert (result.learned.mean, result.learned.std) == (None, None)
    assert len(finite(result.task_loss)) == 2
    assert json.loads(json.dumps(result.to_dict()))["learned"]["values"] == [None, None]


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        ([1.0, 2.0, 4.0], 7 / 3, math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2)),
        ([3.0, 3.0], 3.0, 0.0),
        ([3.0], 3.0, None),
        ([1.0, None, 2.0], None, None),
        ([None], None, None),
    ],
    ids=str,
)
def test_mean_and_sample_standard_deviation(
    values: list[float | None], mean: float | None, std: float | None
) -> None:
    sample = Sample(values, 0.1)
    assert sample.mean == (mean if mean is None else pytest.approx(mean))
    assert sample.std == (std if std is None else pytest.approx(std))
    fields = sample.to_dict()
    assert fields == {
        "values": values,
        "mean": sample.mean,
        "std": sample.std,
        "learning_rate": 0.1,
    }


def test_a_comparison_as_json_holds_the_tuned_baseline_only_if_there_is_one() -> None:
    one, two = Sample([1.0], 0.1), Sample([2.0], 0.3)
    r2 = PerformanceMetric("r2", mean_squared_error, maximize=True)
    fields = Comparison(r2, one, two, None).to_dict()
    assert list(fields) == ["metric", "direction", "learned", "task_loss"]
    assert (fields["metric"], fields["direction"]) == ("r2", "maximize")
    assert Comparison(r2, one, one, two).to_dict()["task_loss_tuned"]["learning_rate"] == 0.3


# Bad input


def no_test_data() -> Task:
    task = regression_task()
    return Task(Perceptron, task.train, task.validation, link="identity", name="bare")


@pytest.mark.parametrize(
    ("make", "arguments", "fragment"),
    [
        (no_test_data, {}, "The task 'bare' has no test data"),
        (classification_task, {}, "has link 'identity', but the task 'test/softmax' needs"),
        (regression_task, {"seeds": []}, "seed"),
        (regression_task, {"seeds": [], "tune_baseline": True}, "seed"),
        (regression_task, {"steps": -1}, "steps"),
    ],
    ids=["no test data", "link", "no seeds", "no seeds to tune with", "negative steps"],
)
def test_bad_input_is_named(
    make: Callable[[], Task], arguments: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(InputError) as caught:
        compare(make(), SQUARED_ERROR, **({"seeds": [0]} | arguments))
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
