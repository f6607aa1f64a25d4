"""The rejection protocol's few rows hold every class; a metric undefined there decides nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import evomal
from evomal import SymbolicLoss, Task
from evomal.losses.form import Form, Link
from evomal.seeding import derive_generator
from evomal.tasks.classes import held_classes, with_every_class
from evomal.training.filters import Correlation, correlation, correlations
from evomal.training.numerics import DivergedError, draw_batches
from evomal.training.raw_outputs import raw_outputs
from evomal.training.screening import screen
from evomal.training.settings import EvaluationSettings, Pipeline
from evomal.training.workbench import Workbench
from run_helpers import tiny_settings
from tasks_for_tests import PLAIN, Perceptron, classification_task, regression_task

SETTINGS = EvaluationSettings(rejection_batch=40, rejection_steps=20, meta_steps=2)
CPU = torch.device("cpu")


def sample(targets: Tensor, link: Link, size: int, *, seed: int = 0, **form: Any) -> Tensor:
    """Rows of a sample, made from the first `size` rows."""
    classes = held_classes(targets, Form(link, **form))
    assert classes is not None
    return with_every_class(torch.arange(size), classes, np.random.default_rng(seed))


# The sample


def test_classes_by_hand() -> None:
    labels = torch.tensor([[0, 1], [9, 2]])
    assert held_classes(labels, Form("identity")) is None
    found = held_classes(labels, Form("softmax", ignore_index=9))
    assert found is not None
    assert found.tolist() == [[0, 1], [-1, 2]]
    for binary in (torch.tensor([1.0, 0.0]), torch.tensor([[1.0], [0.0]])):
        found = held_classes(binary, Form("sigmoid"))
        assert found is not None
        assert found.tolist() == [[1], [0]]
    found = held_classes(torch.tensor([[1.0, 0.0, 1.0]]), Form("sigmoid"))
    assert found is not None
    assert found.tolist() == [[1, 2, 5]]
    found = held_classes(torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]]), Form("sigmoid"))
    assert found is not None
    assert found.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("shape", [(400,), (400, 1)], ids=str)
def test_rare_positives_come_in_and_the_last_rows_drawn_go_out(shape: tuple[int, ...]) -> None:
    targets = torch.zeros(400)
    targets[[3, 100, 200, 300, 399]] = 1
    rows = sample(targets.reshape(shape), "sigmoid", 50)
    assert rows[:48].tolist() == list(range(48))
    assert len(set(rows.tolist()) & {100, 200, 300, 399}) == 2
    assert targets[rows].sum() == 3
    assert torch.equal(rows, sample(targets.reshape(shape), "sigmoid", 50))
    others = {tuple(sample(targets, "sigmoid", 50, seed=s).tolist()) for s in range(20)}
    assert len(others) > 5


def test_a_sample_that_holds_all_is_left_alone() -> None:
    targets = torch.arange(400) % 4
    assert sample(targets, "softmax", 30).tolist() == list(range(30))
    assert sample(targets, "softmax", 400).tolist() == list(range(400))


@pytest.mark.parametrize(
    ("classes", "size", "at_least"),
    [(2, 12, 3), (4, 24, 3), (4, 16, 2), (4, 7, 1), (10, 100, 3), (40, 100, 1), (100, 100, 1)],
)
def test_every_class_is_there_a_few_times(classes: int, size: int, at_least: int) -> None:
    targets = torch.cat([torch.zeros(600, dtype=torch.long), torch.arange(classes * 4) % classes])
    rows = sample(targets, "softmax", size)
    assert len(rows.unique()) == size  # type: ignore[no-untyped-call]
    assert targets[rows].bincount(minlength=classes).min() == at_least
    assert sample(targets, "softmax", classes - 1).tolist() == list(range(classes - 1))


def test_a_class_of_one_row_is_there_once() -> None:
    targets = torch.zeros(200, dtype=torch.long)
    targets[150] = 7
    rows = sample(targets, "softmax", 20)
    assert rows.tolist() == [*range(19), 150]


def test_labels_and_pixels_of_a_row_count_together() -> None:
    labels = torch.zeros(300, 3)
    labels[200:204] = 1.0  # all three labels
    assert labels[sample(labels, "sigmoid", 40)].sum(dim=0).tolist() == [3, 3, 3]
    pixels = torch.zeros(300, 2, 2, dtype=torch.long)
    pixels[250:260, 1, 0] = 2
    pixels[260:, 0, 0] = 9
    rows = sample(pixels, "softmax", 40, ignore_index=9)
    assert (pixels[rows] == 2).sum() == 3
    assert not (pixels[rows] == 9).any()


def test_regression_is_sampled_as_ever() -> None:
    task = regression_task()
    stream = (4, "raw-outputs", task.name)
    plain = draw_batches(derive_generator(*stream), 40, 15, 1, CPU)[0]
    assert torch.equal(raw_outputs(task, 15, 4).targets, task.train.targets[plain])


# A metric that is undefined there


def balanced_error(pred: Tensor, target: Tensor) -> float:
    wrong = (pred > 0).float() != target
    return float(torch.stack([wrong[target == label].float().mean() for label in (0, 1)]).mean())


def imbalanced_task(**settings: Any) -> Task:
    """1 % positives among 600 training rows."""
    rng = torch.Generator().manual_seed(3)
    parts = []
    for rows in (600, 300):
        targets = torch.zeros(rows, 1)
        targets[::100] = 1
        parts.append((torch.randn(rows, 3, generator=rng) + 2 * targets, targets))
    defaults: dict[str, Any] = {"metric": balanced_error, "optimizer": PLAIN, "rejection_steps": 20}
    return Task(Perceptron, *parts, link="sigmoid", name="imbalanced", **(defaults | settings))


CROSS_ENTROPY = "mul(-1, add(mul(y, log(f)), mul(sub(1, y), log(sub(1, f)))))"


@pytest.mark.parametrize("seed", range(3))
def test_balanced_error_with_one_percent_positives_judges_losses(seed: int) -> None:
    task = imbalanced_task()
    settings = EvaluationSettings(rejection_batch=100, rejection_steps=40)
    assert raw_outputs(task, 100, seed).targets.sum() >= 3
    assert (
        correlation(Workbench([task], settings, seed), SymbolicLoss(CROSS_ENTROPY, link="sigmoid"))
        > 0
    )
    bad = SymbolicLoss(f"mul(-1, {CROSS_ENTROPY})", link="sigmoid")
    assert correlation(Workbench([task], settings, seed), bad) <= 0


def test_a_search_with_one_percent_positives_ends(tmp_path: Any) -> None:
    settings = tiny_settings(population_size=6, generations=2, rejection_batch=100)
    run = evomal.search(imbalanced_task(), settings=settings, run_dir=tmp_path / "run")
    assert run.facts.status == "finished"
    assert run.best.fitness < 1


def undefined(value: Any, pred: Tensor, target: Tensor) -> float:
    """Defined on the whole validation part only, where the sample has more rows than that."""
    if len(pred) > 24:
        return float(value())
    return float((pred - target).square().mean())


def fails() -> float:
    raise ValueError("only one class in y_true")


VALUES: dict[str, Callable[[], float]] = {
    "nan": lambda: math.nan,
    "infinite": lambda: math.inf,
    "raises": fails,
    "divides by zero": lambda: 1 / 0,
    "largest of nothing": lambda: float(torch.ones(0).max()),
}
SQUARED_ERROR = SymbolicLoss("square(sub(y, f))")
OPPOSITE = SymbolicLoss("mul(-1, square(sub(y, f)))")


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_an_undefined_metric_rejects_nothing(value: Callable[[], float]) -> None:
    task = regression_task(metric=partial(undefined, value))
    found = correlations(Workbench([task], SETTINGS, 0), [SQUARED_ERROR, OPPOSITE])
    assert found == [Correlation(None), Correlation(None)]
    assert math.isnan(correlation(Workbench([task], SETTINGS, 0), OPPOSITE))
    screened = screen(Workbench([task], SETTINGS, 0), [OPPOSITE], Pipeline(False, True, True))[0]
    assert (screened.verdict, screened.correlation) == ("promising", None)
    assert screened.gradient_key is not None


def test_tasks_with_a_defined_metric_decide() -> None:
    task = regression_task()
    silent = regression_task(metric=partial(undefined, VALUES["nan"]), name="silent")
    for loss in (SQUARED_ERROR, OPPOSITE):
        alone = correlation(Workbench([task], SETTINGS, 0), loss)
        assert correlation(Workbench([silent, task, silent], SETTINGS, 0), loss) == alone
    assert Correlation(-0.0).rejects
    assert not Correlation(None).rejects


def test_a_metric_that_only_the_optimised_outputs_leave_undefined_decides_nothing() -> None:
    def metric(pred: Tensor, target: Tensor) -> float:
        error = float((pred - target).square().mean())
        return error if len(pred) <= 24 or error > 0.7 else math.nan

    task = regression_task(metric=metric)
    settings = EvaluationSettings(rejection_batch=40, rejection_steps=200)
    assert correlations(Workbench([task], settings, 0), [SQUARED_ERROR, OPPOSITE])[
        0
    ] == Correlation(None)
    assert correlations(Workbench([task], settings, 0), [SQUARED_ERROR, OPPOSITE])[1].rejects


def test_outputs_that_explode_are_a_divergence_all_the_same() -> None:
    task = classification_task(
        torch.float64, metric=lambda pred, _: math.nan if len(pred) > 24 else pred[0, 0]
    )
    exploding = SymbolicLoss(
        "square(" * 11 + "add(f, add(y, 1))" + ")" * 11, torch.full((15,), 2.0), link="softmax"
    )
    with pytest.raises(DivergedError):
        correlation(Workbench([task], SETTINGS, 0), exploding)
    assert correlations(Workbench([task], SETTINGS, 0), [exploding]) == [
        Correlation(None, diverged=True)
    ]
