"""Everything about one candidate that needs no other: its weights and the filters' verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from evomal.losses.base import Loss
from evomal.tasks.task import Task
from evomal.training.filters import correlation, gradient_key
from evomal.training.numerics import DivergedError
from evomal.training.settings import EvaluationSettings
from evomal.training.unrolled import optimize_weights


@dataclass
class Screening:
    """A candidate before its partial training.

    Attributes
    ----------
    loss
        With the optimised weights; with its first ones if it was rejected or diverged before.
    verdict
        Whether it deserves a training, or why not.
    correlation, gradient_key
        g of the rejection protocol and the key of gradient equivalence, once known.
    seconds
        Wall-clock time by stage.
    """

    loss: Loss
    verdict: Literal["promising", "rejected", "diverged"] = "promising"
    correlation: float | None = None
    gradient_key: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def screen(
    loss: Loss,
    tasks: Sequence[Task],
    settings: EvaluationSettings,
    seed: int,
    *,
    optimize: bool,
    filters: bool,
) -> Screening:
    """Optimise a candidate's weights and apply the filters that need no other candidate.

    A pure function of its arguments, the times apart.

    Parameters
    ----------
    loss
        The candidate.
    tasks
        The tasks of the run.
    settings
        Steps, rates and batch sizes.
    seed
        The run's seed.
    optimize
        Whether Algorithm 1 tunes the weights.
    filters
        Whether the rejection protocol and gradient equivalence apply.
    """
    result = Screening(loss)
    try:
        if optimize and filters and settings.prescreen:
            _reject_hopeless(result, tasks, settings, seed)
        if optimize and result.verdict == "promising":
            with _timed(result, "local_search"):
                result.loss = loss.with_weights(optimize_weights(loss, tasks, settings, seed))
        if filters and result.verdict == "promising":
            _reject_hopeless(result, tasks, settings, seed)
        if filters and result.verdict == "promising":
            with _timed(result, "filters"):
                result.gradient_key = gradient_key(result.loss, tasks, settings, seed)
    except DivergedError:
        result.verdict = "diverged"
    return result


def _reject_hopeless(
    result: Screening, tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> None:
    """The rejection protocol on the loss as it is now."""
    with _timed(result, "filters"):
        result.correlation = correlation(result.loss, tasks, settings, seed)
        if result.correlation <= 0:
            result.verdict = "rejected"


@contextmanager
def _timed(result: Screening, stage: str) -> Iterator[None]:
    """Add the time spent inside the block to a stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - start
        result.seconds[stage] = result.seconds.get(stage, 0.0) + seconds
