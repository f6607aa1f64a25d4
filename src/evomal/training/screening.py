"""Everything about one candidate that needs no other: its weights and the filters' verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from evomal.losses.base import Loss
from evomal.tasks.task import Task
from evomal.training.filters import correlation, gradient_key
from evomal.training.numerics import DivergedError, is_out_of_memory
from evomal.training.settings import EvaluationSettings
from evomal.training.together import optimize_weights_together
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
    losses: Sequence[Loss],
    tasks: Sequence[Task],
    settings: EvaluationSettings,
    seed: int,
    *,
    optimize: bool,
    filters: bool,
) -> list[Screening]:
    """Optimise the weights of a group and apply the filters that need no candidate outside it.

    A pure function of its arguments, the times apart; what a candidate becomes depends on the
    others of its group by rounding alone.

    Parameters
    ----------
    losses
        The candidates; several only with the batched engine.
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
    results = [Screening(loss) for loss in losses]
    if optimize and filters and settings.prescreen:
        for result in results:
            _reject_hopeless(result, tasks, settings, seed)
    if optimize:
        _optimize(_promising(results), tasks, settings, seed)
    if filters:
        for result in _promising(results):
            _reject_hopeless(result, tasks, settings, seed)
        for result in _promising(results):
            _find_key(result, tasks, settings, seed)
    return results


def _promising(results: Sequence[Screening]) -> list[Screening]:
    return [result for result in results if result.verdict == "promising"]


def _optimize(
    results: Sequence[Screening], tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> None:
    """Algorithm 1 on the losses, a group that does not fit in the memory in two halves."""
    start = time.perf_counter()
    try:
        weights = _optimized([result.loss for result in results], tasks, settings, seed)
    except (RuntimeError, MemoryError) as error:
        if len(results) == 1 or not is_out_of_memory(error):
            raise
        weights = None
    if weights is None:  # outside the handler, whose traceback holds all tensors
        middle = len(results) // 2
        _optimize(results[:middle], tasks, settings, seed)
        _optimize(results[middle:], tasks, settings, seed)
        return
    seconds = time.perf_counter() - start
    for result, phi in zip(results, weights, strict=True):
        result.seconds["local_search"] = seconds / len(results)
        if phi is None:
            result.verdict = "diverged"
        else:
            result.loss = result.loss.with_weights(phi)


def _optimized(
    losses: Sequence[Loss], tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> list[Tensor | None]:
    if settings.engine == "batched" and losses:
        return optimize_weights_together(losses, tasks, settings, seed)
    weights: list[Tensor | None] = []
    for loss in losses:
        try:
            weights.append(optimize_weights(loss, tasks, settings, seed))
        except DivergedError:
            weights.append(None)
    return weights


def _reject_hopeless(
    result: Screening, tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> None:
    """The rejection protocol on the loss as it is now."""
    with _timed(result, "filters"):
        try:
            result.correlation = correlation(result.loss, tasks, settings, seed)
            result.verdict = "rejected" if result.correlation <= 0 else "promising"
        except DivergedError:
            result.verdict = "diverged"


def _find_key(
    result: Screening, tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> None:
    """Gradient equivalence."""
    with _timed(result, "filters"):
        try:
            result.gradient_key = gradient_key(result.loss, tasks, settings, seed)
        except DivergedError:
            result.verdict = "diverged"


@contextmanager
def _timed(result: Screening, stage: str) -> Iterator[None]:
    """Add the time spent inside the block to a stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - start
        result.seconds[stage] = result.seconds.get(stage, 0.0) + seconds
