"""How long the candidates of a search take, extrapolated from a few steps of each stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from evomal.methods.registry import METHODS
from evomal.methods.settings import SearchSettings
from evomal.runs.confirmation import expected_trainings, longest_training
from evomal.runs.dispatch import default_workers
from evomal.runs.known_losses import known_losses
from evomal.runs.recipe import SEEDS
from evomal.seeding import kept_rng
from evomal.tasks.precision import products_in
from evomal.tasks.task import Task
from evomal.training.engines.choice import engine_on, engine_type
from evomal.training.filters import correlations
from evomal.training.learning import RATES
from evomal.training.settings import EvaluationSettings, FilterSettings, TuningSettings
from evomal.training.stages import StageSeconds
from evomal.training.workbench import Workbench

PASSING = 0.5
"""Share of candidates assumed to pass the filters; on the built-in tasks, a quarter to a half."""

_META_STEPS = 3
_REJECTION_STEPS = 20
_TRAINING_STEPS = 20


@dataclass(frozen=True)
class Pace:
    """Seconds of one loss, in the groups of its engine; None for a stage that a method lacks.

    Attributes
    ----------
    meta_step, rejection_step, training_step
        A step of Algorithm 1, of the rejection protocol, and of partial training.
    judging
        The metric on the validation rows.
    """

    meta_step: float | None
    rejection_step: float | None
    training_step: float
    judging: float

    def candidate(self, task: Task, settings: SearchSettings) -> StageSeconds:
        """Of one candidate that goes through all stages."""
        tuning = filters = None
        if self.meta_step is not None and isinstance(settings, TuningSettings):
            tuning = self.meta_step * settings.meta_steps
        if self.rejection_step is not None and isinstance(settings, FilterSettings):
            filters = self.rejection_step * (settings.rejection_steps or task.rejection_steps)
        training = self.training_step * settings.fitness_steps + self.judging
        return StageSeconds(tuning, filters, training)

    def search(self, task: Task, method: str, settings: SearchSettings) -> float:
        """Of a whole search with the workers that the command line uses on this machine."""
        one = self.candidate(task, settings)
        tuning, filters = one.tuning or 0.0, one.filters or 0.0
        passing = 1.0 if one.filters is None else PASSING
        if isinstance(settings, EvaluationSettings) and settings.prescreen:
            tuning *= passing
        each = tuning + filters + passing * (one.training or 0.0)
        count = METHODS[method](settings, task.form, 0).expected_candidates
        cores = default_workers([task], settings.threads)
        whole = each * count / min(cores, settings.largest_generation)
        return whole + self._retrainings(task, settings) / cores

    def _retrainings(self, task: Task, settings: SearchSettings) -> float:
        """Of the trainings of the recipe and of the confirmation."""
        steps = 0
        if settings.tune_recipe:
            steps += SEEDS * len(RATES) * settings.fitness_steps
        if settings.confirm:
            longest = longest_training(settings, [task.testing_steps])
            steps += expected_trainings(settings.confirm + len(known_losses([task]))) * longest
        return self.training_step * steps


def measured_pace(task: Task, method: str, settings: SearchSettings, step_seconds: float) -> Pace:
    """The pace of a method's first losses on this machine.

    Parameters
    ----------
    task
        The task.
    method, settings
        A method and its settings, with an engine.
    step_seconds
        Seconds of a training step of one base learner.
    """
    pipeline = METHODS[method].pipeline
    first = METHODS[method](settings, task.form, 0).ask()
    losses = [candidate.loss for candidate in first if candidate.loss is not None]
    engine = engine_type(settings)
    losses = losses[: max(engine.group_sizes(len(losses), settings.group_size), default=0)]

    def bench(**changes: Any) -> Workbench:
        return Workbench([task], replace(settings, **changes), 0)

    def tune(steps: int) -> object:
        return engine_on(bench(meta_steps=steps, testing_steps=_TRAINING_STEPS)).tune(losses)

    def reject(steps: int) -> object:
        return correlations(bench(rejection_steps=steps), losses)

    def train(steps: int) -> object:
        together = max(len(losses), 1) if engine.trains_together else 1
        return engine_on(bench(testing_steps=steps)).train([None] * together, 0)

    with kept_rng(), products_in(settings.precision):
        meta_step = rejection_step = None
        if pipeline.tune and losses:
            meta_step = _per_step(tune, _META_STEPS) / len(losses)
        if pipeline.reject and losses:
            rejection_step = _per_step(reject, _REJECTION_STEPS) / len(losses)
        if engine.trains_together and losses:
            step_seconds = _per_step(train, _TRAINING_STEPS) / len(losses)
        judging = max(0.0, _seconds(train, 1) - step_seconds)
    return Pace(meta_step, rejection_step, step_seconds, judging)


def _per_step(work: Callable[[int], object], steps: int) -> float:
    """Seconds of a step, without what the work needs before the first one."""
    work(1)
    least = _seconds(work, 1)
    return max(0.0, _seconds(work, 1 + steps) - least) / steps


def _seconds(work: Callable[[int], object], steps: int) -> float:
    start = time.perf_counter()
    work(steps)
    return time.perf_counter() - start
