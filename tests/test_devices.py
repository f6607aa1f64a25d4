"""That a meta step and a training step stay on their device, checked without one.

Tensors on the meta device have no values. So as on a GPU, an operation on them and a tensor left on
the CPU is an error; and whatever reads a value back, which on a GPU would be to wait for it, is one
too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from evomal import SymbolicLoss, Task
from evomal.seeding import isolated_rng
from evomal.training import loop, meta_schedule, stack
from evomal.training.filters import _optimize_outputs
from evomal.training.hypergradient import step as hypergradient_step
from evomal.training.hypergradient.group import group_hypergradients
from evomal.training.meta_schedule import MetaSchedule
from evomal.training.meta_training import tune_group
from evomal.training.numerics import require_finite
from evomal.training.settings import EvaluationSettings
from evomal.training.support import group_way
from evomal.training.trial import spoils_inputs
from evomal.training.tuning_state import TuningState
from evomal.training.workbench import Workbench
from tasks_for_tests import TEXTS, VARIED_TASKS

META = torch.device("meta")


@contextmanager
def no_generator(device: torch.device, seed: int) -> Iterator[None]:
    """The meta device has none to seed."""
    with nullcontext() if device == META else isolated_rng(device, seed):
        yield


@pytest.fixture(autouse=True)
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hypergradient_step, loop, meta_schedule, stack):
        monkeypatch.setattr(module, "isolated_rng", no_generator)
    monkeypatch.setattr("evomal.tasks.task.isolated_rng", no_generator)


def on_meta(task: Task) -> Task:
    spoils_inputs(task)  # found out where values can be compared
    twin = copy.copy(task)
    twin.device = META
    twin.train, twin.validation = task.train.to(META), task.validation.to(META)
    return twin


def losses_for(task: Task) -> list[Any]:
    losses = [SymbolicLoss(text, link=task.link) for text in TEXTS]
    weights = [torch.ones(len(loss.phi), dtype=torch.float64) for loss in losses]
    return [
        SymbolicLoss(text, phi, task.link).to(META)
        for text, phi in zip(TEXTS, weights, strict=True)
    ]


def test_the_meta_device_tells_what_a_gpu_would() -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2, device=META) + torch.ones(2)
    with pytest.raises(RuntimeError, match="meta"):
        require_finite([torch.ones(2, device=META)])


@pytest.mark.parametrize("engine", ["batched", "stacked"])
@pytest.mark.parametrize("name", VARIED_TASKS)
def test_a_meta_step_of_a_group(name: str, engine: str) -> None:
    here = VARIED_TASKS[name]()
    layers = group_way(here, stacked=engine == "stacked").layers
    task = on_meta(here)
    losses = losses_for(task)
    schedule = MetaSchedule(task, EvaluationSettings(meta_steps=2), 0)
    phis = [loss.phi.clone().requires_grad_() for loss in losses]
    found = group_hypergradients(
        losses, phis, schedule.step(0), layers, stacked=engine == "stacked"
    )
    assert found.finite.device == META
    assert {gradient.device for gradient in found.gradients} == {META}


@pytest.mark.parametrize("name", VARIED_TASKS)
def test_training_steps_of_a_stack(name: str) -> None:
    task = on_meta(VARIED_TASKS[name]())
    group = stack.Stack(task, losses_for(task), 2, 0)
    for number in (1, 2):
        group._step(number, task.batch(task.train, torch.arange(8, device=META)))
        group._keep([0, len(group.losses) - 1])
    assert group.finite.shape == (2,)
    assert {p.device for p in group.theta.values()} == {META}


@pytest.mark.parametrize("name", VARIED_TASKS)
def test_the_rejection_protocol(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adam = torch.optim.Adam  # the fused one knows no meta device
    monkeypatch.setattr(torch.optim, "Adam", lambda group, lr, fused: adam(group, lr))
    task = on_meta(VARIED_TASKS[name]())
    batch = task.batch(task.train, torch.arange(8, device=META))
    learner = task.new_model(0)
    outputs = type(batch)(learner(batch.inputs).detach(), batch.targets, batch.extras)
    for optimized in _optimize_outputs(losses_for(task), task, outputs, 3):
        assert optimized.device == META


def test_all_meta_steps_before_the_end_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first look for diverged losses; the layers were tried before."""
    here = VARIED_TASKS["classes"]()
    way = group_way(here, stacked=True)
    monkeypatch.setattr("evomal.training.meta_training.group_way", lambda *_, **__: way)
    task = on_meta(here)
    settings = EvaluationSettings(meta_steps=3)
    bench = Workbench([task], settings, 0)
    tunings = [(loss, TuningState.at_start(loss.phi.detach())) for loss in losses_for(task)]
    with pytest.raises((NotImplementedError, RuntimeError), match="meta") as caught:
        tune_group(bench, tunings, stacked=True)
    assert "finite.tolist()" in str(caught.traceback[2].statement)
