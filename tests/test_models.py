"""The built-in base learners: sizes of the paper, shapes, and what the registry says of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from evomal.tasks.models.lenet5 import LeNet5
from evomal.tasks.models.logistic import LogisticRegression
from evomal.tasks.models.mlp import MLP
from evomal.tasks.registry import TASKS

IMAGES = (1, 28, 28)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    # factory, input shape, outputs, parameters as published or by hand
    "logistic": (lambda: LogisticRegression(784, 10), IMAGES, 10, 7_850),
    "mlp": (lambda: MLP(784, 10), IMAGES, 10, 1_796_010),
    "lenet5": (LeNet5, IMAGES, 10, 44_426),
    "lenet5 of 7 classes": (lambda: LeNet5(7), IMAGES, 7, 44_426 - 3 * 85),
    "table": (lambda: MLP(10, 1), (10,), 1, 11 * 1000 + 1001 * 1000 + 1001),
    "small": (lambda: MLP(3, 2, (4,)), (3,), 2, 16 + 10),
}


@pytest.mark.parametrize(("factory", "shape", "outputs", "parameters"), MODELS.values(), ids=MODELS)
def test_parameters_and_outputs(
    factory: Callable[[], nn.Module], shape: tuple[int, ...], outputs: int, parameters: int
) -> None:
    model = factory()
    assert sum(p.numel() for p in model.parameters()) == parameters
    pred = model(torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)))
    assert pred.shape == (5, outputs)


@pytest.mark.parametrize("factory", [LeNet5, lambda: MLP(784, 10)], ids=["lenet5", "mlp"])
def test_outputs_are_raw_and_not_linear(factory: Callable[[], nn.Module]) -> None:
    model = factory()
    x = torch.randn(4, *IMAGES, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        zero, once, twice = (model(scale * x) for scale in (0.0, 1.0, 2.0))
    assert (twice - 2 * once + zero).abs().max() > 1e-3
    assert (once < 0).any()
    assert (once > 0).any()


@pytest.mark.parametrize("name", TASKS)
def test_the_registry_counts_the_parameters_of_a_real_model(name: str) -> None:
    model = TASKS[name].model()
    assert TASKS[name].parameters == sum(p.numel() for p in model.parameters())
