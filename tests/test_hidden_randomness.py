"""What draws from a global generator behind a user's function draws the same in every run."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import evomal
from evomal import SymbolicLoss
from evomal.errors import TaskWarning
from evomal.runs.work import screen_candidates, train_candidates
from evomal.tasks.task import Task
from evomal.training.settings import EvaluationSettings, Pipeline
from evomal.training.workbench import Workbench
from tasks_for_tests import Perceptron, losses_for, regression_task

SETTINGS = EvaluationSettings(
    meta_steps=3, rejection_batch=10, rejection_steps=3, testing_steps=8, engine="loop"
)


def draws() -> float:
    """A number from every global generator."""
    return float(np.random.randn() + random.gauss(0, 1) + torch.randn(()))


def drawing_model() -> nn.Module:
    model = Perceptron(1, torch.float64)
    with torch.no_grad():
        list(model.parameters())[-1].add_(draws())
    return model


def shifted(x: Tensor) -> Tensor:
    return x + 0.1 * draws()


def drawing_loss(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).square().mean() * math.exp(draws())


def drawing_metric(pred: Tensor, target: Tensor) -> float:
    return float((pred - target).square().mean()) + draws()


DRAWING: dict[str, dict[str, Any]] = {
    "model": {"model": drawing_model},
    "augment": {"augment": shifted},
    "preprocess": {"preprocess": shifted},
    "task loss": {"task_loss": drawing_loss},
    "metric": {"metric": drawing_metric},
}


def found(task: Task, settings: EvaluationSettings, *, bars: bool = False) -> dict[str, list[Any]]:
    """What a search would make of some losses."""
    losses = losses_for(task)[:2]
    bench = Workbench([task], settings, 0)
    screened = screen_candidates(bench, losses, Pipeline(True, True, True))
    assert isinstance(screened, list)
    at_rungs = [math.inf] * 2 if bars else None
    trainings = [
        training
        for group in (losses, [None])
        for training in train_candidates(bench, group, 0, at_rungs)
    ]
    return {
        "weights": torch.cat([one.loss.phi for one in screened]).tolist(),
        "correlations": [one.correlation for one in screened],
        "keys": [one.gradient_key for one in screened],
        "curves": [training.curve for training in trainings],
    }


@pytest.mark.parametrize("engine", ["loop", "batched", "stacked"])
@pytest.mark.parametrize("drawing", DRAWING.values(), ids=DRAWING)
def test_runs_of_one_seed_are_alike(drawing: dict[str, Any], engine: Any) -> None:
    def run(seed: int) -> dict[str, list[Any]]:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        result = found(regression_task(torch.float64, **drawing), replace(SETTINGS, engine=engine))
        after = draws()
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        assert draws() == after
        return result

    with torch.random.fork_rng():
        assert run(1) == run(2)


@pytest.mark.parametrize("drawing", DRAWING.values(), ids=DRAWING)
def test_engines_draw_alike(drawing: dict[str, Any]) -> None:
    task = regression_task(torch.float64, **drawing)
    plain, *others = (
        found(task, replace(SETTINGS, engine=engine)) for engine in ("loop", "batched", "stacked")
    )
    for other in others:
        for kind in ("weights", "correlations", "curves"):
            torch.testing.assert_close(
                torch.tensor(other[kind]), torch.tensor(plain[kind]), rtol=1e-5, atol=1e-7
            )


def test_a_look_at_a_rung_disturbs_no_draw() -> None:
    task = regression_task(torch.float64, augment=shifted, metric=drawing_metric)
    whole, halved = (found(task, SETTINGS, bars=bars)["curves"] for bars in (False, True))
    assert [curve[-1:] for curve in halved] == whole
    assert {len(curve) for curve in halved} == {3}


class Jittered(Dataset[Any]):
    """Rows with noise from the global generators."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = torch.full((3,), float(index)) + draws()
        return row, row[:1]


def test_a_data_set_that_draws_is_read_alike_every_time() -> None:
    with pytest.warns(TaskWarning, match="Two reads of a row"):
        one, two = (Task(Perceptron, Jittered(), Jittered(), link="identity") for _ in range(2))
    assert one.fingerprint() == two.fingerprint()
    assert not torch.equal(one.train.inputs, one.validation.inputs)
    assert len({row[0] for row in one.train.inputs.tolist()}) == 12


def test_a_comparison_is_alike_too() -> None:
    task = regression_task(augment=shifted, metric=drawing_metric)
    loss = SymbolicLoss("square(sub(y, f))")
    values = [evomal.compare(task, loss, [0], steps=5).to_dict() for _ in range(2)]
    assert values[0] == values[1]
