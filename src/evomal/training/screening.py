"""Screening of a candidate, independently of others: tuning its weights and the filters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from evomal.losses.meta import MetaLoss
from evomal.training.engines.choice import engine_on
from evomal.training.filters import correlations, gradient_key
from evomal.training.numerics import DivergedError
from evomal.training.settings import EvaluationSettings, Pipeline
from evomal.training.stages import EQUIVALENCE, REJECTION, WEIGHTS, diverged, stage
from evomal.training.workbench import Workbench


@dataclass
class Screening:
    """A candidate before its partial training.

    Attributes
    ----------
    loss
        The loss with optimised weights, or initial ones if it was rejected or diverged before.
    verdict
        Whether to train it, or why not.
    correlation, gradient_key
        g of the rejection protocol and the key of gradient equivalence, if known; no g if no
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


def screen(bench: Workbench, losses: Sequence[MetaLoss], pipeline: Pipeline) -> list[Screening]:
    """Tune the weights of a group and apply the filters that do not involve other candidates.

    A pure function of its arguments, except for times; results depend on the other candidates of
    the group only by rounding.

    Parameters
    ----------
    bench
        The workbench of the run.
    losses
        The candidates; as many as in a group of the run's engine.
    pipeline
        The stages to apply.
    """
    results = [Screening(loss) for loss in losses]
    settings = bench.settings
    if isinstance(settings, EvaluationSettings) and settings.prescreen:
        with stage(REJECTION):
            _reject_hopeless(bench, results)
    if pipeline.tune:
        with stage(WEIGHTS):
            _tune(bench, _promising(results))
    if pipeline.reject:
        with stage(REJECTION):
            _reject_hopeless(bench, _promising(results))
    if pipeline.match_gradients:
        with stage(EQUIVALENCE):
            for result in _promising(results):
                _find_key(bench, result)
    return results


def _promising(results: Sequence[Screening]) -> list[Screening]:
    return [result for result in results if result.verdict == "promising"]


def _tune(bench: Workbench, results: Sequence[Screening]) -> None:
    """Apply Algorithm 1 to the losses."""
    if not results:
        return
    start = time.perf_counter()
    weights = engine_on(bench).tune([result.loss for result in results])
    seconds = (time.perf_counter() - start) / len(results)
    for result, phi in zip(results, weights, strict=True):
        _add_seconds(result, "local_search", seconds)
        if isinstance(phi, Tensor):
            result.loss = result.loss.with_phi(phi)
        else:
            result.verdict, result.reason = "diverged", diverged(WEIGHTS, phi)


def _reject_hopeless(bench: Workbench, results: Sequence[Screening]) -> None:
    """Apply the rejection protocol to the losses with their current weights."""
    if not results:
        return
    start = time.perf_counter()
    found = correlations(bench, [result.loss for result in results])
    for result, one in zip(results, found, strict=True):
        result.correlation = one.g
        if one.diverged:
            result.verdict, result.reason = "diverged", diverged(REJECTION)
        elif one.rejects:
            result.verdict = "rejected"
        _add_seconds(result, "filters", (time.perf_counter() - start) / len(results))


def _find_key(bench: Workbench, result: Screening) -> None:
    """Compute the keys of gradient equivalence."""
    start = time.perf_counter()
    try:
        result.gradient_key = gradient_key(bench, result.loss)
    except DivergedError as error:
        result.verdict, result.reason = "diverged", diverged(EQUIVALENCE, error)
    _add_seconds(result, "filters", time.perf_counter() - start)


def _add_seconds(result: Screening, stage: str, seconds: float) -> None:
    result.seconds[stage] = result.seconds.get(stage, 0.0) + seconds
