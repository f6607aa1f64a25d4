"""Layers differentiated by hand in the group engines, against torch's own differentiation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from evomal import Task
from evomal.seeding import derive_generator
from evomal.tasks.optimizers import SGD
from evomal.training.engines.choice import engine_on
from evomal.training.hypergradient.affine import AffineLayer, intercepted
from evomal.training.hypergradient.forward import forward_hypergradient
from evomal.training.hypergradient.group import group_hypergradients
from evomal.training.meta_schedule import MetaSchedule
from evomal.training.settings import EvaluationSettings
from evomal.training.support import group_way
from evomal.training.trial import probe_step
from evomal.training.workbench import Workbench
from run_helpers import optimize_weights
from tasks_for_tests import VARIED_TASKS, image_task, losses_for, regression_task

F64 = torch.float64


class Sequence(nn.Module):
    """(B, 3) inputs to (B, outputs) raw outputs through the layers given."""

    def __init__(self, *layers: nn.Module, dtype: torch.dtype = F64) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class InPlace(Sequence):
    """The second layer's outputs are changed in place."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 1)
        )


class WeightUsedElsewhere(Sequence):
    """The first layer's weight is in the outputs a second time."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        first: Any = self.layers[0]
        out: Tensor = super().forward(x) + (x @ first.weight.T).sum(dim=1, keepdim=True)
        return out


class BehindAGate(Sequence):
    """The middle layer's weight is in the outputs a second time, times a gate that is closed."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 1))
        self.gate = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        h, middle = self.layers[0](x).tanh(), self.layers[1]
        h = middle(h) + self.gate * nn.functional.linear(h, middle.weight)  # type: ignore[arg-type]
        out: Tensor = self.layers[2](h.tanh())
        return out


class ScaledByItsWeight(Sequence):
    """The first layer's outputs are divided by the norm of its weight, without a gradient."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        first: Any = self.layers[0]
        out: Tensor = self.layers[1:](first(x) / first.weight.detach().norm())
        return out


class Pruned(Sequence):
    """The first layer's weight is made of another parameter and a mask."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 5, bias=False), nn.Tanh(), nn.Linear(5, 1))
        prune.l1_unstructured(self.layers[0], "weight", 0.3)  # type: ignore[no-untyped-call]


class ByKeyword(Sequence):
    """The first layer gets its inputs as a keyword argument."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers[1:](self.layers[0](input=x))
        return out


class Tokens(Sequence):
    """One layer on (B, 3, 1), one on (3 B, 4), one on (B, 6), one without bias."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(1, 4), nn.Linear(4, 2), nn.Linear(6, 5, bias=False), nn.Linear(5, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.layers[0](x.unsqueeze(-1)).tanh()
        rows = self.layers[1](tokens.flatten(0, 1)).tanh()
        out: Tensor = self.layers[3](self.layers[2](rows.reshape(len(x), -1)).tanh())
        return out


class Dropping(Sequence):
    """The middle layer is left out at random, as in stochastic depth."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x).tanh()
        if not self.training or torch.rand(()) < 0.5:
            x = x + self.layers[1](x).tanh()
        out: Tensor = self.layers[2](x)
        return out


class Convolutions(Sequence):
    """(B, 1, 4, 4) images to (B, 3) logits: groups, strides, padding, no bias, normalisation."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3, padding="same"),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Conv2d(4, 6, 2, stride=2, groups=2, bias=False),
            nn.MaxPool2d(2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(6, 3),
        )


class Pooled(Sequence):
    """A convolution of the batch, and a max pooling that alone reads what it gives."""

    def __init__(self, *more: nn.Module) -> None:
        convolution, pool = nn.Conv2d(1, 3, 2), nn.MaxPool2d(2, stride=1)
        super().__init__(convolution, pool, *more, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
        self(torch.zeros(1, 1, 4, 4, dtype=F64))


class WidelyPooled(Sequence):
    """Another one: without bias, of overlapping planes, and with all that a pooling can have."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 2, 3, padding=1, bias=False),
            nn.MaxPool2d(2, stride=3, padding=1, dilation=2, ceil_mode=True),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(8, 3),
        )


class PooledTwice(Pooled):
    """A second convolution and pooling after it."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 2, padding=1), nn.MaxPool2d(2, stride=1))


class ReadTwice(Pooled):
    """What the convolution gives is read by more than the pooling."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.layers[0](x)
        out: Tensor = self.layers[1:](z) + z.flatten(1)[:, :3]
        return out


class Scaled(Pooled):
    """The convolution reads something else than the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


POOLING = Pooled, WidelyPooled, PooledTwice, ReadTwice, Scaled
TASKS: dict[str, Callable[[], Task]] = {
    **VARIED_TASKS,
    **{model.__name__: partial(image_task, F64, model=model) for model in POOLING},
    "convolutions": partial(image_task, F64, model=Convolutions),
    **{
        model.__name__: partial(regression_task, F64, model=model)
        for model in (
            InPlace,
            WeightUsedElsewhere,
            BehindAGate,
            ScaledByItsWeight,
            Pruned,
            ByKeyword,
            Tokens,
            Dropping,
        )
    },
}
FOUND = {
    "regression": [0, 2],
    "convolutions": [0, 3, 7],
    "batch normalisation and dropout": [0, 5],
    "InPlace": [0, 4],
    "WeightUsedElsewhere": [2],
    "BehindAGate": [0, 2],
    "ScaledByItsWeight": [2],
    "Pruned": [2],
    "ByKeyword": [2],
    "Tokens": [0, 1, 2, 3],
    "TiedFrozenUnused": [],
}


def layers_for(task: Task, how: str) -> list[AffineLayer]:
    """The layers of a task that are done by hand, of low rank where they can be."""
    modules = dict(probe_step(task).learner.named_modules())
    layers = [] if how == "by torch" else group_way(task, stacked=False).layers
    return [
        replace(
            layer,
            low_rank=how == "low rank"
            and isinstance(modules[layer.name], nn.Linear)
            and not (isinstance(modules[""], Tokens) and layer.name in ("layers.0", "layers.1")),
        )
        for layer in layers
    ]


@pytest.mark.parametrize("in_one", [False, True])
@pytest.mark.parametrize("how", ["by torch", "by hand", "low rank"])
@pytest.mark.parametrize("name", TASKS)
def test_gradients_are_those_of_the_losses_one_by_one(name: str, how: str, in_one: bool) -> None:
    task = TASKS[name]()
    losses = losses_for(task)
    schedule = MetaSchedule(task, EvaluationSettings(meta_steps=3), seed=3)
    layers = layers_for(task, how)
    for i in range(3):
        phis = [
            loss.initial_phi(derive_generator(i, loss.structure)).requires_grad_()
            for loss in losses
        ]
        references = [
            forward_hypergradient(loss, phi, schedule.step(i))
            for loss, phi in zip(losses, phis, strict=True)
        ]
        found = group_hypergradients(losses, phis, schedule.step(i), layers, stacked=in_one)
        assert found.finite.all()
        for ours, reference in zip(found.gradients, references, strict=True):
            bound = 1e-9 * float(reference.abs().max())
            torch.testing.assert_close(ours, reference, rtol=1e-9, atol=bound)
            assert reference.any()


@pytest.mark.parametrize("name", FOUND)
def test_which_layers_are_done_by_hand(name: str) -> None:
    found = group_way(TASKS[name](), stacked=False).layers
    assert [layer.name for layer in found] == [f"layers.{i}" for i in FOUND[name]]


@pytest.mark.parametrize(("batch_size", "low_rank"), [(8, True), (40, False)])
def test_low_rank_where_a_layer_is_large_for_its_batch(batch_size: int, low_rank: bool) -> None:
    def model() -> nn.Module:
        return Sequence(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 30), nn.Linear(30, 1))

    task = regression_task(F64, model=model, batch_size=batch_size)
    layers = group_way(task, stacked=True).layers
    assert [layer.low_rank for layer in layers] == [False, low_rank, False]  # 40·30/70 is 17


@pytest.mark.parametrize("engine", ["batched", "stacked"])
def test_weights_with_layers_of_low_rank(engine: Any) -> None:
    def model() -> nn.Module:
        return Sequence(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 1))

    task = regression_task(F64, model=model, optimizer=SGD(0.1, 0.9, True, 0.05))
    assert any(layer.low_rank for layer in group_way(task, stacked=False).layers)
    losses = losses_for(task)
    settings = EvaluationSettings(meta_steps=4, engine=engine)
    for loss, phi in zip(
        losses,
        engine_on(Workbench([task], settings, 5)).tune(losses),
        strict=True,
    ):
        assert phi is not None
        expected = optimize_weights(Workbench([task], settings, 5), loss)
        torch.testing.assert_close(phi, expected, rtol=1e-9, atol=1e-9)


def test_a_layer_that_is_suddenly_called_twice_is_an_error() -> None:
    learner = Sequence(nn.Linear(3, 3))

    def forward(name: str, layer: nn.Module, inputs: Tensor) -> Tensor:
        return inputs

    rows = torch.ones(2, 3, dtype=F64)
    with intercepted(learner, ["layers.0"], forward):
        assert learner(rows) is rows
        with pytest.raises(RuntimeError, match=r"layers\.0 was called once"):
            learner(rows)
    assert not torch.equal(learner(rows), rows)
