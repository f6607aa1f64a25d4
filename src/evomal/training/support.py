"""What a base learner supports: whether it can be trained at all, and with which engines.

An engine can be wrong without raising: for example, dropout masks depend on the memory layout,
which ``torch.vmap`` can change. So its outputs, the task loss L_T(θ₁) and the hypergradient are
compared numerically with the reference (`agreement`) before it is used. An error in an ordinary
step is a user error and raised as an `InputError`; it never makes an engine unsuitable.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from evomal.errors import InputError
from evomal.losses.meta import MetaLoss
from evomal.seeding import isolated_rng
from evomal.tasks.optimizers import OptimizerSettings
from evomal.tasks.task import Task
from evomal.training.agreement import (
    Results,
    difference,
    first_order,
    probe_losses,
    stacked_training_difference,
)
from evomal.training.hypergradient.affine import AffineLayer, affine_layers
from evomal.training.hypergradient.forward import forward_hypergradient
from evomal.training.hypergradient.group import group_hypergradients
from evomal.training.hypergradient.reverse import reverse_hypergradient
from evomal.training.hypergradient.step import MetaStep
from evomal.training.numerics import DivergedError
from evomal.training.optimizing import new_optimizer
from evomal.training.trial import (
    Failed,
    as_input_error,
    few_rows,
    kept,
    no_weights,
    probe_step,
    tried,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Way:
    """How the meta steps of a group are computed.

    Attributes
    ----------
    layers
        Layers that are differentiated by hand; none under autocast.
    in_turn
        Whether the forward-mode products are computed one at a time.
    """

    layers: tuple[AffineLayer, ...] = ()
    in_turn: bool = False


def require_trainable(task: Task, *, base_steps: int | None) -> None:
    """Take one training step, and one through which a loss's weights can be learned.

    Parameters
    ----------
    task
        The task, whose base learner is tried on a few rows.
    base_steps
        S_base of Algorithm 1; None if no weights are learned.

    Raises
    ------
    InputError
        If one of them fails; the message says why.
    """

    def message(problem: str) -> str:
        return (
            f"The base learner of {task.name!r} fails in a training step on "
            f"{len(few_rows(task, task.train))} of its training rows ({problem}); fix the model."
        )

    with as_input_error(message):
        _train(task)
    if base_steps is None:
        return
    if not isinstance(task.optimizer, OptimizerSettings):
        raise InputError(
            f"The optimizer of {task.name!r} is a function, but the weights of losses are learned "
            "only with evomal.SGD, evomal.Adam or evomal.AdamW; pass one of these, or use a "
            "method without weights, such as gp-lfl."
        )
    found = _found(task, lambda: tried(partial(_differentiate, task)), "reverse mode")
    if isinstance(found, Failed) and (base_steps > 1 or forward_mode_problem(task) is not None):
        raise InputError(no_weights(task, found.reason))


def forward_mode_problem(task: Task) -> str | None:
    """Why `forward_hypergradient` differs from double backward; None if it does not."""

    def forward(step: MetaStep, losses: Sequence[MetaLoss], phis: Sequence[Tensor]) -> Results:
        both = zip(losses, phis, strict=True)
        gradients = [forward_hypergradient(loss, phi, step) for loss, phi in both]
        return Results(*first_order(step, losses, phis), gradients)

    return _found(task, lambda: difference(task, forward), "forward mode")


def group_problem(task: Task, *, stacked: bool) -> str | None:
    """Why a base learner does not support groups of losses; None if it does.

    It needs forward-mode rules; to be stacked, it also has to work under ``torch.vmap``, including
    ordinary training.
    """
    if not isinstance(task.optimizer, OptimizerSettings):
        return "its optimizer is a function"
    way = _found(task, lambda: _find_way(task, stacked=stacked), "group", stacked)
    return way.reason if isinstance(way, Failed) else None


def group_way(task: Task, *, stacked: bool) -> Way:
    """How the meta steps of a group are computed with a task's base learner.

    Raises
    ------
    InputError
        If it does not support groups; see `group_problem`.
    """
    way = _found(task, lambda: _find_way(task, stacked=stacked), "group", stacked)
    if isinstance(way, Failed):
        raise unsuitable(task, "stacked" if stacked else "batched", way.reason)
    return way


def unsuitable(task: Task, engine: str, problem: str) -> InputError:
    """The error for a requested engine that a base learner does not support."""
    return InputError(
        f"The base learner of {task.name!r} does not support the engine {engine} ({problem}); use "
        "the engine loop."
    )


def _found(task: Task, find: Callable[[], T], *what: object) -> T:
    """A cached or new result about a task's base learner on this device."""
    key = (*what, task.precision, task.device.type)
    return kept(task, key, find)


def _train(task: Task) -> None:
    """One ordinary training step with the task loss."""
    learner, batch = task.new_model(seed=0), few_rows(task, task.train)
    optimizer = new_optimizer(task, [p for p in learner.parameters() if p.requires_grad])
    with isolated_rng(task.device, 0):
        value = task.task_loss(task.call(learner, batch.inputs), batch.targets)
        value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _differentiate(task: Task) -> None:
    """Double backward through one training step."""
    step = probe_step(task)
    (loss, phi), *_ = probe_losses(step)
    with sdpa_kernel(SDPBackend.MATH), contextlib.suppress(DivergedError):
        reverse_hypergradient(loss, phi, step)


def _find_way(task: Task, *, stacked: bool) -> Way | Failed:
    """The fastest correct way."""
    rows = min(task.batch_size, len(task.train))
    layers: tuple[AffineLayer, ...] | Failed = ()
    if task.precision != "bfloat16":
        layers = tried(lambda: affine_layers(probe_step(task), rows))
    by_hand = () if isinstance(layers, Failed) else layers
    problem: str | None = None
    for way in dict.fromkeys(
        Way(own, in_turn)
        for own in (by_hand, ())
        for in_turn in ((False,) if stacked else (False, True))
    ):
        problem = difference(task, partial(_in_groups, way, stacked))
        if problem is None:
            if stacked:
                problem = stacked_training_difference(task)
            return way if problem is None else Failed(problem)
    assert problem is not None
    return Failed(problem)


def _in_groups(
    way: Way, stacked: bool, step: MetaStep, losses: Sequence[MetaLoss], phis: Sequence[Tensor]
) -> Results:
    found = group_hypergradients(
        losses, phis, step, way.layers, stacked=stacked, in_turn=way.in_turn
    )
    return Results(found.output, found.judgements, found.gradients)
