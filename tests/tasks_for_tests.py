"""Tiny base learners and tasks that tests share; all importable by name and picklable."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import evomal
from evomal import SymbolicLoss
from evomal.losses.form import Link
from evomal.tasks.data import Data
from evomal.tasks.optimizers import SGD
from evomal.tasks.parts import Source
from evomal.tasks.task import Task

PLAIN = SGD(learning_rate=0.1, momentum=0.0, nesterov=False, weight_decay=0.0)


class Perceptron(nn.Module):
    """(B, 3) inputs to (B, outputs) raw outputs, smooth in the weights."""

    def __init__(self, outputs: int = 1, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs)).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class ConvNet(nn.Module):
    """(B, 1, 4, 4) images to (B, 3) logits, with batch normalisation and dropout."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 3, 2),
            nn.BatchNorm2d(3),
            nn.Tanh(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(27, 3),
        ).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class _Softsign(torch.autograd.Function):
    """x / (1 + |x|), twice differentiable backwards, without a forward-mode rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x / (1 + x.abs())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return grads[0] / (1 + x.abs()) ** 2


class NoForwardMode(Perceptron):
    """A perceptron with an activation that forward-mode differentiation does not know."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Softsign.apply(super().forward(x))  # type: ignore[no-untyped-call]
        return out


class SharedGradients(Perceptron):
    """Two pairs of parameters whose gradients are one tensor, or views of one element."""

    def __init__(self, outputs: int = 1, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(outputs, dtype)
        self.a = nn.Parameter(torch.randn(3, outputs, dtype=dtype))
        self.b = nn.Parameter(torch.randn(3, outputs, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ (self.a + self.b)


class SummedParameter(Perceptron):
    """A parameter of several elements, only the sum of which counts."""

    def __init__(self, outputs: int = 1, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(outputs, dtype)
        self.offsets = nn.Parameter(torch.randn(4, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.offsets.sum()


class TiedFrozenUnused(Perceptron):
    """One weight used twice, one frozen, one that no output depends on."""

    def __init__(self, outputs: int = 1, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(outputs, dtype)
        self.again = self.layers[2]
        self.frozen = nn.Parameter(torch.randn(3, dtype=dtype), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.again(self.layers[:2](x * self.frozen))
        return super().forward(x) + out


def regression_task(dtype: torch.dtype = torch.float32, **settings: Any) -> Task:
    """Three inputs, one standardised target (n, 1)."""
    return _task("identity", partial(Perceptron, 1, dtype), lambda z: z[:, :1], dtype, settings)


def classification_task(dtype: torch.dtype = torch.float32, **settings: Any) -> Task:
    """Three inputs, three classes (n,)."""
    return _task("softmax", partial(Perceptron, 3, dtype), _classes, dtype, settings)


def binary_task(dtype: torch.dtype = torch.float32, **settings: Any) -> Task:
    """Three inputs, a target (n, 1) of zeros and ones."""
    model = partial(Perceptron, 1, dtype)
    return _task("sigmoid", model, lambda z: (z[:, :1] > 0).to(dtype), dtype, settings)


def image_task(dtype: torch.dtype = torch.float32, **settings: Any) -> Task:
    """Images (n, 1, 4, 4) of three classes, a learner with all that depends on the mode."""
    return _task("softmax", partial(ConvNet, dtype), _classes, dtype, settings, (1, 4, 4))


TASK_BY_LINK: dict[Link, Callable[..., Task]] = {
    "identity": regression_task,
    "softmax": classification_task,
    "sigmoid": binary_task,
}


def _classes(z: Tensor) -> Tensor:
    return z.argmax(dim=1)


def _task(
    link: Link,
    model: Callable[[], nn.Module],
    targets: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    settings: dict[str, Any],
    shape: tuple[int, ...] = (3,),
) -> Task:
    """A task whose targets are a function of three noisy mixtures of the inputs.

    With ``in_memory=False``, its parts are Datasets.
    """
    rng = torch.Generator().manual_seed(5)
    mixing = torch.randn(torch.Size(shape).numel(), 3, generator=rng)
    parts: list[Source] = []
    for rows in (40, 24, 24):
        inputs = torch.randn(rows, *shape, generator=rng)
        noise = 0.1 * torch.randn(rows, 3, generator=rng)
        mixtures = inputs.flatten(1) @ mixing / mixing.norm(dim=0) + noise
        tensors = inputs.to(dtype), targets(mixtures.to(dtype))
        parts.append(Data(*tensors) if settings.get("in_memory", True) else TensorDataset(*tensors))
    defaults: dict[str, Any] = {
        "batch_size": 8,
        "optimizer": PLAIN,
        "rejection_steps": 20,
        "testing_steps": 20,
        "name": f"test/{link}",
    }
    train, validation, test = parts
    learner = settings.pop("model", model)
    return Task(learner, train, validation, test, link=link, **(defaults | settings))


VARIED_TASKS: dict[str, Callable[..., Task]] = {
    "regression": partial(regression_task, torch.float64),
    "classes": partial(classification_task, torch.float64),
    "binary": partial(binary_task, torch.float64),
    "batch normalisation and dropout": partial(image_task, torch.float64),
    "nesterov": partial(regression_task, torch.float64, optimizer=SGD(0.1, 0.9, True, 0.05)),
    **{
        model.__name__: partial(
            regression_task, torch.float64, model=partial(model, 1, torch.float64)
        )
        for model in (SharedGradients, SummedParameter, TiedFrozenUnused)
    },
}
TEXTS = ["square(sub(y, f))", "mul(tanh(sub(y, f)), sub(square(f), y))", "mul(y, abs(log(f)))"]


def losses_for(task: Task, texts: list[str] = TEXTS) -> list[SymbolicLoss]:
    """Losses in double precision."""
    return [
        SymbolicLoss(text, torch.ones(len(evomal.parse(text)) - 1, dtype=torch.float64), task.link)
        for text in texts
    ]
