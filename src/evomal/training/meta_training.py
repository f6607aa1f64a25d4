"""Algorithm 1: the weights of a meta-loss network, tuned by gradients through training steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from evomal.losses.meta import MetaLoss
from evomal.seeding import derive_generator, derive_seed, isolated_rng
from evomal.tasks.task import Task
from evomal.training.numerics import check_deadline, draw_batches, require_finite
from evomal.training.settings import EvaluationSettings
from evomal.training.support import forward_mode_problem
from evomal.training.trial import spoils_inputs
from evomal.training.unrolled import MetaStep, forward_hypergradient, reverse_hypergradient


def optimize_weights(
    loss: MetaLoss, tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> Tensor:
    """φ after S_meta steps of Adam (Algorithm 1), starting near the loss's own weights.

    Parameters
    ----------
    loss
        The loss to tune; φ₀ is its `initial_phi`, from (`seed`, its structure).
    tasks
        The meta-objective is the mean of their task losses (eq. 2).
    settings
        S_meta, S_base, η and where L_T takes its batch from.
    seed
        The run's seed.

    Returns
    -------
    Tensor
        Shape of ``loss.phi``, detached.

    Raises
    ------
    DivergedError
        If a loss, prediction, gradient or weight becomes non-finite.
    """
    phi = loss.initial_phi(derive_generator(seed, "phi", loss.structure)).to(tasks[0].device)
    phi.requires_grad_()
    if phi.numel() == 0:
        return phi.detach()
    optimizer = torch.optim.Adam([phi], lr=settings.meta_learning_rate)
    with sdpa_kernel(SDPBackend.MATH):  # the only attention with a second derivative
        schedules = [MetaSchedule(task, settings, seed) for task in tasks]
        for i in range(settings.meta_steps):
            check_deadline()
            gradients = [one.hypergradient(loss, phi, one.step(i)) for one in schedules]
            phi.grad = torch.stack(gradients).mean(dim=0)
            optimizer.step()
    require_finite([phi], "a weight of the loss")
    return phi.detach()


class MetaSchedule:
    """The meta steps of one task, their batches drawn ahead from (run seed, task)."""

    def __init__(self, task: Task, settings: EvaluationSettings, seed: int) -> None:
        self._task = task
        self._seed = seed
        self._judges = task.validation if settings.meta_batch == "validation" else task.train
        self._base_steps = settings.base_steps
        self._training_rows = draw_batches(
            derive_generator(seed, "meta-training", task.name),
            len(task.train),
            task.batch_size,
            settings.meta_steps * settings.base_steps,
            task.device,
        ).reshape(settings.meta_steps, settings.base_steps, -1)
        self._judging_rows = draw_batches(
            derive_generator(seed, "meta-judging", task.name),
            len(self._judges),
            task.batch_size,
            settings.meta_steps,
            task.device,
        )

    @cached_property
    def hypergradient(self) -> Callable[[MetaLoss, Tensor, MetaStep], Tensor]:
        """The fast way where the base learner supports it, else the plain one."""
        fast = self._base_steps == 1 and forward_mode_problem(self._task) is None
        return forward_hypergradient if fast else reverse_hypergradient

    def step(self, i: int) -> MetaStep:
        """Meta step i: a fresh base learner and its batches."""
        task = self._task
        seed = derive_seed(self._seed, "meta-step", task.name, i)
        with isolated_rng(task.device, derive_seed(seed, "preprocess")):
            training = [task.batch(task.train, rows) for rows in self._training_rows[i]]
            judging = task.batch(self._judges, self._judging_rows[i])
        progress = float(derive_generator(seed, "progress").random())
        learner, spoils = task.new_model(seed), spoils_inputs(task)
        return MetaStep(task, learner, training, judging, seed, progress, spoils)
