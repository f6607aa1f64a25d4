"""Meta-testing: comparison of a loss with the task loss on rows that no search has seen."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from evomal.errors import InputError, named
from evomal.losses.base import Loss
from evomal.tasks.arguments import whole_number, whole_numbers
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.direction import own_value
from evomal.tasks.metrics import PerformanceMetric, TensorLoss
from evomal.tasks.task import Task
from evomal.tasks.task_arguments import require_task
from evomal.training.loop import predictions, train
from evomal.training.numerics import DivergedError, is_out_of_memory
from evomal.training.reporting import own_values

LEARNING_RATE_FACTORS = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Factors of the base learning rate to try when tuning it."""


@dataclass(frozen=True)
class Sample:
    """Test metrics of one loss over seeds; None for a training that diverged.

    Attributes
    ----------
    values
        One per seed.
    learning_rate
        Learning rate of the base optimiser.
    """

    values: Sequence[float | None]
    learning_rate: float

    @property
    def mean(self) -> float | None:
        """Mean; None if a training diverged."""
        finite = self._finite
        return statistics.fmean(finite) if len(finite) == len(self.values) else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation; None with fewer than two values or a diverged training."""
        finite = self._finite
        whole = len(finite) == len(self.values) >= 2
        return statistics.stdev(finite) if whole else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "values": list(self.values),
            "mean": self.mean,
            "std": self.std,
            "learning_rate": self.learning_rate,
        }

    @property
    def _finite(self) -> list[float]:
        return [value for value in self.values if value is not None]


@dataclass(frozen=True)
class Comparison:
    """A learned loss, the task loss, and optionally the task loss with a tuned learning rate.

    Attributes
    ----------
    metric
        The metric, with its direction.
    learned, task_loss, task_loss_tuned
        Its values.
    reported
        The same trainings by each of the metrics that the task reports.
    """

    metric: PerformanceMetric
    learned: Sample
    task_loss: Sample
    task_loss_tuned: Sample | None
    reported: Sequence[Comparison] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; ``task_loss_tuned`` and ``reported`` only if there are any."""
        samples = {
            "learned": self.learned,
            "task_loss": self.task_loss,
            "task_loss_tuned": self.task_loss_tuned,
        }
        others = {"reported": [other.to_dict() for other in self.reported]}
        return {
            "metric": self.metric.name,
            "direction": self.metric.direction,
            **{name: sample.to_dict() for name, sample in samples.items() if sample is not None},
            **(others if self.reported else {}),
        }


def compare(
    task: Task,
    loss: Loss,
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    tune_baseline: bool = False,
    report: Callable[[str, int, float | None], None] = lambda name, seed, value: None,
) -> Comparison:
    """Train fresh base learners with a loss and with the task loss, and compare test metrics.

    With equal seeds, both start from the same θ₀ and see the same batches. No random stream is
    shared with a search.

    Parameters
    ----------
    task
        A task with test data.
    loss
        The loss to test.
    seeds
        One training per loss and seed.
    steps
        Training steps; default the task's number.
    tune_baseline
        Also train with the task loss and the learning rate that gives the best validation metric
        among `LEARNING_RATE_FACTORS` times the task's. A learned loss can merely act as a different
        learning rate (paper, section 5.5); this distinguishes such a gain from others.
    report
        Called with the name of the loss, the seed and the metric, in its own direction, after
        every training.

    Raises
    ------
    InputError
        If the task has no test data, the loss does not match the task, there are no seeds, or the
        metric fails on the test data.
    """
    require_task(task)
    if task.test is None:
        raise InputError(f"The task {task.name!r} has no test data to compare losses on.")
    task.require_fit(loss)
    steps = whole_number(
        task.testing_steps if steps is None else steps, "number of training steps", 0
    )
    seeds = whole_numbers(seeds, "seed", 0)
    if not seeds:
        raise InputError("A comparison needs at least one seed.")

    def test(name: str, train_loss: TensorLoss, rate: float = 1.0) -> list[Sample]:
        rows = []
        for seed in seeds:
            rows.append(_metrics(task, train_loss, steps, seed, rate, "test"))
            report(name, seed, rows[-1][0])
        reached = rate * task.learning_rate
        return [Sample(list(values), reached) for values in zip(*rows, strict=True)]

    learned = test("learned", copy.deepcopy(loss).to(task.device))
    task_loss = test("task_loss", task.task_loss)
    metrics = (task.performance_metric, *task.report)
    tuned: Sequence[Sample | None] = [None] * len(metrics)
    if tune_baseline:
        best = tuned_rate(task, seeds[0], steps, report)
        tuned = test("task_loss_tuned", task.task_loss, best)
    own, *others = map(Comparison, metrics, learned, task_loss, tuned)
    return replace(own, reported=others)


def tuned_rate(
    task: Task,
    seed: int,
    steps: int,
    report: Callable[[str, int, float | None], None] = lambda name, seed, value: None,
) -> float:
    """The factor of the learning rate with the best validation metric for the task loss.

    Raises
    ------
    InputError
        If every training diverges.
    """
    scores: dict[float, float] = {}
    for rate in LEARNING_RATE_FACTORS:
        value = _metrics(task, task.task_loss, steps, seed, rate, "validation")[0]
        report(f"validation at learning rate {rate * task.learning_rate:g}", seed, value)
        if value is not None:
            scores[rate] = own_value(value, task.performance_metric.direction)
    if not scores:
        raise InputError("The task loss diverges at every learning rate tried.")
    return min(scores, key=lambda rate: scores[rate])


def _metrics(
    task: Task, loss: TensorLoss, steps: int, seed: int, rate: float, part: str
) -> list[float | None]:
    """Metrics on one data split after training; None if the training diverges."""
    stream = (seed, "meta-testing", task.name)
    data = task.test if part == "test" else task.validation
    assert data is not None
    try:
        learner = train(task, loss, steps, stream=stream, rate=rate, meta_testing=True)
        return _judged(task, *predictions(task, learner, data), part)
    except DivergedError:
        return [None] * (1 + len(task.report))


def _judged(task: Task, pred: Tensor, target: Tensor, part: str) -> list[float | None]:
    try:
        return own_values(task, pred, target)
    except (DivergedError, InputError):
        raise
    except OWN_CODE_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"The metric {task.performance_metric.name} of {task.name!r} fails on the {part} data "
            f"({named(error)}); choose a metric that is defined there, or another split of the "
            "rows, such as one in which every part has all classes."
        ) from error
