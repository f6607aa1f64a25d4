"""Numerical comparison of a fast method for a base learner with its reference.

The reference for a meta step is ordinary training steps and double backward; for stacked trainings,
it is training each learner separately.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from evomal.losses.meta import MetaLoss
from evomal.losses.symbolic import SymbolicLoss
from evomal.tasks.inputs import Inputs, mapped
from evomal.tasks.task import Task
from evomal.training.hypergradient.first_step import first_step
from evomal.training.hypergradient.reverse import reverse_hypergradient
from evomal.training.hypergradient.step import MetaStep
from evomal.training.numerics import quiet_vmap
from evomal.training.stack import stacked_outputs
from evomal.training.trial import (
    Failed,
    as_input_error,
    few_rows,
    kept,
    no_weights,
    probe_step,
    tried,
)

DRAWS = 8
"""Number of trials for random learners, such as with dropout: on few rows, masks can coincide."""

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Tolerance relative to the norm; `COARSE` for other dtypes."""
COARSE = 0.1
_TINY = 1e-12

_LOSSES = {
    "square(sub(y, f))": (1.0, 0.9, 1.1),
    "mul(sub(y, f), tanh(f))": (0.9, 1.1, 1.2, 0.8, 0.7),
}


@dataclass(frozen=True)
class Results:
    """Outputs (B, …) at θ₀; for every loss L_T(θ₁), (P,), and its gradient, None if unknown."""

    output: Tensor
    judgements: Tensor
    gradients: Sequence[Tensor | None]


MetaWay = Callable[[MetaStep, Sequence[MetaLoss], Sequence[Tensor]], Results]


def difference(task: Task, way: MetaWay) -> str | None:
    """Where a method for meta steps fails or differs from the reference; None if nowhere.

    Differences in single precision are checked in double: deep networks amplify rounding errors.

    Raises
    ------
    InputError
        If an ordinary training step fails.
    """
    with as_input_error(partial(no_weights, task)):
        draws = DRAWS if _draws(task) else 1
    for seed in range(draws):
        with as_input_error(partial(no_weights, task)):
            step = probe_step(task, seed)
            plain = _first_order(step)
        found = _difference_at(step, plain, way)
        if isinstance(found, str) and _tolerance(step) == TOLERANCES[torch.float32]:
            found = tried(partial(_difference_in_double, probe_step(task, seed), way))
        if found is not None:
            return found.reason if isinstance(found, Failed) else found
    return None


def _difference_in_double(step: MetaStep, way: MetaWay) -> str | Failed | None:
    step = _in_double(step)
    return _difference_at(step, _first_order(step), way)


def _first_order(step: MetaStep) -> tuple[Tensor, Tensor]:
    with sdpa_kernel(SDPBackend.MATH):  # the only attention with all derivatives
        return first_order(step, *_losses_and_phis(step))


def _difference_at(
    step: MetaStep, plain: tuple[Tensor, Tensor], way: MetaWay
) -> str | Failed | None:
    """Where the numbers differ, or the error raised; None if neither.

    `plain` are the outputs and task losses of ordinary steps.
    """
    losses, phis = _losses_and_phis(step)
    with quiet_vmap(), sdpa_kernel(SDPBackend.MATH):
        gradients = _plain_gradients(step, losses, phis)
        found = tried(lambda: way(step, losses, phis))
    if isinstance(found, Failed):
        return found
    output, judgements = plain
    tolerance = _tolerance(step)
    if not _alike(found.output, output, tolerance):
        return "its outputs differ from those of an ordinary forward pass"
    if not _alike(found.judgements, judgements, tolerance):
        return "its updated outputs differ from those of an ordinary training step"
    for ours, reference in zip(found.gradients, gradients, strict=True):
        if ours is None or reference is None or not _alike(ours, reference, tolerance):
            return "its gradients with respect to a loss's weights differ from double backward"
    return None


def _losses_and_phis(step: MetaStep) -> tuple[list[SymbolicLoss], list[Tensor]]:
    losses, phis = zip(*probe_losses(step), strict=True)
    return list(losses), list(phis)


def probe_losses(step: MetaStep) -> list[tuple[SymbolicLoss, Tensor]]:
    """Losses for the comparison, and their weights φ."""
    dtype = torch.float64 if _dtype(step) == torch.float64 else torch.float32
    return [
        (
            SymbolicLoss.of_form(text, step.task.form),
            torch.tensor(phi, dtype=dtype, device=step.task.device, requires_grad=True),
        )
        for text, phi in _LOSSES.items()
    ]


def _plain_gradients(
    step: MetaStep, losses: Sequence[MetaLoss], phis: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients by double backward, or by central differences if it is not supported."""
    gradients: list[Tensor | None] = []
    for loss, phi in zip(losses, phis, strict=True):
        found = tried(partial(reverse_hypergradient, loss, phi, step))
        if isinstance(found, Failed):
            gradients.append(_central_differences(step, loss, phi))
        else:
            gradients.append(found)
    return gradients


def first_order(
    step: MetaStep, losses: Sequence[MetaLoss], phis: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Outputs at θ₀, and L_T after one training step with every loss, without a gradient."""
    theta, (batch,) = step.parameters(), step.training
    judgements = []
    for loss, phi in zip(losses, phis, strict=True):
        buffers = step.buffers()
        with step.rng("training"):
            output = step.call(theta, buffers, batch.inputs)
        value = step.value(loss, output, batch, phi.detach())
        gradients = torch.autograd.grad(value, list(theta.values()), materialize_grads=True)
        updated, _ = first_step(step).taken(dict(zip(theta, gradients, strict=True)))
        with step.rng("judging"), torch.no_grad():
            judged = step.call(updated, buffers, step.judging.inputs)
            judgements.append(step.judgement(judged))
    return output.detach(), torch.stack(judgements)


def _central_differences(step: MetaStep, loss: MetaLoss, phi: Tensor) -> Tensor | None:
    """∂L_T(θ₁)/∂φ from first derivatives only; None if not in double precision."""
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
    """Where a training step of stacked learners fails or differs from ordinary ones.

    Raises
    ------
    InputError
        If an ordinary pass fails.
    """

    def message(problem: str) -> str:
        return (
            f"The base learner of {task.name!r} fails in passes on "
            f"{len(few_rows(task, task.train))} of its training rows ({problem}); fix the model."
        )

    with as_input_error(message):
        draws = DRAWS if _draws(task) else 1
    for seed in range(draws):
        with as_input_error(message):
            step = probe_step(task, seed)
            alone = _alone(step)
        same = tried(partial(_stacks_alike, step, alone))
        if same is False and _tolerance(step) == TOLERANCES[torch.float32]:
            same = tried(partial(_stacks_alike_in_double, probe_step(task, seed)))
        if isinstance(same, Failed):
            return same.reason
        if not same:
            return "stacked trainings differ from ordinary ones"
    return None


_SCALES = 1.0, 0.9  # scales of the parameters of stacked learners in the trial


def _passes(step: MetaStep, learner: nn.Module, call: Callable[[Inputs], Tensor]) -> list[Tensor]:
    """Outputs in train mode, twice, because dropout continues its stream, then in eval mode."""
    (batch,) = step.training
    with step.rng("training"):
        outputs = [call(mapped(torch.clone, batch.inputs)) for _ in range(2)]
    learner.eval()
    with torch.no_grad():
        outputs.append(call(mapped(torch.clone, batch.inputs)))
    learner.train()
    return outputs


def _alone(step: MetaStep) -> list[tuple[list[Tensor], Tensor]]:
    """Outputs and gradients of each learner separately."""
    found = []
    for scale in _SCALES:
        learner = step.task.new_model(seed=0).to(_dtype(step))
        parameters = [p for p in learner.parameters() if p.requires_grad]
        for p in parameters:
            p.data.mul_(scale)
        outputs = _passes(step, learner, partial(step.task.call, learner))
        total = torch.stack([one.square().sum() for one in outputs]).sum()
        gradients = torch.autograd.grad(total, parameters, materialize_grads=True)
        found.append((outputs, _one_vector(gradients)))
    return found


def _stacks_alike(step: MetaStep, alone: Sequence[tuple[list[Tensor], Tensor]]) -> bool:
    """Whether outputs and gradients of two stacked learners equal those of separate ones."""
    learner = step.learner
    both = {
        name: torch.stack([scale * p.detach() for scale in _SCALES]).requires_grad_()
        for name, p in step.parameters().items()
    }
    buffers = {name: torch.stack([b] * len(_SCALES)) for name, b in step.buffers().items()}
    with quiet_vmap():
        stack = _passes(step, learner, partial(stacked_outputs, step.task, learner, both, buffers))
    total = torch.stack([outputs.square().sum() for outputs in stack]).sum()
    gradients = torch.autograd.grad(total, list(both.values()), materialize_grads=True)
    for place, (expected, expected_gradient) in enumerate(alone):
        pairs = [(outputs[place], other) for outputs, other in zip(stack, expected, strict=True)]
        pairs.append((_one_vector([one[place] for one in gradients]), expected_gradient))
        if not all(_alike(ours, reference, _tolerance(step)) for ours, reference in pairs):
            return False
    return True


def _stacks_alike_in_double(step: MetaStep) -> bool:
    step = _in_double(step)
    return _stacks_alike(step, _alone(step))


def _one_vector(tensors: Sequence[Tensor]) -> Tensor:
    """All elements in one vector, relative to which rounding errors of zero gradients are small."""
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
        states={
            name: {key: value.double() for key, value in state.items()}
            for name, state in step.states.items()
        },
    )


def _alike(ours: Tensor, reference: Tensor, tolerance: float) -> bool:
    """Whether two tensors are finite, and equal up to rounding."""
    apart = (ours - reference).norm()
    return bool(apart <= tolerance * reference.norm() + _TINY)  # false for NaN
