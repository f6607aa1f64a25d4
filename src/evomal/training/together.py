"""The weights of several meta-loss networks at once: Algorithm 1 for a group of losses.

All candidates of a meta step share θ₀ and the training batch, so the network and its Jacobian J
there are the same for all of them, and only what J is applied to differs. For P losses this takes

- one forward pass at θ₀;
- P pull-backs Jᵀu of the losses' slopes and P updated learners θ₁, each judged: in batched passes
  on a GPU, one after the other on a CPU, where that is as fast and needs less memory;
- P forward-mode products J v as one batched product, which computes the network's own values once.

`optimize_weights` is the plain reference, and what is used where a learner does not support this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from evomal.errors import InputError
from evomal.losses.base import Loss
from evomal.seeding import derive_generator
from evomal.tasks.task import Task
from evomal.training.numerics import all_finite, check_deadline, finite_rows, quiet_vmap
from evomal.training.settings import EvaluationSettings
from evomal.training.unrolled import (
    MetaSchedule,
    MetaStep,
    first_step,
    first_step_size,
    small_step,
    unsupported,
)

Settings = TypeVar("Settings", bound=EvaluationSettings)

CHECK_EVERY = 25
"""Meta steps; a loss that diverged is left out from the next check on."""

GROUP_ON_CPU = 4
"""Losses in a group; more would save no more than the last twentieth, and balance workers worse."""

MOST_PARAMETERS = 100_000_000
"""Of a group's learners together, for the batched engine to be chosen; they are held four times."""


@dataclass(frozen=True)
class GroupGradients:
    """∂L_T(θ₁)/∂φ of every loss, and whether all that led to it was finite, shape (P,)."""

    gradients: list[Tensor]
    finite: Tensor


def with_engine(settings: Settings, tasks: Sequence[Task], *, optimizes: bool) -> Settings:
    """The settings with the engine that ``"auto"`` means, and its group size.

    A fixed rule. If weights are optimised at all, and through one training step: stacked on a GPU,
    batched on CPUs or where stacking is not supported, provided that all base learners support it
    (`supports_groups`) and a group of them is no larger than `MOST_PARAMETERS`. Else the loop.

    Parameters
    ----------
    settings
        Settings, checked.
    tasks
        The tasks of the run.
    optimizes
        Whether the method optimises weights.

    Raises
    ------
    InputError
        If an engine is asked for that a base learner does not support.
    """
    on_cpu = all(task.device.type == "cpu" for task in tasks)
    size = settings.group_size or (GROUP_ON_CPU if on_cpu else None)

    def supported(engine: str) -> bool:
        return all(supports_groups(task, stacked=engine == "stacked") for task in tasks)

    engine = settings.engine
    if engine in ("batched", "stacked") and not supported(engine):
        raise InputError(
            f"A base learner of {', '.join(task.name for task in tasks)} has a layer that the "
            f"engine {engine} cannot differentiate; use the engine loop."
        )
    if engine == "auto":
        engine = "loop"
        largest = max(sum(p.numel() for p in task.new_model(0).parameters()) for task in tasks)
        if optimizes and settings.base_steps == 1 and (size or 1) * largest <= MOST_PARAMETERS:
            choices: list[Literal["stacked", "batched"]] = ["stacked", "batched"]
            fitting = (choice for choice in choices[on_cpu:] if supported(choice))
            engine = next(fitting, "loop")
    return replace(settings, engine=engine, group_size=1 if engine == "loop" else size)


def optimize_weights_together(
    losses: Sequence[Loss], tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> list[Tensor | None]:
    """φ of every loss after S_meta steps of Adam, as `optimize_weights` finds it but for rounding.

    Parameters
    ----------
    losses
        The losses to tune; what one of them becomes depends on the others by rounding alone.
    tasks, settings, seed
        As for `optimize_weights`; with S_base = 1.

    Returns
    -------
    list
        For every loss its weights, detached, or None if it diverged.
    """
    stacked = settings.engine == "stacked"
    phis = [
        loss.initial_weights(derive_generator(seed, "phi", loss.key))
        .to(tasks[0].device)
        .requires_grad_()
        for loss in losses
    ]
    optimizer = torch.optim.Adam(phis, lr=settings.meta_learning_rate)
    finite = torch.ones(len(losses), dtype=torch.bool, device=tasks[0].device)
    active = list(range(len(losses)))
    with quiet_vmap(), sdpa_kernel(SDPBackend.MATH):  # the only attention with a forward-mode rule
        schedules = [MetaSchedule(task, settings, seed) for task in tasks]
        for i in range(settings.meta_steps):
            check_deadline()
            if i and i % CHECK_EVERY == 0:
                active = [p for p in active if finite[p]]
            if not active:
                break
            group, own = [losses[p] for p in active], [phis[p] for p in active]
            found = [
                group_hypergradients(group, own, schedule.step(i), stacked=stacked)
                for schedule in schedules
            ]
            optimizer.zero_grad()
            for place, phi in enumerate(own):
                phi.grad = torch.stack([one.gradients[place] for one in found]).mean(dim=0)
            finite[active] &= torch.stack([one.finite for one in found]).all(dim=0)
            optimizer.step()
    finite &= torch.stack([phi.detach().isfinite().all() for phi in phis])
    return [phi.detach() if ok else None for phi, ok in zip(phis, finite.tolist(), strict=True)]


def group_hypergradients(
    losses: Sequence[Loss], phis: Sequence[Tensor], step: MetaStep, *, stacked: bool
) -> GroupGradients:
    """`forward_hypergradient` for every loss of a group, on one meta step.

    `stacked` says that the updated learners are worked on in one pass.
    """
    (batch,) = step.training
    theta, buffers = step.parameters(), step.buffers()
    with step.rng("training"):
        output = step.call(theta, buffers, batch.inputs)
    pred = output.detach().requires_grad_()
    values = [step.value(loss, pred, batch, phi) for loss, phi in zip(losses, phis, strict=True)]
    slopes = [
        torch.autograd.grad(value, pred, create_graph=True, materialize_grads=True)[0]
        for value in values
    ]
    u = torch.stack([slope.detach() for slope in slopes])
    update = _update_stacked if stacked else _update_in_turn
    judgements, v, finite = update(step, output, theta, u, buffers)
    tangents = _jacobian_products(step, theta, v)
    alpha = first_step_size(step.task.optimizer)
    products = [(slope * tangent).sum() for slope, tangent in zip(slopes, tangents, strict=True)]
    gradients = [torch.zeros_like(phi) for phi in phis]
    known = [p for p, product in enumerate(products) if product.requires_grad]
    if known:  # the others are linear in f with slopes free of φ, or flat
        total = torch.stack([products[p] for p in known]).sum()
        derivatives = torch.autograd.grad(total, phis, materialize_grads=True)
        gradients = [-alpha * derivative for derivative in derivatives]
    finite &= finite_rows([u, torch.stack(values), judgements])
    finite &= torch.stack([gradient.isfinite().all() for gradient in gradients])
    return GroupGradients(gradients, finite)


def supports_groups(task: Task, *, stacked: bool) -> bool:
    """Whether a base learner can be differentiated for several losses at once; tried on a few rows.

    It needs forward-mode rules, as in `supports_forward_mode`, that work under ``torch.vmap``; to
    be stacked, all of it has to.
    """
    step = small_step(task)
    theta, buffers = step.parameters(), step.buffers()
    with unsupported() as refused, quiet_vmap(), sdpa_kernel(SDPBackend.MATH):
        with step.rng("training"):
            output = step.call(theta, buffers, step.judging.inputs)
        u = torch.stack([output.detach(), output.detach()])
        update = _update_stacked if stacked else _update_in_turn
        _, v, _ = update(step, output, theta, u, buffers)
        _jacobian_products(step, theta, v)
    return not refused


def _update_in_turn(
    step: MetaStep,
    output: Tensor,
    theta: dict[str, Tensor],
    u: Tensor,
    buffers: dict[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Pull the losses' slopes `u` (P, *outputs) back and judge the updated learners.

    Returns L_T(θ₁), shape (P,), its gradients by name, each (P, …), and what was finite, (P,).
    """
    values = list(theta.values())
    v = {name: torch.empty(len(u), *value.shape).to(value) for name, value in theta.items()}
    judgements, finite = [], []
    for p, slope in enumerate(u):
        pulled = torch.autograd.grad(
            output, values, slope, retain_graph=True, materialize_grads=True
        )
        updated = first_step(step.task.optimizer, values, pulled)
        own = {name: buffer.clone() for name, buffer in buffers.items()}
        with step.rng("judging"):
            judged = step.call(dict(zip(theta, updated, strict=True)), own, step.judging.inputs)
        judgement = step.task.task_loss(judged, step.judging.targets)
        gradients = torch.autograd.grad(judgement, updated, materialize_grads=True)
        for stacked, gradient in zip(v.values(), gradients, strict=True):
            stacked[p] = gradient
        judgements.append(judgement.detach())
        finite.append(all_finite([*pulled, judged]))
    return torch.stack(judgements), v, torch.tensor(finite)


def _update_stacked(
    step: MetaStep,
    output: Tensor,
    theta: dict[str, Tensor],
    u: Tensor,
    buffers: dict[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The same in one batched backward pass, and one forward and backward pass of all learners."""
    values = list(theta.values())
    gradients = torch.autograd.grad(output, values, u, is_grads_batched=True, allow_unused=True)
    pulled = [
        torch.zeros(len(u), *value.shape).to(value) if gradient is None else gradient
        for value, gradient in zip(values, gradients, strict=True)
    ]
    finite = finite_rows(pulled)
    updated = first_step(step.task.optimizer, values, pulled)
    del gradients, pulled  # as large as all learners
    own = {name: torch.stack([buffer] * len(u)) for name, buffer in buffers.items()}
    with step.rng("judging"):
        judged = vmap(step.call, in_dims=(0, 0, None), randomness="same")(
            dict(zip(theta, updated, strict=True)), own, step.judging.inputs
        )
    judgements = torch.stack([step.task.task_loss(pred, step.judging.targets) for pred in judged])
    gradients = torch.autograd.grad(judgements.sum(), updated, materialize_grads=True)
    finite &= finite_rows([judged])
    return judgements.detach(), dict(zip(theta, gradients, strict=True)), finite


def _jacobian_products(step: MetaStep, theta: dict[str, Tensor], v: dict[str, Tensor]) -> Tensor:
    """J v for every row of `v`, shape (P, *outputs)."""
    fixed = {name: value.detach() for name, value in theta.items()}
    (batch,) = step.training

    def product(direction: dict[str, Tensor]) -> Tensor:
        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            return step.call(parameters, step.buffers(), batch.inputs)

        tangent: Tensor = jvp(outputs, (fixed,), (direction,))[1]
        return tangent

    with torch.no_grad(), step.rng("training"):
        tangents: Tensor = vmap(product, randomness="same")(v)
    return tangents
