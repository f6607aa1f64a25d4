"""The weights of several meta-loss networks at once: Algorithm 1 for a group of losses.

`optimize_weights` is the plain reference, and what is used where a learner does not support this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from evomal.errors import InputError
from evomal.losses.meta import MetaLoss
from evomal.seeding import derive_generator
from evomal.tasks.task import Task
from evomal.training.group_step import group_hypergradients
from evomal.training.meta_training import MetaSchedule
from evomal.training.numerics import check_deadline, quiet_vmap
from evomal.training.settings import EvaluationSettings
from evomal.training.support import group_problem, group_way, require_trainable, unsuitable

Settings = TypeVar("Settings", bound=EvaluationSettings)

CHECK_EVERY = 25
"""Meta steps; a loss that diverged is left out from the next check on."""

GROUP_ON_CPU = 4
"""Losses in a group; twice as many save 3 to 10 %, but leave half of many workers without work."""

MOST_PARAMETERS = 100_000_000
"""Of a group's learners together, for the batched engine to be chosen; they are held four times."""


def with_engine(settings: Settings, tasks: Sequence[Task], *, optimizes: bool) -> Settings:
    """The settings with the engine that ``"auto"`` means, and its group size.

    A fixed rule. If weights are optimised at all, and through one training step: stacked on a GPU,
    batched on CPUs or where stacking is not supported, provided that all base learners support it
    (`group_problem`) and a group of them is no larger than `MOST_PARAMETERS`. Else the loop.

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
        If a base learner cannot be trained or differentiated, or does not support an engine or a
        precision that is asked for.
    """
    tasks = [task.in_precision(settings.precision) for task in tasks]
    for task in tasks:
        require_trainable(task, base_steps=settings.base_steps if optimizes else None)
    if settings.precision == "bfloat16":
        for task in tasks:
            if any(p.dtype != torch.float32 for p in task.new_model(0).parameters()):
                raise InputError(
                    "The precision bfloat16 needs base learners with float32 parameters, but that "
                    f"of {task.name} has others."
                )
    on_cpu = all(task.device.type == "cpu" for task in tasks)
    size = settings.group_size or (GROUP_ON_CPU if on_cpu else None)

    def supported(engine: str) -> bool:
        return all(group_problem(task, stacked=engine == "stacked") is None for task in tasks)

    engine = settings.engine
    if engine in ("batched", "stacked"):
        for task in tasks:
            problem = group_problem(task, stacked=engine == "stacked")
            if problem is not None:
                raise unsuitable(task, engine, problem)
    if engine == "auto":
        engine = "loop"
        largest = max(sum(p.numel() for p in task.new_model(0).parameters()) for task in tasks)
        if optimizes and settings.base_steps == 1 and (size or 1) * largest <= MOST_PARAMETERS:
            choices: list[Literal["stacked", "batched"]] = ["stacked", "batched"]
            fitting = (choice for choice in choices[on_cpu:] if supported(choice))
            engine = next(fitting, "loop")
    return replace(settings, engine=engine, group_size=1 if engine == "loop" else size)


def optimize_weights_together(
    losses: Sequence[MetaLoss], tasks: Sequence[Task], settings: EvaluationSettings, seed: int
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
        loss.initial_phi(derive_generator(seed, "phi", loss.structure))
        .to(tasks[0].device)
        .requires_grad_()
        for loss in losses
    ]
    optimizer = torch.optim.Adam(phis, lr=settings.meta_learning_rate)
    finite = torch.ones(len(losses), dtype=torch.bool, device=tasks[0].device)
    active = list(range(len(losses)))
    rows = torch.arange(len(losses), device=finite.device)
    with quiet_vmap(), sdpa_kernel(SDPBackend.MATH):  # the only attention with a forward-mode rule
        schedules = [MetaSchedule(task, settings, seed) for task in tasks]
        ways = [group_way(task, stacked=stacked) for task in tasks]
        for i in range(settings.meta_steps):
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
                for schedule, way in zip(schedules, ways, strict=True)
            ]
            optimizer.zero_grad()
            for place, phi in enumerate(own):
                phi.grad = torch.stack([one.gradients[place] for one in found]).mean(dim=0)
            finite[rows] &= torch.stack([one.finite for one in found]).all(dim=0)
            optimizer.step()
    finite &= torch.stack([phi.detach().isfinite().all() for phi in phis])
    return [phi.detach() if ok else None for phi, ok in zip(phis, finite.tolist(), strict=True)]
