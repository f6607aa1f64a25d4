"""Numbers of the method's definition, remade on real data: they hold the whole pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

import evomal
from evomal.tasks.metrics import TensorLoss
from evomal.tasks.optimizers import SGD
from evomal.tasks.registry import Split
from evomal.training.loop import performance, train


def hundredth(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return 0.01 * functional.mse_loss(pred, target)


def error_on_test_rows(split: Split, loss: TensorLoss, steps: int, data_dir: Path) -> float:
    task = evomal.load_task("diabetes/mlp", split=split, data_dir=data_dir)
    assert task.test is not None
    return performance(task, train(task, loss, steps, stream=(0,)), task.test)


def test_squared_error_on_the_honest_split(data_dir: Path) -> None:
    """Measured 0.74 and, with a hundredth of the step, 0.41; both depend on split and seed."""
    assert 0.65 < error_on_test_rows("honest", functional.mse_loss, 500, data_dir) < 0.9
    assert 0.35 < error_on_test_rows("honest", hundredth, 500, data_dir) < 0.5


@pytest.mark.slow
def test_the_published_split_gives_table_3(data_dir: Path) -> None:
    """The paper's 0.3829 ± 0.0065, which comes of testing on rows trained on."""
    assert 0.36 < error_on_test_rows("published", functional.mse_loss, 10_000, data_dir) < 0.405


@pytest.mark.slow
def test_lenet5_learns_mnist_in_five_epochs(data_dir: Path) -> None:
    task = evomal.load_task("mnist/lenet5", data_dir=data_dir)
    assert task.test is not None
    task.optimizer = SGD(learning_rate=0.01, momentum=0.9, nesterov=False, weight_decay=0.0)
    steps = 5 * len(task.train) // task.batch_size
    learner = train(task, task.task_loss, steps, stream=(0,))
    assert performance(task, learner, task.test) < 0.025
