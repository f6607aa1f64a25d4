"""Trying something with a base learner on a few rows, and comparing it with the plain way.

The plain way of a meta step is ordinary training steps and double backward. What is found out is
kept in `Task.findings`, which copies of a task share, and which go with it to workers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from evomal.errors import first_line
from evomal.losses.meta import MetaLoss
from evomal.losses.symbolic import SymbolicLoss
from evomal.seeding import isolated_rng
from evomal.tasks.data import Data
from evomal.tasks.task import Task
from evomal.training.numerics import DivergedError, is_out_of_memory, quiet_vmap
from evomal.training.stacked import stacked_outputs
from evomal.training.unrolled import MetaStep, first_step, reverse_hypergradient

T = TypeVar("T")

ROWS = 4
"""Rows of a batch on which a base learner is tried."""

DRAWS = 8
"""How often one that draws, as dropout does, is tried: on few rows two masks can be the same."""

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How far two ways may be apart, relative to the norm; in other types `COARSE`."""
COARSE = 0.1
_TINY = 1e-12

_LOSSES = {
    "square(sub(y, f))": (1.0, 0.9, 1.1),
    "mul(sub(y, f), tanh(f))": (0.9, 1.1, 1.2, 0.8, 0.7),
}


@dataclass(frozen=True)
class Failed:
    """What was tried raised an error, or gave something else than it should."""

    reason: str


def spoils_inputs(task: Task) -> bool:
    """Whether the base learner changes its inputs in place."""

    def find() -> bool:
        inputs = few_rows(task, task.train).inputs
        before = inputs.clone()
        with torch.no_grad(), isolated_rng(task.device, 0):
            task.new_model(seed=0)(inputs)
        return not torch.equal(inputs, before)

    return kept(task, "spoils inputs", find)  # the same on every device


def probe_step(task: Task, seed: int = 0) -> MetaStep:
    """A meta step on a few training rows, judged on a few validation rows.

    `seed` is that of the learner's own randomness.
    """
    training, judging = (few_rows(task, data) for data in (task.train, task.validation))
    learner = task.new_model(seed=0)
    return MetaStep(task, learner, [training], judging, seed, 0.5, spoils_inputs(task))


def few_rows(task: Task, data: Data) -> Data:
    """Rows from the whole of a split."""
    count = min(ROWS, task.batch_size, len(data))
    rows = torch.linspace(0, len(data) - 1, count, device=task.device).long()
    with isolated_rng(task.device, 0):
        return task.batch(data, rows)


def kept(task: Task, key: object, find: Callable[[], T]) -> T:
    """What is known about a task's base learner, or is found out now."""
    if key not in task.findings:
        task.findings[key] = find()
    value: T = task.findings[key]
    return value


def tried(function: Callable[[], T]) -> T | Failed:
    """What a function gives, or why it fails; that memory runs out says nothing about a learner."""
    try:
        return function()
    except DivergedError:
        return Failed("its first training step is not finite")
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return Failed(f"{type(error).__name__}: {first_line(error)}")


def problem_of(function: Callable[[], str | None]) -> str | None:
    """What a function says, or why it fails."""
    found = tried(function)
    return found.reason if isinstance(found, Failed) else found


@dataclass(frozen=True)
class Results:
    """Outputs (B, …) at θ₀; for every loss L_T(θ₁), (P,), and its gradient, None if not known."""

    output: Tensor
    judgements: Tensor
    gradients: Sequence[Tensor | None]


MetaWay = Callable[[MetaStep, Sequence[MetaLoss], Sequence[Tensor]], Results]


def difference(task: Task, way: MetaWay) -> str | None:
    """Where a way of taking a meta step fails or differs from the plain one; None if nowhere.

    What differs in single precision is tried again in double: deep networks make much of rounding.
    """
    for seed in range(DRAWS if _draws(task) else 1):
        step = probe_step(task, seed)
        found = _difference_at(step, way)
        if isinstance(found, str) and _tolerance(step) == TOLERANCES[torch.float32]:
            found = _difference_at(_in_double(probe_step(task, seed)), way)
        if found is not None:
            return found.reason if isinstance(found, Failed) else found
    return None


def _difference_at(step: MetaStep, way: MetaWay) -> str | Failed | None:
    """Where the numbers differ, or the error that is raised; None if neither."""
    losses, phis = zip(*probe_losses(step), strict=True)
    with quiet_vmap(), sdpa_kernel(SDPBackend.MATH):  # the only attention with all derivatives
        expected = tried(lambda: _plain(step, losses, phis))
        found = tried(lambda: way(step, losses, phis))
    for one in (expected, found):
        if isinstance(one, Failed):
            return one
    assert isinstance(expected, Results)
    assert isinstance(found, Results)
    tolerance = _tolerance(step)
    if not _alike(found.output, expected.output, tolerance):
        return "its outputs differ from those of an ordinary forward pass"
    if not _alike(found.judgements, expected.judgements, tolerance):
        return "its updated outputs differ from those of an ordinary training step"
    for ours, reference in zip(found.gradients, expected.gradients, strict=True):
        if ours is None or reference is None or not _alike(ours, reference, tolerance):
            return "its gradients with respect to a loss's weights differ from double backward"
    return None


def probe_losses(step: MetaStep) -> list[tuple[SymbolicLoss, Tensor]]:
    """Losses to try it with, and their weights φ."""
    dtype = torch.float64 if _dtype(step) == torch.float64 else torch.float32
    return [
        (
            SymbolicLoss.of_form(text, step.task.form),
            torch.tensor(phi, dtype=dtype, device=step.task.device, requires_grad=True),
        )
        for text, phi in _LOSSES.items()
    ]


def _plain(step: MetaStep, losses: Sequence[MetaLoss], phis: Sequence[Tensor]) -> Results:
    """By ordinary training steps and double backward, or central differences where that fails."""
    output, judgements = first_order(step, losses, phis)
    gradients: list[Tensor | None] = []
    for loss, phi in zip(losses, phis, strict=True):
        found = tried(partial(reverse_hypergradient, loss, phi, step))
        if isinstance(found, Failed):
            gradients.append(_central_differences(step, loss, phi))
        else:
            gradients.append(found)
    return Results(output, judgements, gradients)


def first_order(
    step: MetaStep, losses: Sequence[MetaLoss], phis: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Outputs at θ₀, and L_T after one training step under every loss."""
    theta, (batch,) = step.parameters(), step.training
    judgements = []
    for loss, phi in zip(losses, phis, strict=True):
        buffers = step.buffers()
        with step.rng("training"):
            output = step.call(theta, buffers, batch.inputs)
        value = step.value(loss, output, batch, phi.detach())
        gradients = torch.autograd.grad(value, list(theta.values()), materialize_grads=True)
        updated = first_step(step.task.optimizer, list(theta.values()), gradients)
        with step.rng("judging"), torch.no_grad():
            judged = step.call(dict(zip(theta, updated, strict=True)), buffers, step.judging.inputs)
            judgements.append(step.judgement(judged))
    return output.detach(), torch.stack(judgements)


def _central_differences(step: MetaStep, loss: MetaLoss, phi: Tensor) -> Tensor | None:
    """∂L_T(θ₁)/∂φ from first derivatives alone; None if not in double precision."""
    if phi.dtype != torch.float64:
        return None
    width = 1e-5
    slopes = []
    for change in torch.eye(len(phi), dtype=phi.dtype, device=phi.device) * width:
        up, down = (first_order(step, [loss], [phi + sign * change])[1] for sign in (1, -1))
        slopes.append((up - down) / (2 * width))
    return torch.cat(slopes)


def _draws(task: Task) -> bool:
    """Whether the outputs of the base learner are random."""

    def find() -> bool:
        first, second = (_outputs(probe_step(task, seed)) for seed in (0, 1))
        return not torch.equal(first, second)

    return kept(task, "draws", find)


def _outputs(step: MetaStep) -> Tensor:
    (batch,) = step.training
    with torch.no_grad(), step.rng("training"):
        return step.call(step.parameters(), step.buffers(), batch.inputs)


def stacked_training_difference(task: Task) -> str | None:
    """Where a training step of stacked learners fails or differs from ordinary ones."""
    for seed in range(DRAWS if _draws(task) else 1):
        step = probe_step(task, seed)
        same = tried(partial(_trains_alike, step))
        if same is False and _tolerance(step) == TOLERANCES[torch.float32]:
            same = tried(lambda: _trains_alike(_in_double(probe_step(task, seed))))  # noqa: B023
        if isinstance(same, Failed):
            return same.reason
        if not same:
            return "stacked trainings differ from ordinary ones"
    return None


def _trains_alike(step: MetaStep) -> bool:
    """Whether outputs and gradients of two stacked learners are those of each alone.

    In train mode twice, as dropout goes on from where it was, then in eval mode.
    """
    learner, (batch,) = step.learner, step.training
    theta = {name: p.detach() for name, p in learner.named_parameters()}
    both = {name: torch.stack([p, 0.9 * p]).requires_grad_() for name, p in theta.items()}
    buffers = {name: torch.stack([b] * 2) for name, b in step.buffers().items()}

    def passes(call: Callable[[Tensor], Tensor]) -> list[Tensor]:
        with step.rng("training"):
            outputs = [call(batch.inputs.clone()) for _ in range(2)]
        learner.eval()
        with torch.no_grad():
            outputs.append(call(batch.inputs.clone()))
        learner.train()
        return outputs

    with quiet_vmap():
        stack = passes(partial(stacked_outputs, learner, both, buffers))
    total = torch.stack([outputs.square().sum() for outputs in stack]).sum()
    gradients = torch.autograd.grad(total, list(both.values()), materialize_grads=True)
    for place in range(2):
        own = {name: p[place].detach().requires_grad_() for name, p in both.items()}
        state = {**own, **step.buffers()}
        alone = passes(partial(functional_call, learner, state))
        total = torch.stack([outputs.square().sum() for outputs in alone]).sum()
        expected = torch.autograd.grad(total, list(own.values()), materialize_grads=True)
        pairs = [(outputs[place], other) for outputs, other in zip(stack, alone, strict=True)]
        pairs.append((_one_vector([one[place] for one in gradients]), _one_vector(expected)))
        if not all(_alike(ours, reference, _tolerance(step)) for ours, reference in pairs):
            return False
    return True


def _one_vector(tensors: Sequence[Tensor]) -> Tensor:
    """All elements: where a gradient should be 0, its rounding is small only beside the others."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def _dtype(step: MetaStep) -> torch.dtype:
    return next(iter(step.parameters().values())).dtype


def _tolerance(step: MetaStep) -> float:
    return COARSE if step.task.precision == "bfloat16" else TOLERANCES.get(_dtype(step), COARSE)


def _in_double(step: MetaStep) -> MetaStep:
    """The same step in double precision."""
    return replace(
        step,
        learner=copy.deepcopy(step.learner).double(),
        training=[batch.to_dtype(torch.float64) for batch in step.training],
        judging=step.judging.to_dtype(torch.float64),
    )


def _alike(ours: Tensor, reference: Tensor, tolerance: float) -> bool:
    """Whether two tensors are finite, and equal up to rounding."""
    apart = (ours - reference).norm()
    return bool(apart <= tolerance * reference.norm() + _TINY)  # false for NaN
