"""Meta-testing: equal conditions for all losses, tuning, splits, divergence, bad input."""

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
from evomal.losses.base import Loss
from evomal.losses.symbolic import SymbolicLoss
from evomal.tasks import lazy
from evomal.tasks.metrics import PerformanceMetric, mean_squared_error
from evomal.tasks.optimizers import SGD
from evomal.tasks.task import Task
from evomal.training.comparison import Comparison, Sample
from evomal.training.loop import partial_training, performance, train
from evomal.training.meta_testing import TrainingDone, compare
from evomal.training.tuning import LEARNING_RATE_FACTORS, TUNING_SEEDS, Grid, Recipe, Tunable, tuned
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
    assert result.tuned is None


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
    reports: list[TrainingDone] = []
    task = regression_task()
    result = compare(task, SQUARED_ERROR, [1, 2], steps=3, report=reports.append)
    names = [("learned", 1), ("learned", 2), ("task_loss", 1), ("task_loss", 2)]
    values = [*result.learned.values, *result.task_loss.values]
    assert reports == [
        TrainingDone(name, "test", 0, seed, 0.1, value, number, 4)
        for number, ((name, seed), value) in enumerate(zip(names, values, strict=True), start=1)
    ]


@pytest.mark.parametrize("rate", [1e-3, 0.1, 20.0])
def test_reports_count_up_to_the_total(rate: float) -> None:
    task = regression_task(optimizer=SGD(rate), task_loss=lambda p, t: (p - t).pow(4).mean())
    reports: list[TrainingDone] = []
    tune: list[Tunable] = ["learning-rate", "steps"]
    compare([task, task], SQUARED_ERROR, [0, 1], tune=tune, steps=5, report=reports.append)
    done = [one.done for one in reports]
    assert done == sorted(set(done))
    assert {one.total for one in reports} == {2 * 2 * (2 + 2 + 14)}
    assert max(done) <= 72
    assert {one.split for one in reports} == {0, 1}


# Further losses and splits


def test_further_losses_are_trained_alike() -> None:
    task = regression_task()
    quartic = SymbolicLoss("square(square(sub(y, f)))")
    against: list[str | Loss] = ["squared-error", "pinball:0.5", quartic, quartic]
    result = compare(task, SQUARED_ERROR, [1, 2], steps=6, against=against)
    formula = str(quartic.describe()["formula"])
    assert list(result.against) == ["squared-error", "pinball:0.5", formula, f"{formula} (4)"]
    assert result.against["squared-error"] == result.learned
    assert result.against[formula] == compare(task, quartic, [1, 2], steps=6).learned
    assert list(result.differences) == ["learned", *result.against]
    assert list(result.to_dict()["against"]) == list(result.against)


def test_several_splits_are_several_tasks() -> None:
    tasks = regression_task(), regression_task(optimizer=SGD(0.02))
    whole = compare(tasks, SQUARED_ERROR, [1, 2], steps=6, tune=["learning-rate"])
    parts = [
        compare(task, SQUARED_ERROR, [1, 2], steps=6, tune=["learning-rate"]) for task in tasks
    ]
    assert [*whole.learned.values] == [value for one in parts for value in one.learned.values]
    assert whole.tuned is not None
    for name, sample in whole.tuned.samples.items():
        found = [one.tuned.samples[name] for one in parts if one.tuned is not None]
        assert [*sample.recipes] == [recipe for one in found for recipe in one.recipes]
        assert [*sample.values] == [value for one in found for value in one.values]
    assert whole.differences["learned"].unit == "split"


# Tuning


def validation_metrics(
    task: Task, loss: Callable[[Tensor, Tensor], Tensor], steps: list[int]
) -> dict[tuple[float, int], float]:
    """Mean validation metric for every learning rate and number of steps, one training each."""
    found = {}
    for factor in LEARNING_RATE_FACTORS:
        for count in steps:
            values = []
            for seed in range(TUNING_SEEDS):
                stream = (seed, "tuning", task.name)
                learner = train(task, loss, count, stream=stream, rate=factor)
                values.append(performance(task, learner, task.validation))
            found[factor, count] = sum(values) / len(values)
    return found


@pytest.mark.parametrize("rate", [0.002, 0.02, 0.3])
def test_tuning_picks_the_best_on_validation_rows(rate: float) -> None:
    task = regression_task(optimizer=replace(PLAIN, learning_rate=rate))
    result = compare(
        task, SymbolicLoss("abs(sub(y, f))"), [4, 5], steps=10, tune=["learning-rate", "steps"]
    )
    assert result.tuned is not None
    for name, loss in (
        ("learned", SymbolicLoss("abs(sub(y, f))")),
        ("task_loss", task.task_loss),
    ):
        scores = validation_metrics(task, loss, [*range(1, 11)])
        factor, steps = min(scores, key=lambda one: scores[one])
        sample = result.tuned.samples[name]
        assert sample.recipes == [Recipe(factor * rate, steps)]
        assert result.samples[name].recipes == [Recipe(rate, 10)]
        plain = regression_task(optimizer=replace(PLAIN, learning_rate=factor * rate))
        alone = compare(plain, SymbolicLoss("abs(sub(y, f))"), [4, 5], steps=steps)
        assert finite(sample) == finite(alone.samples[name])


def test_only_what_is_asked_for_is_tuned() -> None:
    assert Grid.of((), 100) == Grid((1.0,), [100])
    assert Grid.of(["learning-rate"], 100) == Grid(LEARNING_RATE_FACTORS, [100])
    assert Grid.of(["steps"], 100) == Grid((1.0,), [*range(10, 101, 10)])
    assert Grid.of(["steps"], 3) == Grid((1.0,), [1, 2, 3])
    assert Grid.of(["steps"], 0) == Grid((1.0,), [0])


def test_fewer_steps_end_a_schedule_early() -> None:
    task = regression_task(
        schedule=lambda progress: 1.0 - 2 * min(progress, 0.4), metric=lambda p, t: abs(float(p[0]))
    )
    result = compare(task, SQUARED_ERROR, [0], steps=20, tune=["steps"])
    assert result.tuned is not None
    (recipe,) = result.tuned.learned.recipes
    assert recipe is not None
    stop = {recipe.steps: lambda learner: False}
    stream = (0, "meta-testing", task.name)
    learner = train(task, SQUARED_ERROR, 20, stream=stream, observers=stop)
    assert task.test is not None
    assert finite(result.tuned.learned) == [performance(task, learner, task.test)]


def test_equal_metrics_leave_the_recipe_as_it_is() -> None:
    task = regression_task(metric=lambda pred, target: 1.0)
    grid = Grid.of(["learning-rate", "steps"], 10)
    assert tuned(task, SQUARED_ERROR, grid, lambda *_: None) == (1.0, 10)


def test_tuning_skips_rates_that_diverge() -> None:
    steep = replace(PLAIN, learning_rate=10.0)
    task = regression_task(optimizer=steep, task_loss=lambda p, t: (p - t).pow(4).mean())
    reports: list[tuple[float, int, float | None]] = []
    best = tuned(
        task, task.task_loss, Grid.of(["learning-rate"], 15), lambda *row: reports.append(row)
    )
    assert len(reports) == len(LEARNING_RATE_FACTORS) * TUNING_SEEDS
    lost = {factor for factor, _, value in reports if value is None}
    assert 10.0 in lost
    assert best is not None
    assert best[0] not in lost


def test_a_loss_that_diverges_at_every_rate_has_no_recipe() -> None:
    task = regression_task(optimizer=SGD(1e9), task_loss=lambda p, t: (p - t).pow(4).mean())
    result = compare(task, SymbolicLoss("tanh(sub(y, f))"), [0, 1], steps=15, tune=["steps"])
    assert result.tuned is not None
    assert result.tuned.task_loss == Sample([None, None], [None])
    assert json.loads(json.dumps(result.to_dict()))["tuned"]["task_loss"]["recipes"] == [None]


# Divergence and samples


def test_a_diverged_training_has_no_value() -> None:
    exploding = SymbolicLoss("square(" * 6 + "sub(add(y, add(1, 1)), f)" + ")" * 6)
    result = compare(regression_task(), exploding, [0, 1], steps=15)
    assert result.learned == Sample([None, None], [Recipe(0.1, 15)])
    found = result.differences["learned"]
    assert (found.losses, found.left_out, found.difference) == (2, 2, None)
    assert (result.learned.mean, result.learned.std) == (None, None)
    assert len(finite(result.task_loss)) == 2
    assert json.loads(json.dumps(result.to_dict()))["learned"]["values"] == [None, None]


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        ([1.0, 2.0, 4.0], 7 / 3, math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2)),
        ([3.0, 3.0], 3.0, 0.0),
        ([3.0], 3.0, None),
        ([1.0, None, 2.0], 1.5, math.sqrt(0.5)),
        ([None], None, None),
    ],
    ids=str,
)
def test_mean_and_sample_standard_deviation(
    values: list[float | None], mean: float | None, std: float | None
) -> None:
    sample = Sample(values, [Recipe(0.1, 7)])
    assert sample.mean == (mean if mean is None else pytest.approx(mean))
    assert sample.std == (std if std is None else pytest.approx(std))
    fields = sample.to_dict()
    assert fields == {
        "values": values,
        "mean": sample.mean,
        "std": sample.std,
        "diverged": values.count(None),
        "recipes": [{"learning_rate": 0.1, "steps": 7}],
    }


def test_a_comparison_as_json_holds_only_what_there_is() -> None:
    one, two = Sample([1.0], [Recipe(0.1, 5)]), Sample([2.0], [Recipe(0.3, 5)])
    r2 = PerformanceMetric("r2", mean_squared_error, maximize=True)
    fields = Comparison(r2, one, two).to_dict()
    assert list(fields) == ["metric", "direction", "learned", "task_loss", "differences"]
    assert (fields["metric"], fields["direction"]) == ("r2", "maximize")
    assert fields["differences"]["learned"]["losses"] == 1
    whole = Comparison(r2, one, one, {"x": two}, Comparison(r2, two, one)).to_dict()
    assert whole["tuned"]["differences"]["learned"]["wins"] == 1
    assert whole["against"]["x"]["mean"] == 2.0


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
        (regression_task, {"tune": ["rate"]}, "Unknown thing to tune 'rate'"),
        (regression_task, {"tune": "steps"}, "must be a list"),
        (regression_task, {"against": ["pinball:2"]}, "quantile"),
        (regression_task, {"against": ["focal:2"]}, "has link 'softmax'"),
        (regression_task, {"against": ["no-such-loss"]}, "no-such-loss"),
        (regression_task, {"against": "huber:1"}, "must be a list"),
        (lambda: [], {}, "at least one task"),
        (
            lambda: [regression_task(), regression_task(metric="mae")],
            {},
            "their metrics differ",
        ),
        (regression_task, {"steps": -1}, "steps"),
    ],
    ids=[
        "no test data",
        "link",
        "no seeds",
        "nothing such to tune",
        "a text to tune",
        "number of a family",
        "link of a further loss",
        "no such loss",
        "a text of losses",
        "no task",
        "metrics",
        "negative steps",
    ],
)
def test_bad_input_is_named(
    make: Callable[[], Any], arguments: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(InputError) as caught:
        compare(make(), SQUARED_ERROR, **({"seeds": [0]} | arguments))
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)
