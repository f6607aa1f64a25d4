"""EvoMAL's work on one candidate in the style of ordinary research code, for comparison.

Timed by `candidate_cost.py`. Needs ``higher`` (extra `bench`). One candidate at a time: `higher`
differentiates through the training step, a shuffling DataLoader collates sample by sample, every
step draws from torch's global generator, the loss is a recursive walk over the tree with one weight
per edge. The steps, rates and batch sizes are the paper's. Images are standardised once in advance,
so that no time is spent on decoding; augmentation works on whole batches. Not a second
implementation: it supports only losses of `y` and `f` and the built-in metrics, and does not check
for divergence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import higher  # type: ignore[import-not-found,import-untyped,unused-ignore]
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from evomal.expressions.expression import Expression
from evomal.expressions.primitives import CONSTANTS, PRIMITIVES, arity
from evomal.losses.form import Link
from evomal.tasks.models.lenet5 import LeNet5
from evomal.tasks.task import Task

META_LEARNING_RATE = 1e-3
INITIAL_DEVIATION = 1e-3
REJECTION_BATCH = 100

Batches = DataLoader[tuple[Tensor, ...]]


class MetaLossNetwork(nn.Module):
    """An expression with one weight on every edge, as a loss of raw outputs and targets."""

    def __init__(self, expression: Expression, link: Link, phi: Tensor) -> None:
        super().__init__()
        self.expression = expression
        self.link = link
        self.phi = nn.Parameter(phi.clone())

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch, after summing over classes if there are any."""
        if self.link == "softmax":
            y = functional.one_hot(target, pred.shape[1]).to(pred.dtype)
            return self._value(0, y, torch.softmax(pred, dim=1)).sum(dim=1).mean()
        f = torch.sigmoid(pred) if self.link == "sigmoid" else pred
        return self._value(0, target, f).mean()

    def _value(self, index: int, y: Tensor, f: Tensor) -> Tensor:
        """The value of node `index` for every element."""
        node = self.expression.nodes[index]
        if node in ("y", "f"):
            return y if node == "y" else f
        if node in CONSTANTS:
            return torch.full_like(f, CONSTANTS[node])
        children = [index + 1, self.expression.ends[index + 1]][: arity(node)]
        arguments = [self.phi[child - 1] * self._value(child, y, f) for child in children]
        value: Tensor = PRIMITIVES[node].torch(torch, *arguments)
        return value


@dataclass(frozen=True)
class Datasets:
    """The rows of a task in main memory, preprocessed unless they are augmented before."""

    train: TensorDataset
    validation: TensorDataset


@lru_cache(maxsize=1)
def datasets(task: Task) -> Datasets:
    """Prepared once per task."""

    def inputs(raw: Tensor, prepare: Callable[[Tensor], Tensor] | None) -> Tensor:
        return (prepare(raw) if prepare else raw).cpu()

    train, validation = task.train, task.validation
    return Datasets(
        TensorDataset(
            inputs(train.inputs, None if task.augment else task.preprocess), train.targets.cpu()
        ),
        TensorDataset(inputs(validation.inputs, task.preprocess), validation.targets.cpu()),
    )


def training_batches(task: Task, size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches on the task's device, epoch after epoch."""
    loader: Batches = DataLoader(
        datasets(task).train, batch_size=size or task.batch_size, shuffle=True, num_workers=0
    )
    while True:
        for inputs, targets in loader:
            inputs, targets = inputs.to(task.device), targets.to(task.device)
            if task.augment:
                inputs = task.augment(inputs)
                inputs = task.preprocess(inputs) if task.preprocess else inputs
            yield inputs, targets


def validation_batches(task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches on the task's device, epoch after epoch."""
    loader: Batches = DataLoader(
        datasets(task).validation, batch_size=task.batch_size, shuffle=True, num_workers=0
    )
    while True:
        for inputs, targets in loader:
            yield inputs.to(task.device), targets.to(task.device)


def new_learner(task: Task) -> nn.Module:
    """A fresh base learner; LeNet-5 in its usual form, with activations before the pooling."""
    learner = task.model().to(task.device)
    if isinstance(learner, LeNet5):
        first, pool, relu, second, *_ = learner.features
        learner.features = nn.Sequential(first, relu, pool, second, relu, pool)
    return learner


def base_optimizer(task: Task, learner: nn.Module) -> torch.optim.SGD:
    """The task's optimiser."""
    return torch.optim.SGD(
        learner.parameters(),
        lr=task.optimizer.learning_rate,
        momentum=task.optimizer.momentum,
        nesterov=task.optimizer.nesterov,
        weight_decay=task.optimizer.weight_decay,
        dampening=task.optimizer.dampening,
    )


def local_search(task: Task, expression: Expression, seed: int, steps: int) -> Tensor:
    """φ after `steps` meta steps (Algorithm 1), each through one step of a fresh base learner."""
    torch.manual_seed(seed)
    phi = 1 + INITIAL_DEVIATION * torch.randn(len(expression) - 1, device=task.device)
    loss = MetaLossNetwork(expression, task.link, phi)
    optimizer = torch.optim.Adam(loss.parameters(), lr=META_LEARNING_RATE)
    training, judging = training_batches(task), validation_batches(task)
    for _ in range(steps):
        learner = new_learner(task)
        optimizer.zero_grad()
        meta_backward(task, loss, learner, next(training), next(judging))
        optimizer.step()
    return loss.phi.detach()


def meta_backward(
    task: Task,
    loss: MetaLossNetwork,
    learner: nn.Module,
    training: tuple[Tensor, Tensor],
    judging: tuple[Tensor, Tensor],
) -> None:
    """Store the gradient of L_T after one training step with `loss` in ``loss.phi.grad``."""
    with higher.innerloop_ctx(
        learner,
        base_optimizer(task, learner),
        copy_initial_weights=False,
        track_higher_grads=True,
    ) as (updated, inner_optimizer):
        inputs, targets = training
        inner_optimizer.step(loss(updated(inputs), targets))
        inputs, targets = judging
        task.task_loss(updated(inputs), targets).backward()  # type: ignore[no-untyped-call]


def rejection(task: Task, expression: Expression, phi: Tensor, steps: int) -> float:
    """g: the decrease of the metric when raw outputs are optimised instead (section 3.5.2)."""
    loss = MetaLossNetwork(expression, task.link, phi).requires_grad_(False)
    inputs, targets = next(training_batches(task, REJECTION_BATCH))
    with torch.no_grad():
        outputs = new_learner(task)(inputs)
    optimized = outputs.clone().requires_grad_()
    optimizer = torch.optim.Adam([optimized], lr=task.learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(optimized, targets).backward()
        optimizer.step()
    return metric(task.link, outputs, targets) - metric(task.link, optimized.detach(), targets)


def metric(link: Link, pred: Tensor, target: Tensor) -> float:
    """Mean squared error, or the fraction of wrong predictions, counted sample by sample."""
    if link == "identity":
        return functional.mse_loss(pred, target).item()
    guesses = pred.argmax(dim=1) if link == "softmax" else (pred > 0).to(target.dtype).flatten()
    errors = 0
    for guess, label in zip(guesses.tolist(), target.flatten().tolist(), strict=True):
        if guess != label:
            errors += 1
    return errors / target.numel()


def partial_training(task: Task, expression: Expression, phi: Tensor, steps: int) -> float:
    """The metric on validation data after `steps` ordinary training steps (Algorithm 2)."""
    return validation_metric(task, train(task, expression, phi, steps))


def train(task: Task, expression: Expression, phi: Tensor, steps: int) -> nn.Module:
    """A fresh base learner after `steps` training steps."""
    loss = MetaLossNetwork(expression, task.link, phi).requires_grad_(False)
    learner = new_learner(task)
    optimizer = base_optimizer(task, learner)
    training = training_batches(task)
    history = []
    for _ in range(steps):
        inputs, targets = next(training)
        optimizer.zero_grad()
        value = loss(learner(inputs), targets)
        value.backward()
        optimizer.step()
        history.append(value.item())
    return learner


@torch.no_grad()
def validation_metric(task: Task, learner: nn.Module) -> float:
    """The metric on all validation data, batch by batch."""
    learner.eval()
    dataset = datasets(task).validation
    loader: Batches = DataLoader(dataset, batch_size=task.batch_size, num_workers=0)
    total = 0.0
    for inputs, targets in loader:
        pred = learner(inputs.to(task.device))
        total += len(inputs) * metric(task.link, pred, targets.to(task.device))
    return total / len(dataset)
