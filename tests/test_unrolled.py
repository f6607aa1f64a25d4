"""Algorithm 1: hypergradients against each other, against real SGD, and the optimised weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from evomal.expressions.expression import Expression
from evomal.losses.form import Link
from evomal.losses.meta import MetaLoss
from evomal.losses.neural import NeuralLoss
from evomal.losses.symbolic import SymbolicLoss
from evomal.seeding import derive_generator
from evomal.tasks.optimizers import SGD
from evomal.tasks.task import Task
from evomal.training.hypergradient import forward
from evomal.training.hypergradient.forward import forward_hypergradient
from evomal.training.hypergradient.reverse import reverse_hypergradient
from evomal.training.hypergradient.step import MetaStep
from evomal.training.meta_schedule import MetaSchedule
from evomal.training.numerics import DivergedError
from evomal.training.settings import EvaluationSettings
from evomal.training.support import forward_mode_problem
from evomal.training.workbench import Workbench
from run_helpers import optimize_weights
from strategies import fast, networks, polynomials, weighted_losses
from tasks_for_tests import (
    TASK_BY_LINK,
    NoForwardMode,
    Perceptron,
    SharedGradients,
    SummedParameter,
    TiedFrozenUnused,
    image_task,
    regression_task,
)

F64 = torch.float64
OPTIMIZERS = {
    "plain": SGD(0.1, 0.0, False, 0.0),
    "momentum": SGD(0.1, 0.9, False, 0.0),
    "nesterov": SGD(0.1, 0.9, True, 0.0),
    "decay": SGD(0.1, 0.0, False, 0.05),
    "dampening": SGD(0.1, 0.9, False, 0.0, 0.4),
    "dampening decay": SGD(0.05, 0.6, False, 0.1, 0.9),
    "nesterov decay": SGD(0.1, 0.5, True, 0.05),
}
SMOOTH = "mul(tanh(sub(y, f)), sub(square(f), y))"


def smooth_loss(link: Link) -> SymbolicLoss:
    return SymbolicLoss(SMOOTH, torch.linspace(0.7, 1.4, 8, dtype=F64), link=link)


def meta_step(task: Task, base_steps: int = 1, seed: int = 0) -> MetaStep:
    return MetaSchedule(task, EvaluationSettings(meta_steps=1, base_steps=base_steps), seed).step(0)


def torchs(settings: SGD, parameters: list[nn.Parameter]) -> torch.optim.SGD:
    return torch.optim.SGD(
        parameters,
        settings.learning_rate,
        settings.momentum,
        settings.dampening,
        settings.weight_decay,
        settings.nesterov,
    )


def judged(step: MetaStep, loss: MetaLoss, phi: Tensor) -> Tensor:
    """L_T after ordinary training with torch's own SGD on the batches of a meta step."""
    learner, settings = copy.deepcopy(step.learner), step.task.optimizer
    sgd = torchs(settings, [p for p in learner.parameters() if p.requires_grad])
    with step.rng("training"):
        for batch in step.training:
            sgd.zero_grad()
            value = loss.evaluate(learner(batch.inputs), batch.targets, phi)
            value.backward()  # type: ignore[no-untyped-call]
            sgd.step()
    with step.rng("judging"):
        return step.task.task_loss(learner(step.judging.inputs), step.judging.targets).detach()


def central_differences(function: Callable[[Tensor], Tensor], phi: Tensor) -> Tensor:
    steps = 1e-5 * torch.eye(len(phi), dtype=F64)
    return torch.stack([(function(phi + h) - function(phi - h)) / 2e-5 for h in steps])


def both(loss: MetaLoss, phi: Tensor, step: MetaStep) -> list[Tensor | None]:
    """Forward and reverse hypergradient, each of its own learner; None for a divergence."""
    found: list[Tensor | None] = []
    for hypergradient in (forward_hypergradient, reverse_hypergradient):
        # torch leaves a module that is registered under two names changed
        own = replace(step, learner=copy.deepcopy(step.learner))
        try:
            found.append(hypergradient(loss, phi.detach().clone().requires_grad_(), own))
        except DivergedError:
            found.append(None)
    return found


def assert_same(forward: Tensor | None, reverse: Tensor | None) -> None:
    """Equal to 1e-6 of the largest component; both or neither diverged.

    Components far below the largest, or below 1e-14, are what is left of sums of batch rows that
    cancel: α·(B·C terms of order one)·2⁻⁵² of round-off.
    """
    if forward is None or reverse is None:
        assert forward is reverse
        return
    floor = 1e-6 * float(reverse.abs().max()) + 1e-14
    torch.testing.assert_close(forward, reverse, rtol=0, atol=floor)


# Hypergradients


@cache
def step_with(link: Link, optimizer: str) -> MetaStep:
    return meta_step(TASK_BY_LINK[link](F64, optimizer=OPTIMIZERS[optimizer]))


@pytest.mark.parametrize("link", TASK_BY_LINK)
@given(loss=weighted_losses(), optimizer=st.sampled_from(list(OPTIMIZERS)))
@fast
def test_forward_equals_reverse(
    link: Link, loss: tuple[Expression, Tensor], optimizer: str
) -> None:
    expression, phi = loss
    step = step_with(link, optimizer)
    assert_same(*both(SymbolicLoss(expression, phi, link=link), phi, step))


@pytest.mark.parametrize("link", TASK_BY_LINK)
@given(data=st.data(), optimizer=st.sampled_from(list(OPTIMIZERS)))
@fast
def test_forward_equals_reverse_for_other_kinds_of_losses(
    link: Link, data: st.DataObject, optimizer: str
) -> None:
    loss = data.draw(networks(link=link) | polynomials(link=link))
    assert_same(*both(loss, loss.phi, step_with(link, optimizer)))


@pytest.mark.parametrize("base_steps", [1, 3])
@pytest.mark.parametrize("link", TASK_BY_LINK)
def test_the_network_of_ml3_against_finite_differences(link: Link, base_steps: int) -> None:
    loss = NeuralLoss(link=link).double()
    step = meta_step(TASK_BY_LINK[link](F64, optimizer=OPTIMIZERS["nesterov"]), base_steps)
    own = replace(step, learner=copy.deepcopy(step.learner))
    reverse = reverse_hypergradient(loss, loss.phi.clone().requires_grad_(), own)
    found = [reverse]
    if base_steps == 1:
        forward, _ = both(loss, loss.phi, step)
        assert_same(forward, reverse)
        assert forward is not None
        found.append(forward)
    rng, steepest = np.random.default_rng(0), reverse / reverse.norm()
    for _ in range(3):  # so steep that the rounding of L_T counts less than 1e-6
        noise = torch.from_numpy(rng.normal(size=loss.size))
        direction = steepest + noise / noise.norm()
        up, down = (judged(step, loss, loss.phi + sign * 1e-5 * direction) for sign in (1, -1))
        slope = (float(up) - float(down)) / 2e-5
        assert abs(slope) > 1e-4
        assert [float(one @ direction) for one in found] == pytest.approx(
            [slope] * len(found), rel=1e-6
        )


AWKWARD = [partial(image_task, F64)] + [
    partial(regression_task, F64, model=partial(learner, 1, F64))
    for learner in (TiedFrozenUnused, SharedGradients, SummedParameter)
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", AWKWARD, ids=["ConvNet", "Tied", "SharedGradients", "Summed"])
def test_forward_equals_reverse_for_awkward_learners(
    make: Callable[..., Task], optimizer: str
) -> None:
    task = make(optimizer=OPTIMIZERS[optimizer])
    loss = smooth_loss(task.link)
    forward, reverse = both(loss, loss.phi, meta_step(task))
    assert reverse is not None
    assert reverse.abs().min() > 1e-6
    assert_same(forward, reverse)


@pytest.mark.parametrize("base_steps", [1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", [*TASK_BY_LINK.values(), image_task], ids=lambda f: f.__name__)
def test_reverse_equals_finite_differences_through_torchs_sgd(
    make: Callable[..., Task], optimizer: str, base_steps: int
) -> None:
    task = make(F64, optimizer=OPTIMIZERS[optimizer])
    loss, step = smooth_loss(task.link), meta_step(task, base_steps)
    expected = central_differences(partial(judged, step, loss), loss.phi)
    found = reverse_hypergradient(loss, loss.phi.clone().requires_grad_(), step)
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("task", "supported"),
    [
        (regression_task(), True),
        (image_task(), True),
        (regression_task(model=NoForwardMode), False),
    ],
    ids=["perceptron", "batch norm, dropout", "no rule"],
)
def test_support_of_forward_mode_is_tried(task: Task, supported: bool) -> None:
    assert (forward_mode_problem(task) is None) is supported
    for base_steps, fast_path in [(1, supported), (2, False)]:
        schedule = MetaSchedule(task, EvaluationSettings(meta_steps=1, base_steps=base_steps), 0)
        expected = forward_hypergradient if fast_path else reverse_hypergradient
        assert schedule.hypergradient is expected


# The schedule


def vector(step: MetaStep) -> Tensor:
    return nn.utils.parameters_to_vector(step.learner.parameters())


def test_a_meta_step_does_not_depend_on_how_many_follow() -> None:
    task = regression_task()
    short, long = (
        MetaSchedule(task, EvaluationSettings(meta_steps=n, base_steps=2), 4) for n in (3, 9)
    )
    for i in range(3):
        a, b = short.step(i), long.step(i)
        for one, other in zip([*a.training, a.judging], [*b.training, b.judging], strict=True):
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.targets, other.targets)
        assert a.seed == b.seed
        assert torch.equal(vector(a), vector(b))


def test_every_meta_step_has_a_fresh_learner_and_fresh_batches() -> None:
    schedule = MetaSchedule(regression_task(), EvaluationSettings(meta_steps=2, base_steps=2), 0)
    steps = [schedule.step(0), schedule.step(1)]
    assert not torch.isclose(vector(steps[0]), vector(steps[1])).any()
    batches = [batch.inputs for s in steps for batch in (*s.training, s.judging)]
    assert len({tuple(batch.flatten().tolist()) for batch in batches}) == len(batches)
    assert all(len(batch) == 8 for batch in batches)


@pytest.mark.parametrize("meta_batch", ["validation", "training"])
def test_batches_come_from_the_split_that_they_should(meta_batch: Any) -> None:
    task = regression_task(batch_size=30)
    step = MetaSchedule(task, EvaluationSettings(meta_steps=1, meta_batch=meta_batch), 0).step(0)
    for batch, split in [
        (step.training[0], task.train),
        (step.judging, task.validation if meta_batch == "validation" else task.train),
    ]:
        rows = [tuple(row) for row in batch.inputs.tolist()]
        assert len(set(rows)) == min(30, len(split))
        assert set(rows) <= {tuple(row) for row in split.inputs.tolist()}


# Optimising the weights


def reference(
    loss: MetaLoss, tasks: Sequence[Task], settings: EvaluationSettings, seed: int
) -> Tensor:
    """Algorithm 1 by double backward, with Adam written out."""
    phi = loss.initial_phi(derive_generator(seed, "phi", loss.structure))
    m, v = torch.zeros_like(phi), torch.zeros_like(phi)
    schedules = [MetaSchedule(task, settings, seed) for task in tasks]
    for i in range(settings.meta_steps):
        leaf = phi.clone().requires_grad_()
        g = sum(reverse_hypergradient(loss, leaf, s.step(i)) for s in schedules) / len(tasks)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        m_hat, v_hat = m / (1 - 0.9 ** (i + 1)), v / (1 - 0.999 ** (i + 1))
        phi = phi - settings.meta_learning_rate * m_hat / (v_hat.sqrt() + 1e-8)
    return phi


SETTINGS = EvaluationSettings(meta_steps=4, meta_learning_rate=0.05)
CASES: dict[str, tuple[EvaluationSettings, list[Task]]] = {
    "one step": (SETTINGS, [regression_task(F64)]),
    "two base steps": (replace(SETTINGS, base_steps=2), [regression_task(F64)]),
    "training batch": (replace(SETTINGS, meta_batch="training"), [regression_task(F64)]),
    "no forward mode": (SETTINGS, [regression_task(F64, model=partial(NoForwardMode, 1, F64))]),
    "two tasks": (
        SETTINGS,
        [
            regression_task(F64),
            regression_task(
                F64, name="other", batch_size=5, task_loss=lambda p, t: 3 * (p - t).abs().mean()
            ),
        ],
    ),
}


@pytest.mark.parametrize(("settings", "tasks"), CASES.values(), ids=CASES)
def test_weights_are_those_of_algorithm_1(settings: EvaluationSettings, tasks: list[Task]) -> None:
    loss = smooth_loss("identity")
    found = optimize_weights(Workbench(tasks, settings, 3), loss)
    torch.testing.assert_close(found, reference(loss, tasks, settings, 3), rtol=1e-6, atol=1e-9)


def test_every_setting_and_task_counts() -> None:
    loss = smooth_loss("identity")
    found = [tuple(optimize_weights(Workbench(t, s, 3), loss).tolist()) for s, t in CASES.values()]
    assert len(set(found)) == len(CASES)


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator() -> None:
    task, loss = image_task(), SymbolicLoss(SMOOTH, link="softmax")
    state = torch.random.get_rng_state()
    first, again, other = (
        optimize_weights(Workbench([task], SETTINGS, seed), loss) for seed in (1, 1, 2)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.isclose(first, other, rtol=1e-6).any()
    assert not first.requires_grad
    assert torch.equal(loss.phi, torch.ones(8))


@pytest.mark.parametrize("meta_batch", ["validation", "training"])
def test_optimising_lowers_the_task_loss_after_a_step(meta_batch: Any) -> None:
    settings = EvaluationSettings(meta_steps=40, meta_learning_rate=0.05, meta_batch=meta_batch)
    task, loss = regression_task(F64), SymbolicLoss("square(sub(y, f))", torch.ones(3, dtype=F64))
    phi = optimize_weights(Workbench([task], settings, 0), loss)
    schedule = MetaSchedule(task, settings, 1)  # steps that were not optimised on
    steps = [schedule.step(i) for i in range(20)]
    before, after = (sum(float(judged(s, loss, w)) for s in steps) for w in (loss.phi, phi))
    assert after < 0.95 * before


@pytest.mark.parametrize("terminal", ["f", "1"])
def test_a_loss_without_weights_stays_as_it_is(terminal: str) -> None:
    assert optimize_weights(
        Workbench([regression_task()], SETTINGS, 0), SymbolicLoss(terminal)
    ).shape == (0,)


@pytest.mark.parametrize("model", [Perceptron, NoForwardMode])
def test_an_overflow_is_a_divergence(model: Callable[[], nn.Module]) -> None:
    deep = "square(" * 9 + "sub(add(y, add(1, 1)), f)" + ")" * 9
    with pytest.raises(DivergedError):
        optimize_weights(Workbench([regression_task(model=model)], SETTINGS, 0), SymbolicLoss(deep))


def test_bad_luck_is_not_taken_for_a_missing_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(message: str) -> Callable[..., None]:
        def raise_it(*_: object) -> None:
            raise RuntimeError(message)

        return raise_it

    monkeypatch.setattr(
        forward, "_jacobian_product", fail("DefaultCPUAllocator: can't allocate memory")
    )
    with pytest.raises(RuntimeError, match="allocate"):
        forward_mode_problem(regression_task())
    for message in ("this operation is not for dual numbers", "bad memory_format of a layer"):
        monkeypatch.setattr(forward, "_jacobian_product", fail(message))
        assert forward_mode_problem(regression_task()) == f"RuntimeError: {message}"
