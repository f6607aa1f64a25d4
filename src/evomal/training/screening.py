"""Screening of a candidate, independently of others: tuning its weights and the filters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from evomal.losses.meta import MetaLoss
from evomal.training.engines.choice import engine_on
from evomal.training.filters import correlations, gradient_key
from evomal.training.numerics import DivergedError
from evomal.training.scale_matching import scale_matched
from evomal.training.settings import EvaluationSettings, FilterSettings, Pipeline
from evomal.training.stages import (
    EQUIVALENCE,
    REJECTION,
    SCALE,
    WEIGHTS,
    StageSeconds,
    diverged,
    stage,
)
from evomal.training.tuning_state import (
    TuningPaused,
    TuningState,
    states_from_bytes,
    states_to_bytes,
)
from evomal.training.workbench import Workbench


@dataclass
class Screening:
    """A candidate before its partial training.

    Attributes
    ----------
    loss
        The loss with optimised weights, or initial ones if it was rejected or diverged before.
        With `match_scale` it is scaled, and its expression may have another root.
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
    seconds: StageSeconds = field(default_factory=StageSeconds)
    reason: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A screening that paused in the middle of Algorithm 1.

    Attributes
    ----------
    states
        Tuning states of the losses that were not rejected before: the bytes of a safetensors file.
    results
        What is known of every candidate; None after a crash, and then it is computed again.
    """

    states: bytes
    results: Sequence[Screening] | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock time so far, where it is known."""
        return sum(result.seconds.total for result in self.results or ())


class ScreeningPaused(Exception):  # noqa: N818 - not an error
    """A screening has paused and can continue from its checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.checkpoint = checkpoint


def screen(
    bench: Workbench,
    losses: Sequence[MetaLoss],
    pipeline: Pipeline,
    checkpoint: Checkpoint | None = None,
) -> list[Screening]:
    """Tune the weights of a group and apply the filters that need no candidate outside it.

    A pure function of its arguments, the times apart; what a candidate becomes depends on the
    others of its group by rounding alone, and not at all on pauses.

    Parameters
    ----------
    bench
        The workbench of the run.
    losses
        The candidates; as many as in a group of the run's engine.
    pipeline
        The stages to apply.
    checkpoint
        Where to continue; by default, at the start.

    Raises
    ------
    ScreeningPaused
        If it is time to pause (`evomal.training.numerics.pausing`).
    """
    if checkpoint is None or checkpoint.results is None:
        results = _prescreened(bench, losses)
    else:  # copied, as the same may be tried again
        results = [replace(one) for one in checkpoint.results]
    if pipeline.tune:
        states = () if checkpoint is None else states_from_bytes(checkpoint.states, bench.device)
        try:
            with stage(WEIGHTS):
                _tune(bench, _promising(results), states)
        except TuningPaused as pause:
            paused = Checkpoint(states_to_bytes(pause.states), results)
            raise ScreeningPaused(paused) from None
    if pipeline.reject:
        with stage(REJECTION):
            _reject_hopeless(bench, _promising(results))
    if pipeline.match_gradients:
        with stage(EQUIVALENCE):
            for result in _promising(results):
                _find_key(bench, result)
    # Last, because at nearly equal outputs, gradients of one norm are nearly equal.
    if isinstance(bench.settings, FilterSettings) and bench.settings.match_scale:
        with stage(SCALE):
            for result in _promising(results):
                _match_scale(bench, result)
    return results


def _prescreened(bench: Workbench, losses: Sequence[MetaLoss]) -> list[Screening]:
    """The losses before their tuning; the rejection protocol on them, if the settings say so."""
    results = [Screening(loss) for loss in losses]
    settings = bench.settings
    if isinstance(settings, EvaluationSettings) and settings.prescreen:
        with stage(REJECTION):
            _reject_hopeless(bench, results)
    return results


def _promising(results: Sequence[Screening]) -> list[Screening]:
    return [result for result in results if result.verdict == "promising"]


def _tune(bench: Workbench, results: Sequence[Screening], states: Sequence[TuningState]) -> None:
    """Algorithm 1 on the losses, from the states on if they are of these losses."""
    if not results:
        return
    if [state.phi.shape for state in states] != [result.loss.phi.shape for result in results]:
        states = ()
    start = time.perf_counter()
    try:
        weights = engine_on(bench).tune([result.loss for result in results], states)
    finally:
        seconds = (time.perf_counter() - start) / len(results)
        for result in results:
            result.seconds += StageSeconds(tuning=seconds)
    for result, phi in zip(results, weights, strict=True):
        if isinstance(phi, Tensor):
            result.loss = result.loss.with_phi(phi)
        else:
            result.verdict, result.reason = "diverged", diverged(WEIGHTS, phi)


def _match_scale(bench: Workbench, result: Screening) -> None:
    """Scale a loss to the gradient of the task loss."""
    start = time.perf_counter()
    result.loss = scale_matched(bench, result.loss)
    result.seconds += StageSeconds(filters=time.perf_counter() - start)


def _reject_hopeless(bench: Workbench, results: Sequence[Screening]) -> None:
    """Apply the rejection protocol to the losses with their current weights."""
    if not results:
        return
    start = time.perf_counter()
    found = correlations(bench, [result.loss for result in results])
    seconds = (time.perf_counter() - start) / len(results)
    for result, one in zip(results, found, strict=True):
        result.correlation = one.g
        if one.diverged:
            result.verdict, result.reason = "diverged", diverged(REJECTION)
        elif one.rejects:
            result.verdict = "rejected"
        result.seconds += StageSeconds(filters=seconds)


def _find_key(bench: Workbench, result: Screening) -> None:
    """Compute the keys of gradient equivalence."""
    start = time.perf_counter()
    try:
        result.gradient_key = gradient_key(bench, result.loss)
    except DivergedError as error:
        result.verdict, result.reason = "diverged", diverged(EQUIVALENCE, error)
    result.seconds += StageSeconds(filters=time.perf_counter() - start)
