"""Algorithm 1: the weights of meta-loss networks, tuned by gradients through training steps.

Tuning can pause between two meta steps (`evomal.training.numerics.pausing`) and continue later, in
this process or another one, with bit-identical results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from evomal.losses.meta import MetaLoss
from evomal.seeding import derive_generator
from evomal.training.hypergradient.group import group_hypergradients
from evomal.training.numerics import (
    DivergedError,
    check_deadline,
    is_time_to_pause,
    quiet_vmap,
    require_finite,
)
from evomal.training.support import group_way
from evomal.training.tuning_state import TuningState
from evomal.training.workbench import Workbench

CHECK_EVERY = 25
"""Meta steps; a loss of a group that diverged is left out from the next check on."""

Tuning = tuple[MetaLoss, TuningState]
"""A loss and the state of its tuning."""

Gradients = Callable[[Sequence[MetaLoss], Sequence[Tensor], int], tuple[list[Tensor], Tensor]]
"""∂/∂φ of every loss at a meta step, and which of them are finite; mean over the tasks (eq. 2)."""


def first_state(bench: Workbench, loss: MetaLoss) -> TuningState:
    """φ₀: the loss's `initial_phi`, drawn from (run seed, loss), before the first meta step."""
    phi = loss.initial_phi(derive_generator(bench.seed, "phi", loss.structure))
    return TuningState.at_start(phi.to(bench.device))


def tune_alone(bench: Workbench, tuning: Tuning) -> TuningState:
    """Algorithm 1 on one loss, up to S_meta steps of Adam or the time to pause.

    Parameters
    ----------
    bench
        The run's meta steps; S_meta and η.
    tuning
        The loss to tune, and the state to continue from.

    Raises
    ------
    DivergedError
        If a loss, prediction, gradient or weight becomes non-finite.
    """
    loss, state = tuning
    if state.phi.numel() == 0:
        return replace(state, step=bench.tuning.meta_steps)

    def gradients(_: object, phis: Sequence[Tensor], i: int) -> tuple[list[Tensor], Tensor]:
        found = [one.hypergradient(loss, phis[0], one.step(i)) for one in bench.schedules]
        return [torch.stack(found).mean(dim=0)], torch.ones(1, dtype=torch.bool)

    with sdpa_kernel(SDPBackend.MATH):  # the only attention with a second derivative
        (state,) = _advance(bench, [tuning], gradients)
    if state.step == bench.tuning.meta_steps:
        require_finite([state.phi], "a weight of the loss")
    return state


def tune_group(
    bench: Workbench, tunings: Sequence[Tuning], *, stacked: bool
) -> list[TuningState | DivergedError]:
    """Tune a group of losses like `tune_alone`, up to rounding, sharing each meta step.

    Parameters
    ----------
    bench
        As for `tune_alone`; with S_base = 1.
    tunings
        The losses, after the same number of meta steps; they affect each other only by rounding.
    stacked
        Whether their updated base learners are worked on in one pass.

    Returns
    -------
    list
        The state of every loss; or, at the end, the error if it diverged.
    """
    with quiet_vmap(), sdpa_kernel(SDPBackend.MATH):  # the only attention with a forward-mode rule
        ways = [group_way(task, stacked=stacked) for task in bench.tasks]

        def gradients(
            losses: Sequence[MetaLoss], phis: Sequence[Tensor], i: int
        ) -> tuple[list[Tensor], Tensor]:
            found = [
                group_hypergradients(
                    *(losses, phis, schedule.step(i), way.layers),
                    stacked=stacked,
                    in_turn=way.in_turn,
                )
                for schedule, way in zip(bench.schedules, ways, strict=True)
            ]
            by_loss = zip(*(one.gradients for one in found), strict=True)
            finite = torch.stack([one.finite for one in found]).all(dim=0)
            return [torch.stack(own).mean(dim=0) for own in by_loss], finite

        try:
            states = _advance(bench, tunings, gradients)
        except DivergedError as error:  # there is no state for meta steps to start from
            return [error.with_traceback(None)] * len(tunings)
    if states[0].step < bench.tuning.meta_steps:
        return list(states)
    finite = torch.stack([state.phi.isfinite().all() for state in states]).tolist()
    return [
        state if ok and state.finite else DivergedError("a value on the way")
        for state, ok in zip(states, finite, strict=True)
    ]


def _advance(
    bench: Workbench, tunings: Sequence[Tuning], gradients: Gradients
) -> list[TuningState]:
    """Take meta steps until the last one or the time to pause; at least one."""
    losses, states = [loss for loss, _ in tunings], [state for _, state in tunings]
    steps, step = bench.tuning.meta_steps, states[0].step
    phis = [state.phi.clone().requires_grad_() for state in states]
    optimizer = torch.optim.Adam(phis, lr=bench.tuning.meta_learning_rate)
    for phi, state in zip(phis, states, strict=True):
        mean, square = state.mean.clone(), state.square.clone()
        count = torch.tensor(float(step))
        optimizer.state[phi] = {"step": count, "exp_avg": mean, "exp_avg_sq": square}
    finite = torch.tensor([state.finite for state in states], device=bench.device)
    active = [p for p, state in enumerate(states) if state.active]
    rows = torch.tensor(active, dtype=torch.int64, device=bench.device)
    while step < steps:
        check_deadline()
        if step and step % CHECK_EVERY == 0:
            active = [p for p, is_finite in enumerate(finite.tolist()) if is_finite]
            rows = finite.nonzero()[:, 0]
        if not active:
            step = steps
            break
        found, own_finite = gradients([losses[p] for p in active], [phis[p] for p in active], step)
        optimizer.zero_grad()
        for p, gradient in zip(active, found, strict=True):
            phis[p].grad = gradient
        finite[rows] &= own_finite.to(finite.device)
        optimizer.step()
        step += 1
        if is_time_to_pause():
            break
    return [
        TuningState(
            step,
            phi.detach(),
            optimizer.state[phi]["exp_avg"],
            optimizer.state[phi]["exp_avg_sq"],
            is_finite,
            p in active,
        )
        for p, (phi, is_finite) in enumerate(zip(phis, finite.tolist(), strict=True))
    ]
