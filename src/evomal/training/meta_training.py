"""Algorithm 1: the weights of meta-loss networks, tuned by gradients through training steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from evomal.losses.meta import MetaLoss
from evomal.seeding import derive_generator
from evomal.training.hypergradient.group import group_hypergradients
from evomal.training.numerics import DivergedError, check_deadline, quiet_vmap, require_finite
from evomal.training.support import group_way
from evomal.training.workbench import Workbench

CHECK_EVERY = 25
"""Meta steps; a loss of a group that diverged is left out from the next check on."""


def initial_weights(bench: Workbench, loss: MetaLoss) -> Tensor:
    """φ₀: the loss's `initial_phi`, drawn from (run seed, loss), ready for gradients."""
    phi = loss.initial_phi(derive_generator(bench.seed, "phi", loss.structure))
    return phi.to(bench.device).requires_grad_()


def optimize_weights(bench: Workbench, loss: MetaLoss) -> Tensor:
    """φ after S_meta steps of Adam (Algorithm 1), starting near the loss's own weights.

    The meta-objective is the mean of the task losses (eq. 2).

    Parameters
    ----------
    bench
        The run's meta steps; S_meta and η.
    loss
        The loss to tune.

    Returns
    -------
    Tensor
        Shape of ``loss.phi``, detached.

    Raises
    ------
    DivergedError
        If a loss, prediction, gradient or weight becomes non-finite.
    """
    phi = initial_weights(bench, loss)
    if phi.numel() == 0:
        return phi.detach()
    optimizer = torch.optim.Adam([phi], lr=bench.tuning.meta_learning_rate)
    with sdpa_kernel(SDPBackend.MATH):  # the only attention with a second derivative
        for i in range(bench.tuning.meta_steps):
            check_deadline()
            gradients = [one.hypergradient(loss, phi, one.step(i)) for one in bench.schedules]
            phi.grad = torch.stack(gradients).mean(dim=0)
            optimizer.step()
    require_finite([phi], "a weight of the loss")
    return phi.detach()


def optimize_weights_of_group(
    bench: Workbench, losses: Sequence[MetaLoss], *, stacked: bool
) -> list[Tensor | DivergedError]:
    """`optimize_weights` of every loss up to rounding, all in one: each meta step is made once.

    Parameters
    ----------
    bench
        As for `optimize_weights`; with S_base = 1.
    losses
        The losses to tune; what one of them becomes depends on the others by rounding alone.
    stacked
        Whether their updated base learners are worked on in one pass.

    Returns
    -------
    list
        For every loss its weights, detached, or that it diverged.
    """
    phis = [initial_weights(bench, loss) for loss in losses]
    optimizer = torch.optim.Adam(phis, lr=bench.tuning.meta_learning_rate)
    finite = torch.ones(len(losses), dtype=torch.bool, device=bench.device)
    active = list(range(len(losses)))
    rows = torch.arange(len(losses), device=finite.device)
    with quiet_vmap(), sdpa_kernel(SDPBackend.MATH):  # the only attention with a forward-mode rule
        ways = [group_way(task, stacked=stacked) for task in bench.tasks]
        for i in range(bench.tuning.meta_steps):
            check_deadline()
            if i and i % CHECK_EVERY == 0:
                active = [p for p, is_finite in enumerate(finite.tolist()) if is_finite]
                rows = finite.nonzero()[:, 0]
            if not active:
                break
            group, own = [losses[p] for p in active], [phis[p] for p in active]
            found = [
                group_hypergradients(
                    *(group, own, schedule.step(i), way.layers),
                    stacked=stacked,
                    in_turn=way.in_turn,
                )
                for schedule, way in zip(bench.schedules, ways, strict=True)
            ]
            optimizer.zero_grad()
            for place, phi in enumerate(own):
                phi.grad = torch.stack([one.gradients[place] for one in found]).mean(dim=0)
            finite[rows] &= torch.stack([one.finite for one in found]).all(dim=0)
            optimizer.step()
    finite &= torch.stack([phi.detach().isfinite().all() for phi in phis])
    return [
        phi.detach() if ok else DivergedError("a value on the way")
        for phi, ok in zip(phis, finite.tolist(), strict=True)
    ]
