"""The kinds of work on losses, called by executors with a worker's workbench.

`rates` are factors of the tasks' learning rates: the recipe of the search.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from evomal.losses.base import Loss
from evomal.losses.meta import MetaLoss
from evomal.seeding import kept_rng
from evomal.tasks.precision import products_in
from evomal.training.engines.base import Training
from evomal.training.engines.choice import engine_on
from evomal.training.numerics import pausing
from evomal.training.retraining import Retrained, Retraining, retrain
from evomal.training.screening import Checkpoint, Screening, ScreeningPaused, screen
from evomal.training.settings import Pipeline
from evomal.training.stages import TRAINING, stage
from evomal.training.workbench import Workbench


def screen_candidates(
    bench: Workbench,
    losses: Sequence[MetaLoss],
    pipeline: Pipeline,
    checkpoint: Checkpoint | None = None,
    pause_after: float | None = None,
    rates: Sequence[float] = (),
) -> list[Screening] | Checkpoint:
    """Work for an executor: `screen`, from a checkpoint on; to the next one after some seconds."""
    with kept_rng(), products_in(bench.settings.precision), pausing(pause_after):
        try:
            return screen(bench.at_rates(rates), losses, pipeline, checkpoint)
        except ScreeningPaused as pause:
            return pause.checkpoint


def train_candidates(
    bench: Workbench,
    losses: Sequence[MetaLoss | None],
    index: int,
    bars: Sequence[float] | None = None,
    rates: Sequence[float] = (),
) -> list[Training]:
    """Work for an executor: train with every loss on one task; None means the task loss.

    With `bars`, trainings are evaluated at their rungs (`evomal.training.halving`).
    """
    start = time.perf_counter()
    with kept_rng(), products_in(bench.settings.precision), stage(TRAINING):
        found = engine_on(bench.at_rates(rates)).train(losses, index, bars)
    seconds = (time.perf_counter() - start) / len(losses)
    return [training._replace(seconds=seconds) for training in found]


def retrain_loss(
    bench: Workbench,
    loss: Loss | None,
    index: int,
    todo: Retraining,
    rates: Sequence[float] = (),
) -> Retrained:
    """Work for an executor: train on fresh seeds on one task; None means the task loss."""
    with kept_rng(), products_in(bench.settings.precision), stage(TRAINING):
        return retrain(bench.at_rates(rates).tasks[index], loss, todo, bench.seed)
