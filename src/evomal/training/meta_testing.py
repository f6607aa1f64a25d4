"""Meta-testing: comparison of losses with the task loss on rows that no search has seen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from evomal.errors import InputError, require_name
from evomal.losses.base import Loss
from evomal.losses.names import resolve_loss
from evomal.tasks.arguments import listed, whole_number, whole_numbers
from evomal.tasks.metrics import PerformanceMetric, TensorLoss
from evomal.tasks.task import Task
from evomal.tasks.task_arguments import as_tasks
from evomal.training.comparison import Comparison, Sample
from evomal.training.loop import train
from evomal.training.numerics import DivergedError
from evomal.training.reporting import measured
from evomal.training.tuning import Grid, Recipe, Tunable, tuned


@dataclass(frozen=True)
class TrainingDone:
    """A training of a comparison that ended.

    Attributes
    ----------
    loss
        ``"learned"``, ``"task_loss"``, or the name of a further loss.
    part
        The rows of the metric: ``"validation"`` when a loss is tuned.
    split, seed
        Which split, from 0, and which seed.
    learning_rate
        Of the base optimiser.
    value
        The metric, in its own direction: when a loss is tuned, the best on the way; None if the
        training diverged.
    done, total
        How many trainings there were so far, and there will be.
    """

    loss: str
    part: Literal["validation", "test"]
    split: int
    seed: int
    learning_rate: float
    value: float | None
    done: int
    total: int


Report = Callable[[TrainingDone], object]


def compare(
    task: Task | Sequence[Task],
    loss: Loss,
    seeds: Sequence[int],
    *,
    against: Sequence[str | Loss] = (),
    tune: Sequence[Tunable] = (),
    steps: int | None = None,
    report: Report = lambda done: None,
) -> Comparison:
    """Train fresh base learners with a loss and with the task loss, and compare test metrics.

    With equal seeds, all losses start from the same θ₀ and see the same batches. No random stream
    is shared with a search.

    Parameters
    ----------
    task
        A task with test data, or a list of tasks that differ in the split of their rows.
    loss
        The loss to test.
    seeds
        One training per split, loss and seed.
    against
        Further losses: names, such as ``"pinball:0.9"``, expressions, files, or loss objects.
    tune
        What to tune on validation data, alike for every loss and for every split by itself:
        ``"learning-rate"``, among `LEARNING_RATE_FACTORS` times the task's; ``"steps"``, at evenly
        spaced checkpoints of each training. A learned loss can merely act as a different learning
        rate (paper, section 5.5); this distinguishes such a gain from others.
    steps
        Training steps; default the task's number. Tuned steps are at most as many.
    report
        Called after every training.

    Raises
    ------
    InputError
        If a task has no test data, a loss does not match it, there are no seeds, or the metric
        fails on the validation or test data.
    """
    tasks = _checked(task, loss)
    further = _named(listed(against, "losses to compare with"), tasks)
    tune = listed(tune, "argument tune")
    for what in tune:
        require_name("thing to tune", what, get_args(Tunable))
    if steps is not None:
        steps = whole_number(steps, "number of training steps", 0)
    seeds = whole_numbers(seeds, "seed", 0)
    if not seeds:
        raise InputError("A comparison needs at least one seed.")
    given = {"learned": loss, "task_loss": None, **further}
    extra = len(seeds) + Grid.of(tune, 1).trainings if tune else 0
    progress = _Progress(report, len(tasks) * len(given) * (len(seeds) + extra))
    own: list[_Tested] = []
    best: list[_Tested] = []
    for number, one in enumerate(tasks):
        most = one.testing_steps if steps is None else steps
        grid = Grid.of(tune, most)
        split = _Split(one, number, given, seeds, most, progress)
        own.append({name: split.test(name, (1.0, most)) for name in given})
        if tune:
            best.append({name: split.test_tuned(name, grid, own[-1][name]) for name in given})
    metrics = (tasks[0].performance_metric, *tasks[0].report)
    found = _joined(metrics, own)
    if tune:
        pairs = zip(found, _joined(metrics, best), strict=True)
        found = [replace(untuned, tuned=tuned_too) for untuned, tuned_too in pairs]
    return replace(found[0], reported=found[1:])


_Tested = Mapping[str, Sequence[Sample]]
"""By loss, a sample for each metric: that of the task, then those reported beside it."""


def _checked(task: Task | Sequence[Task], loss: Loss) -> list[Task]:
    """The splits, which have test data, one metric, and fit the loss."""
    tasks = as_tasks(task)
    if not tasks:
        raise InputError("A comparison needs at least one task.")
    for one in tasks:
        if one.test is None:
            raise InputError(f"The task {one.name!r} has no test data to compare losses on.")
        one.require_fit(loss)
        if _metrics(one) != _metrics(tasks[0]):
            raise InputError(
                "The tasks of a comparison are splits of one task, but their metrics differ; "
                "compare such tasks one by one."
            )
    return tasks


def _metrics(task: Task) -> list[tuple[str, str]]:
    return [(one.name, one.direction) for one in (task.performance_metric, *task.report)]


def _named(against: Sequence[str | Loss], tasks: Sequence[Task]) -> dict[str, Loss]:
    """Further losses by unique names; a loss object is called by its formula or class."""
    found: dict[str, Loss] = {}
    for number, given in enumerate(against, start=1):
        loss = resolve_loss(given, tasks[0].form) if isinstance(given, str) else given
        for task in tasks:
            task.require_fit(loss)
        name = given if isinstance(given, str) else _name_of(loss)
        unique = name not in (*found, "learned", "task_loss")
        found[name if unique else f"{name} ({number})"] = loss
    return found


def _name_of(loss: Loss) -> str:
    return str(loss.describe().get("formula") or type(loss).__name__)


class _Progress:
    """Counts the trainings of a comparison, and reports each."""

    def __init__(self, report: Report, total: int) -> None:
        self._report = report
        self._total = total
        self._done = 0

    def skip(self, trainings: int) -> None:
        """Some trainings need not be repeated."""
        self._done += trainings

    def tell(
        self,
        loss: str,
        part: Literal["validation", "test"],
        where: tuple[int, int],
        learning_rate: float,
        value: float | None,
    ) -> None:
        """A training with this split and seed ended."""
        self._done += 1
        done = TrainingDone(loss, part, *where, learning_rate, value, self._done, self._total)
        self._report(done)


class _Split:
    """One split of a comparison; None among the losses stands for the task loss."""

    def __init__(
        self,
        task: Task,
        number: int,
        losses: Mapping[str, Loss | None],
        seeds: Sequence[int],
        steps: int,
        progress: _Progress,
    ) -> None:
        self._task = task
        self._number = number
        self._losses: dict[str, TensorLoss] = {
            name: task.task_loss if loss is None else copy.deepcopy(loss).to(task.device)
            for name, loss in losses.items()
        }
        self._seeds = seeds
        self._steps = steps
        self._progress = progress

    def test(self, name: str, recipe: tuple[float, int]) -> list[Sample]:
        """Test metrics of a loss with this factor of the learning rate and these steps."""
        rate = recipe[0] * self._task.learning_rate
        rows = []
        for seed in self._seeds:
            rows.append(self._tested(self._losses[name], recipe, seed))
            self._progress.tell(name, "test", (self._number, seed), rate, rows[-1][0])
        recipes = [Recipe(rate, recipe[1])]
        return [Sample(list(values), recipes) for values in zip(*rows, strict=True)]

    def test_tuned(self, name: str, grid: Grid, own: Sequence[Sample]) -> list[Sample]:
        """The same with what is best on validation data; `own` are those without tuning."""
        task = self._task

        def report(factor: float, seed: int, value: float | None) -> None:
            rate = factor * task.learning_rate
            self._progress.tell(name, "validation", (self._number, seed), rate, value)

        best = tuned(task, self._losses[name], grid, report)
        if best is not None and best != (1.0, self._steps):
            return self.test(name, best)
        self._progress.skip(len(self._seeds))
        lost = Sample([None] * len(self._seeds), [None])
        return list(own) if best is not None else [lost] * len(own)

    def _tested(self, loss: TensorLoss, recipe: tuple[float, int], seed: int) -> list[float | None]:
        """Metrics on the test data after training; None if the training diverges."""
        factor, steps = recipe
        task = self._task
        try:
            learner = train(
                task,
                loss,
                self._steps,
                stream=(seed, "meta-testing", task.name),
                rate=factor,
                meta_testing=True,
                observers={} if steps == self._steps else {steps: lambda learner: False},
            )
            return measured(task, learner, "test")
        except DivergedError:
            return [None] * (1 + len(task.report))


def _joined(metrics: Sequence[PerformanceMetric], splits: Sequence[_Tested]) -> list[Comparison]:
    """A comparison for each metric, with the samples of all splits, one after the other."""
    found = []
    for place, metric in enumerate(metrics):
        samples = {name: _concatenated([one[name][place] for one in splits]) for name in splits[0]}
        learned, task_loss = samples.pop("learned"), samples.pop("task_loss")
        found.append(Comparison(metric, learned, task_loss, samples))
    return found


def _concatenated(samples: Sequence[Sample]) -> Sample:
    return Sample(
        [value for one in samples for value in one.values],
        [recipe for one in samples for recipe in one.recipes],
    )
