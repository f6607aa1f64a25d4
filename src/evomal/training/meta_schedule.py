"""The meta steps of a run: their base learners, optimiser states and batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from evomal.losses.meta import MetaLoss
from evomal.seeding import derive_generator, derive_seed, isolated_rng
from evomal.tasks.task import Task
from evomal.training.hypergradient.forward import forward_hypergradient
from evomal.training.hypergradient.reverse import reverse_hypergradient
from evomal.training.hypergradient.step import MetaStep
from evomal.training.meta_start import MISSING, Snapshot, snapshots, starts_fresh
from evomal.training.numerics import DivergedError, draw_batches
from evomal.training.settings import TuningSettings
from evomal.training.support import forward_mode_problem
from evomal.training.trial import spoils_inputs


class MetaSchedule:
    """The meta steps of one task, with batches drawn ahead from (run seed, task)."""

    def __init__(self, task: Task, settings: TuningSettings, seed: int) -> None:
        self._task = task
        self._seed = seed
        self._judges = task.validation if settings.meta_batch == "validation" else task.train
        self._settings = settings
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
        """The fast method if the base learner supports it, otherwise the reference."""
        fast = self._settings.base_steps == 1 and forward_mode_problem(self._task) is None
        return forward_hypergradient if fast else reverse_hypergradient

    @cached_property
    def _snapshots(self) -> list[Snapshot]:
        """The states from which meta steps start, if their learners are not fresh."""
        return snapshots(self._task, self._settings, self._seed)

    def step(self, i: int) -> MetaStep:
        """Meta step i: a base learner, fresh or in the state of a snapshot, and its batches.

        Raises
        ------
        DivergedError
            If there is no snapshot, because the training under the task loss diverged.
        """
        task = self._task
        seed = derive_seed(self._seed, "meta-step", task.name, i)
        with isolated_rng(task.device, derive_seed(seed, "preprocess")):
            training = [task.batch(task.train, rows) for rows in self._training_rows[i]]
            judging = task.batch(self._judges, self._judging_rows[i])
        spoils = spoils_inputs(task)
        if starts_fresh(task, self._settings):
            progress = float(derive_generator(seed, "progress").random())
            learner = task.new_model(seed)
            return MetaStep(task, learner, training, judging, seed, progress, spoils)
        if not self._snapshots:
            raise DivergedError(MISSING)
        place = derive_generator(seed, "start").integers(len(self._snapshots))
        start = self._snapshots[place]
        return MetaStep(
            *(task, start.learner(task), training, judging, seed, start.progress, spoils),
            states=start.states,
            rate=start.rate,
        )
