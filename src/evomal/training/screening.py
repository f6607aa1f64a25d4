"""Everything about one candidate that needs no other: its weights and the filters' verdict."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from evomal.losses.meta import MetaLoss
from evomal.tasks.task import Task
from evomal.training.filters import correlations, gradient_key
from evomal.training.meta_training import optimize_weights
from evomal.training.numerics import DivergedError, is_out_of_memory
from evomal.training.settings import EvaluationSettings
from evomal.training.stages import EQUIVALENCE, REJECTION, WEIGHTS, diverged, stage
from evomal.training.together import optimize_weights_together


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
        g of the rejection protocol and the key of gradient equivalence, once known; no g where no
        metric is defined on the rows of the protocol.
    seconds
        Wall-clock time by stage.
    reason
        Where it diverged.
    """

    loss: MetaLoss
    verdict: Literal["promising", "rejected", "diverged"] = "promising"
    correlation: float | None = None
    gradient_key: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    reason: str | None = None


def screen(
    losses: Sequence[MetaLoss],
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
        with stage(REJECTION):
            _reject_hopeless(results, tasks, settings, seed)
    if optimize:
        with stage(WEIGHTS):
            _optimize(_promising(results), tasks, settings, seed)
    if filters:
        with stage(REJECTION):
            _reject_hopeless(_promising(results), tasks, settings, seed)
        with stage(EQUIVALENCE):
            for result in _promising(results):
                _find_key(result, tasks, settings, seed)
    return results


def _promising(results: Sequence[Screening]) -> list[Screening]:
    return [result for result in results if result.verdict == "promising"]


def _optimize(
    results: Sequence[Screening], tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> None:
    """Algorithm 1 on the losses, a group that does not fit in the memory in two halves."""
    if not results:
        return
    start = time.perf_counter()
    try:
        weights: Sequence[Tensor | DivergedError | None] | None = optimized(
            [result.loss for result in results], tasks, settings, seed
        )
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
        _add_seconds(result, "local_search", seconds / len(results))
        if isinstance(phi, Tensor):
            result.loss = result.loss.with_phi(phi)
        else:
            result.verdict, result.reason = "diverged", diverged(WEIGHTS, phi)


def optimized(
    losses: Sequence[MetaLoss], tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> Sequence[Tensor | DivergedError | None]:
    """φ of every loss with the engine of the settings; for those that diverged why, or None."""
    if settings.engine in ("batched", "stacked"):
        return optimize_weights_together(losses, tasks, settings, seed)
    weights: list[Tensor | DivergedError] = []
    for loss in losses:
        try:
            weights.append(optimize_weights(loss, tasks, settings, seed))
        except DivergedError as error:
            weights.append(error.with_traceback(None))  # which holds the tensors
    return weights


def _reject_hopeless(
    results: Sequence[Screening], tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> None:
    """The rejection protocol on the losses as they are now."""
    if not results:
        return
    start = time.perf_counter()
    found = correlations([result.loss for result in results], tasks, settings, seed)
    for result, one in zip(results, found, strict=True):
        result.correlation = one.g
        if one.diverged:
            result.verdict, result.reason = "diverged", diverged(REJECTION)
        elif one.rejects:
            result.verdict = "rejected"
        _add_seconds(result, "filters", (time.perf_counter() - start) / len(results))


def _find_key(
    result: Screening, tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> None:
    """Gradient equivalence."""
    start = time.perf_counter()
    try:
        result.gradient_key = gradient_key(result.loss, tasks, settings, seed)
    except DivergedError as error:
        result.verdict, result.reason = "diverged", diverged(EQUIVALENCE, error)
    _add_seconds(result, "filters", time.perf_counter() - start)


def _add_seconds(result: Screening, stage: str, seconds: float) -> None:
    result.seconds[stage] = result.seconds.get(stage, 0.0) + seconds
