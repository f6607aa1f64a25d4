"""Algorithm 1 through every base optimiser, against torch's own with ``differentiable=True``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

import evomal
from evomal import SGD, Adam, AdamW, SymbolicLoss
from evomal.errors import InputError
from evomal.expressions.expression import Expression
from evomal.losses.form import Link
from evomal.losses.meta import MetaLoss
from evomal.seeding import derive_seed
from evomal.tasks.optimizers import OptimizerSettings
from evomal.tasks.task import Task
from evomal.testing.engines import check_engine
from evomal.testing.small_tasks import small_task
from evomal.training import meta_start
from evomal.training.engines.choice import ENGINES, with_engine
from evomal.training.hypergradient.first_step import CurvedStep, LinearStep
from evomal.training.hypergradient.forward import forward_hypergradient
from evomal.training.hypergradient.group import group_hypergradients
from evomal.training.hypergradient.optimizer_step import OptimizerStep, State
from evomal.training.hypergradient.reverse import reverse_hypergradient
from evomal.training.hypergradient.step import MetaStep
from evomal.training.loop import train
from evomal.training.meta_schedule import MetaSchedule
from evomal.training.meta_start import snapshots, starts_fresh
from evomal.training.numerics import DivergedError
from evomal.training.settings import EvaluationSettings
from evomal.training.support import forward_mode_problem, group_way
from evomal.training.workbench import Workbench
from run_helpers import TINY, tiny_settings
from strategies import weighted_losses
from tasks_for_tests import (
    TASK_BY_LINK,
    Perceptron,
    SharedGradients,
    SummedParameter,
    TiedFrozenUnused,
    image_task,
    losses_for,
    regression_task,
)

F64 = torch.float64
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": Adam(0.03)},
    "adam decay": {"optimizer": Adam(0.03, weight_decay=0.1, betas=(0.5, 0.9), eps=1e-3)},
    "adamw": {"optimizer": AdamW(0.03, weight_decay=0.1)},
    "adamw amsgrad": {"optimizer": AdamW(0.03, betas=(0.8, 0.6), amsgrad=True)},
    "adamw clipped": {"optimizer": AdamW(0.03), "clip_norm": 0.3},
    "adam without means": {"optimizer": Adam(0.03, betas=(0.0, 0.9))},
    "sgd": {"optimizer": SGD(0.1, 0.0, False, 0.0)},
    "sgd nesterov": {"optimizer": SGD(0.1, 0.5, True, 0.05)},
    "sgd dampening": {"optimizer": SGD(0.05, 0.6, False, 0.1, 0.9)},
    "sgd clipped": {"optimizer": SGD(0.1, 0.9, True, 0.05), "clip_norm": 0.3},
}
FROM_TRAINING = EvaluationSettings(
    meta_steps=1, meta_start="training", meta_snapshots=3, testing_steps=12
)


def torchs(
    settings: OptimizerSettings, parameters: Sequence[Tensor], **more: Any
) -> torch.optim.Optimizer:
    """Torch's optimiser with these settings."""
    given = asdict(settings)
    kind = getattr(torch.optim, type(settings).__name__)
    optimizer: torch.optim.Optimizer = kind(
        parameters, lr=given.pop("learning_rate"), **given, **more
    )
    return optimizer


def clipped(gradients: Sequence[Tensor], clip_norm: float | None) -> list[Tensor]:
    """What ``torch.nn.utils.clip_grad_norm_`` does, which cannot be differentiated."""
    if clip_norm is None:
        return list(gradients)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    return [gradient * (clip_norm / (norm + 1e-6)).clamp(max=1.0) for gradient in gradients]


def expected_hypergradient(step: MetaStep, loss: MetaLoss, phi: Tensor) -> Tensor:
    """Double backward through torch's optimiser, which updates parameters in place."""
    phi = phi.detach().clone().requires_grad_()
    theta = {name: p.detach().clone().requires_grad_().clone() for name, p in step._theta.items()}
    settings = replace(step.task.optimizer, learning_rate=step.optimizer.learning_rate)
    optimizer = torchs(settings, list(theta.values()), differentiable=True)
    for name, state in step.states.items():
        if state:
            # the count as well: in single precision, torch's correction of the bias is not exact
            optimizer.state[theta[name]] = {key: v.clone().double() for key, v in state.items()}
    buffers, learner = step.buffers(), copy.deepcopy(step.learner)

    def outputs(inputs: Any) -> Tensor:
        own = {name: value.clone() for name, value in theta.items()}
        found: Tensor = functional_call(learner, {**own, **buffers}, inputs)
        return found

    with step.rng("training"):
        for batch in step.training:
            value = step.value(loss, outputs(batch.inputs), batch, phi)
            gradients = torch.autograd.grad(
                value, list(theta.values()), create_graph=True, materialize_grads=True
            )
            both = zip(theta.values(), clipped(gradients, step.task.clip_norm), strict=True)
            for parameter, gradient in both:
                parameter.grad = gradient
            optimizer.step()
            for parameter in theta.values():  # as amsgrad's derivative needs what it was
                for key, value in optimizer.state[parameter].items():
                    optimizer.state[parameter][key] = value if value is None else value.clone()
    with step.rng("judging"):
        judgement = step.judgement(outputs(step.judging.inputs))
    (found,) = torch.autograd.grad(judgement, phi, materialize_grads=True)
    return found


def found_by(way: str, step: MetaStep, loss: MetaLoss, phi: Tensor) -> Tensor:
    """The hypergradient as an engine computes it."""
    own = replace(step, learner=copy.deepcopy(step.learner))
    phi = phi.detach().clone().requires_grad_()
    if way == "reverse":
        return reverse_hypergradient(loss, phi, own)
    if way == "forward":
        return forward_hypergradient(loss, phi, own)
    layers = group_way(step.task, stacked=way == "stacked").layers
    found = group_hypergradients([loss, loss], [phi, phi], own, layers, stacked=way == "stacked")
    if not found.finite.all():
        raise DivergedError
    return found.gradients[1] / 2  # both losses have the same weights


WAYS = ["reverse", "forward", "batched", "stacked"]


@cache
def step_of(link: Link, optimizer: str, base_steps: int = 1) -> MetaStep:
    task = TASK_BY_LINK[link](F64, **OPTIMIZERS[optimizer])
    return under_way(task, base_steps)


def under_way(task: Task, base_steps: int = 1) -> MetaStep:
    """A meta step that does not start at the beginning of a training.

    There, torch's SGD detaches the momentum from the gradient (`test_unrolled` has such steps).
    """
    settings = replace(FROM_TRAINING, meta_steps=9, base_steps=base_steps)
    steps = map(MetaSchedule(task, settings, 0).step, range(9))
    return next(step for step in steps if step.progress > 0)


def assert_same(found: Tensor, expected: Tensor) -> None:
    floor = 1e-6 * float(expected.abs().max()) + 1e-12
    torch.testing.assert_close(found, expected, rtol=0, atol=floor)


@pytest.mark.parametrize("link", TASK_BY_LINK)
@given(loss=weighted_losses(), optimizer=st.sampled_from(list(OPTIMIZERS)))
@settings(deadline=None, max_examples=15)
def test_hypergradients_are_those_through_torchs_optimizers(
    link: Link, loss: tuple[Expression, Tensor], optimizer: str
) -> None:
    expression, phi = loss
    own = SymbolicLoss(expression, phi, link=link)
    for base_steps, ways in [(1, WAYS), (3, WAYS[:1])]:
        step = step_of(link, optimizer, base_steps)
        try:
            reference = reverse_hypergradient(own, phi.clone().requires_grad_(), step)
        except DivergedError:
            for way in ways:
                with pytest.raises(DivergedError):
                    found_by(way, step, own, phi)
            continue
        expected = expected_hypergradient(step, own, phi)
        if expected.isfinite().all():  # it is NaN where a gradient is 0 from its start
            assert_same(reference, expected)
        for way in ways[1:]:
            assert_same(found_by(way, step, own, phi), reference)


SMOOTH = SymbolicLoss(
    "mul(tanh(sub(y, f)), sub(square(f), y))", torch.linspace(0.7, 1.4, 8)
).double()


class Scaled(Perceptron):
    """Has a parameter that is a single number."""

    def __init__(self, outputs: int, dtype: torch.dtype) -> None:
        super().__init__(outputs, dtype)
        self.scale = nn.Parameter(torch.tensor(1.3, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)


AWKWARD = [partial(image_task, F64)] + [
    partial(regression_task, F64, model=partial(learner, 1, F64))
    for learner in (TiedFrozenUnused, SharedGradients, SummedParameter, Scaled)
]


@pytest.mark.parametrize("optimizer", ["adamw", "adamw clipped", "sgd nesterov", "sgd clipped"])
@pytest.mark.parametrize(
    "make", AWKWARD, ids=["ConvNet", "Tied", "SharedGradients", "Summed", "Scaled"]
)
def test_awkward_learners(make: Callable[..., Task], optimizer: str) -> None:
    task = make(**OPTIMIZERS[optimizer])
    step = under_way(task)
    loss = SymbolicLoss.of_form(str(SMOOTH.expression), task.form).double().with_phi(SMOOTH.phi)
    expected = expected_hypergradient(step, loss, loss.phi)
    assert expected.abs().max() > 1e-6
    for way in WAYS:
        assert_same(found_by(way, step, loss, loss.phi), expected)


class Dead(Perceptron):
    """Two of its units are never active, so that their gradients are always 0."""

    def __init__(self) -> None:
        super().__init__(1, F64)
        self.layers[1] = nn.ReLU()
        with torch.no_grad():
            self.get_parameter("layers.0.bias")[:2] = -1e3


@pytest.mark.parametrize("base_steps", [1, 3])
def test_elements_without_a_gradient_so_far_count_for_nothing(base_steps: int) -> None:
    task = regression_task(F64, model=Dead, optimizer=AdamW(0.01))
    step = under_way(task, base_steps)
    assert not step.states["layers.0.bias"]["exp_avg_sq"][:2].any()
    assert expected_hypergradient(step, SMOOTH, SMOOTH.phi).isnan().all()
    alive = copy.deepcopy(step.learner)  # the same without the two units
    alive.layers = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    rows: dict[str, tuple[slice, ...]] = {
        "layers.0.weight": (slice(2, 5),),
        "layers.0.bias": (slice(2, 5),),
    }
    rows["layers.2.weight"] = (slice(None), slice(2, 5))
    with torch.no_grad():
        for name, p in alive.named_parameters():
            p.copy_(step.learner.get_parameter(name)[rows.get(name, ())])
    states = {
        name: {k: v[rows.get(name, ())] if v.ndim else v for k, v in state.items()}
        for name, state in step.states.items()
    }
    expected = expected_hypergradient(
        replace(step, learner=alive, states=states), SMOOTH, SMOOTH.phi
    )
    for way in WAYS if base_steps == 1 else WAYS[:1]:
        assert_same(found_by(way, step, SMOOTH, SMOOTH.phi), expected)


# Steps


def draw_like(tensors: Sequence[Tensor], seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, generator=rng, dtype=F64) for t in tensors]


def torchs_training(
    settings: OptimizerSettings, clip_norm: float | None, steps: int
) -> list[tuple[list[Tensor], list[State]]]:
    """Parameters and states before and after each of torch's steps with drawn gradients."""
    leaves = [nn.Parameter(p) for p in draw_like([torch.empty(2, 3), torch.empty(4)], 0)]
    optimizer = torchs(settings, leaves)
    found = []
    for seed in range(steps + 1):
        states: list[State] = [
            {k: torch.as_tensor(v).clone() for k, v in optimizer.state.get(leaf, {}).items()}
            for leaf in leaves
        ]
        found.append(([leaf.detach().clone() for leaf in leaves], states))
        for leaf, gradient in zip(leaves, draw_like(leaves, seed), strict=True):
            leaf.grad = gradient
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(leaves, clip_norm)
        optimizer.step()
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_torchs(name: str) -> None:
    settings, clip_norm = OPTIMIZERS[name]["optimizer"], OPTIMIZERS[name].get("clip_norm")
    step = OptimizerStep(settings, settings.learning_rate, clip_norm)
    trained = torchs_training(settings, clip_norm, 5)
    theta, states = trained[0]
    for seed, (expected, expected_states) in enumerate(trained[1:]):
        theta, states = step.taken(theta, draw_like(theta, seed), states)
        torch.testing.assert_close(theta, expected)
        for ours, torch_state in zip(states, expected_states, strict=True):
            assert ours.keys() == torch_state.keys()
            for key, value in ours.items():
                torch.testing.assert_close(value, torch_state[key], check_dtype=False)


@pytest.mark.parametrize("taken", [0, 1, 4])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_step_and_its_derivative_are_those_of_the_step(name: str, taken: int) -> None:
    settings, clip_norm = OPTIMIZERS[name]["optimizer"], OPTIMIZERS[name].get("clip_norm")
    values, found = torchs_training(settings, clip_norm, taken)[-1]
    theta, states = dict(zip("ab", values, strict=True)), dict(zip("ab", found, strict=True))
    step = OptimizerStep(settings, settings.learning_rate, clip_norm)
    first = (
        LinearStep(settings, settings.learning_rate, theta, states)
        if isinstance(settings, SGD) and clip_norm is None
        else CurvedStep(step, theta, states)
    )
    rows = [draw_like(values, 10 + row) for row in range(3)]
    directions = [draw_like(values, 20 + row) for row in range(3)]
    stack = {n: torch.stack([row[i] for row in rows]) for i, n in enumerate("ab")}
    v = {n: torch.stack([row[i] for row in directions]) for i, n in enumerate("ab")}
    updated, pull = first.taken(stack)
    w = pull(v)
    for row, (gradients, direction) in enumerate(zip(rows, directions, strict=True)):
        leaves = [gradient.requires_grad_() for gradient in gradients]
        expected, _ = step.taken(values, leaves, found)
        slopes = torch.autograd.grad(expected, leaves, direction)
        alone, own_pull = first.taken(dict(zip("ab", [g.detach() for g in leaves], strict=True)))
        own = own_pull(dict(zip("ab", direction, strict=True)))
        for i, n in enumerate("ab"):
            for ours in (alone[n], updated[n][row]):
                torch.testing.assert_close(ours.detach(), expected[i].detach())
            for slope in (own[n], w[n][row]):
                torch.testing.assert_close(first.factor * slope, slopes[i])


# Starts


@pytest.mark.parametrize("name", ["adamw", "sgd nesterov"])
def test_snapshots_are_states_of_one_training(name: str) -> None:
    schedule = None if name.startswith("sgd") else evomal.Cosine(warmup=0.25)
    task = image_task(F64, **OPTIMIZERS[name], schedule=schedule)
    settings = replace(FROM_TRAINING, meta_snapshots=3, testing_steps=16)
    starts = snapshots(task, settings, 4)
    places = [0, 5, 10] if name.startswith("sgd") else [4, 8, 12]
    assert [start.progress for start in starts] == [place / 16 for place in places]
    rates = [1.0 if schedule is None else schedule(place / 16) for place in places]
    assert [start.rate for start in starts] == rates
    tensors: list[dict[str, Tensor]] = []

    def observe(learner: nn.Module) -> None:
        found = (*learner.named_parameters(), *learner.named_buffers())
        tensors.append({key: value.detach().clone() for key, value in found})

    train(
        task,
        task.task_loss,
        16,
        stream=(4, "meta-start", task.name),
        observers=dict.fromkeys(places, observe),
    )
    for start, expected in zip(starts, tensors, strict=True):
        learner = start.learner(task)
        assert learner.training
        found = dict((*learner.named_parameters(), *learner.named_buffers()))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    state = starts[1].states["layers.0.weight"]
    if name == "adamw":
        assert state["step"] == 8
        assert state["exp_avg_sq"].min() > 0
    else:
        assert state["momentum_buffer"].abs().max() > 0
        assert not any(starts[0].states.values())


def test_no_snapshot_of_a_warm_up_has_a_rate_of_0() -> None:
    task = regression_task(optimizer=SGD(), schedule=evomal.Cosine(warmup=0.25))
    assert min(start.rate for start in snapshots(task, FROM_TRAINING, 0)) > 0


def test_meta_steps_draw_from_all_snapshots_by_the_runs_seed() -> None:
    task = regression_task(optimizer=AdamW())
    settings = replace(FROM_TRAINING, meta_steps=40)
    schedules = [MetaSchedule(task, settings, seed) for seed in (0, 0, 1)]
    first, again, other = ([one.step(i).progress for i in range(40)] for one in schedules)
    assert first == again != other
    assert set(first) == {start.progress for start in snapshots(task, settings, 0)}


def test_small_numbers_of_steps_and_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for optimizer in (AdamW(), SGD()):
        task = regression_task(optimizer=optimizer)
        for steps in (1, 2, 5):
            settings = EvaluationSettings(testing_steps=steps, meta_start="training")
            starts = snapshots(task, settings, 0)
            places = [start.progress for start in starts]
            assert len(set(places)) == len(places) <= steps
            assert places == sorted(places)
    monkeypatch.setattr(meta_start, "MOST_BYTES", 1000)  # of 3 * 4 * 26 bytes each
    assert len(snapshots(task, EvaluationSettings(meta_start="training"), 0)) == 3
    monkeypatch.setattr(meta_start, "MOST_BYTES", 1)
    assert len(snapshots(task, EvaluationSettings(meta_start="training"), 0)) == 1


def diverging(after: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A task loss that is infinite from some call on."""
    calls = 0

    def loss(pred: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        value = (pred - target).square().mean()
        return value if calls <= after else value * torch.inf

    return loss


def test_only_states_before_a_divergence_count() -> None:
    task = regression_task(F64, optimizer=AdamW())
    expected = snapshots(task, FROM_TRAINING, 0)
    assert len(expected) == 3
    for after, count in [(9, 3), (8, 2), (3, 1), (2, 0)]:
        task.task_loss = diverging(after)
        found = snapshots(task, FROM_TRAINING, 0)
        assert [start.progress for start in found] == [s.progress for s in expected[:count]]


@pytest.mark.parametrize("engine", ENGINES)
def test_without_any_state_every_loss_diverges(engine: Any) -> None:
    task = regression_task(F64, optimizer=AdamW(0.1))
    settings = replace(FROM_TRAINING, engine=engine)
    assert ENGINES[engine].problem(task) is None
    task.task_loss = diverging(0)
    bench = Workbench([task], settings, 0)
    for found in ENGINES[engine](bench).tune(losses_for(task)):
        assert isinstance(found, DivergedError)
        assert "the training under the task loss" in str(found)


@pytest.mark.parametrize(
    ("optimizer", "meta_start", "base_steps", "fresh"),
    [
        (SGD(), "auto", 1, True),
        (SGD(), "fresh", 1, True),
        (SGD(), "training", 1, False),
        (Adam(), "auto", 1, False),
        (AdamW(), "training", 3, False),
        (AdamW(), "fresh", 3, True),
    ],
)
def test_where_meta_steps_start(
    optimizer: OptimizerSettings, meta_start: Any, base_steps: int, fresh: bool
) -> None:
    task = regression_task(optimizer=optimizer)
    settings = replace(FROM_TRAINING, meta_start=meta_start, base_steps=base_steps)
    assert starts_fresh(task, settings) is fresh
    step = MetaSchedule(task, settings, 0).step(0)
    expected = task.new_model(derive_seed(0, "meta-step", task.name, 0))
    same = all(map(torch.equal, step.learner.parameters(), expected.parameters()))
    assert same is fresh
    assert (not step.states) is fresh


def test_fresh_starts_are_refused_where_nothing_can_be_learned() -> None:
    task = regression_task(optimizer=AdamW())
    with pytest.raises(InputError, match=r"With AdamW, .* set meta_start to training, or base_st"):
        evomal.search(task, settings=tiny_settings(meta_start="fresh"))
    with pytest.raises(InputError, match="meta_start must be auto, fresh or training"):
        replace(FROM_TRAINING, meta_start="later").validate()  # type: ignore[arg-type]


# Engines


@pytest.mark.parametrize("name", ["adamw", "adamw clipped", "sgd clipped"])
@pytest.mark.parametrize("engine", ["batched", "stacked"])
def test_engines_agree(engine: str, name: str) -> None:
    tasks = [small_task("softmax"), small_task("softmax", "other")]
    for task in tasks:
        task.optimizer = OPTIMIZERS[name]["optimizer"]
        task.clip_norm = OPTIMIZERS[name].get("clip_norm")
    check_engine(ENGINES[engine], tasks)


@pytest.mark.parametrize("make", [regression_task, image_task, *AWKWARD])
def test_learners_support_with_adamw_what_they_support_with_sgd(make: Callable[..., Task]) -> None:
    task = make(optimizer=AdamW())
    assert forward_mode_problem(task) is None
    assert all(engine.problem(task) is None for engine in ENGINES.values())
    settings, _ = with_engine(tiny_settings(), [task], tunes=True)
    assert settings.engine == "batched"


def test_a_search_with_adamw_learns_weights(tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"clip_norm": 10.0, "schedule": evomal.Cosine(warmup=0.1)}
    task = regression_task(optimizer=AdamW(0.01), **recipe)
    settings = {**TINY, "meta_learning_rate": 0.05, "progress": False}
    run = evomal.search(task, run_dir=tmp_path / "run", **settings)
    learned = [outcome.loss for outcome in run.archive.hall_of_fame.values() if outcome.loss]
    assert max((loss.phi - 1).abs().max() for loss in learned) > 0.05  # not only drawn
