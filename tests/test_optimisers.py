"""Base optimisers, schedules and clipping in ordinary training: as in a plain torch loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evomal
from evomal import (
    SGD,
    Adam,
    AdamW,
    Cosine,
    GPLFLSettings,
    InputError,
    Milestones,
    SymbolicLoss,
    Task,
    load_task,
)
from evomal.seeding import derive_generator, derive_seed
from evomal.training.engines.choice import with_engine
from evomal.training.loop import halved_training, partial_training, performance, train
from evomal.training.meta_testing import compare
from evomal.training.numerics import draw_batches
from evomal.training.settings import EvaluationSettings, TrainingSettings
from evomal.training.stack import stacked_training
from tasks_for_tests import PLAIN, VARIED_TASKS, image_task, regression_task

STREAM = (3, "test")
STEPS = 12
SQUARE = SymbolicLoss("square(sub(y, f))")
ABSOLUTE = SymbolicLoss("abs(sub(y, f))")


def warm_cosine(step: int) -> float:
    """A warm-up of a quarter of the steps and a cosine, written in steps."""
    warmup = STEPS // 4
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup)))


OPTIMISERS: dict[str, tuple[Any, Callable[..., torch.optim.Optimizer]]] = {
    "SGD": (
        None,
        partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4),
    ),
    "SGD with dampening": (
        SGD(0.02, 0.8, False, 0.0, 0.3),
        partial(torch.optim.SGD, lr=0.02, momentum=0.8, dampening=0.3),
    ),
    "Adam": (Adam(), torch.optim.Adam),
    "Adam with decay": (
        Adam(0.01, (0.8, 0.9), 1e-6, 0.1),
        partial(torch.optim.Adam, lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1),
    ),
    "AdamW": (AdamW(), torch.optim.AdamW),
    "AdamW with amsgrad": (
        AdamW(0.003, amsgrad=True, weight_decay=0.3),
        partial(torch.optim.AdamW, lr=0.003, amsgrad=True, weight_decay=0.3),
    ),
}
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip_norm": 0.3},
    "cosine": {"schedule": Cosine(warmup=0.25)},
    "both": {"clip_norm": 0.3, "schedule": Cosine(warmup=0.25)},
}


def small_network() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 1))


@pytest.fixture(scope="module")
def diabetes(data_dir: Path) -> Callable[..., Task]:
    """The data of diabetes/mlp, a small network and another recipe."""
    real = load_task("diabetes/mlp", data_dir=data_dir)
    assert real.test is not None
    return partial(Task, small_network, real.train, real.validation, real.test, link="identity")


def plain_loop(
    task: Task,
    make: Callable[[Any], torch.optim.Optimizer],
    clip_norm: float | None,
    factor: Callable[[int], float],
) -> nn.Module:
    """Training as one would write it, on the stream's batches."""
    learner = task.new_model(derive_seed(*STREAM, "theta"))
    optimizer = make(learner.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    rng, rows = derive_generator(*STREAM, "batches"), len(task.train)
    for batch in draw_batches(rng, rows, task.batch_size, STEPS, task.device):
        optimizer.zero_grad()
        value = nn.functional.mse_loss(learner(task.train.inputs[batch]), task.train.targets[batch])
        value.backward()  # type: ignore[no-untyped-call]
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(learner.parameters(), clip_norm)
        optimizer.step()
        scheduler.step()
    return learner


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_training_is_a_plain_torch_loop_to_the_last_bit(
    name: str, recipe: str, diabetes: Callable[..., Task]
) -> None:
    settings, make = OPTIMISERS[name]
    given = RECIPES[recipe]
    task = diabetes(optimizer=settings, task_loss=nn.functional.mse_loss, **given)
    ours = train(task, task.task_loss, STEPS, stream=STREAM)
    factor = warm_cosine if "schedule" in given else lambda step: 1.0
    theirs = plain_loop(task, partial(make, fused=True), given.get("clip_norm"), factor)
    assert same_bits(ours, theirs)
    before = task.new_model(derive_seed(*STREAM, "theta"))
    assert not any(map(torch.equal, ours.parameters(), before.parameters()))


def test_a_function_may_make_any_torch_optimizer(diabetes: Callable[..., Task]) -> None:
    def groups(parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        matrices = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim <= 1]
        own = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "lr": 0.01}]
        return torch.optim.NAdam(own, lr=0.001)

    task = diabetes(optimizer=groups, task_loss=nn.functional.mse_loss, **RECIPES["both"])
    assert task.learning_rate == 0.001
    ours = train(task, task.task_loss, STEPS, stream=STREAM)
    assert same_bits(ours, plain_loop(task, lambda p: groups(list(p)), 0.3, warm_cosine))
    ours = train(task, task.task_loss, STEPS, stream=STREAM, rate=0.5)
    theirs = plain_loop(task, lambda p: groups(list(p)), 0.3, lambda step: 0.5 * warm_cosine(step))
    assert same_bits(ours, theirs)


# Schedules


@pytest.mark.parametrize("warmup", [0.0, 0.25])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_a_cosine_rises_and_falls(warmup: float, final: float) -> None:
    schedule = Cosine(warmup, final)
    factors = [schedule(i / 100) for i in range(100)]
    peak = round(100 * warmup)
    assert factors[peak] == max(factors) == 1.0
    assert factors[:peak] == pytest.approx([i / 25 for i in range(peak)])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    middle = (peak + 100) // 2
    assert schedule((peak + 100) / 200) == pytest.approx((1 + final) / 2), middle
    assert schedule(1.0) == pytest.approx(final)


def test_milestones_multiply_the_factor() -> None:
    schedule = Milestones([0.5, 0.8], factor=0.5)
    assert [schedule(i / 10) for i in range(10)] == [1.0] * 5 + [0.5] * 3 + [0.25] * 2
    assert Milestones([0.5, 0.8]) == Milestones((0.5, 0.8), 0.1)


def rates_of(call: Callable[[], object]) -> list[float]:
    """The learning rates of all steps of SGD in a call."""
    rates: list[float] = []
    step = torch.optim.SGD.step

    def noting(self: torch.optim.SGD, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", noting)
        call()
    return rates


def half(progress: float) -> float:
    """A schedule that stops training in the middle."""
    return float(progress < 0.5)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_schedule_extends_over_every_training(stacked: bool) -> None:
    def fitness(task: Task) -> object:
        if stacked:
            return stacked_training(task, [SQUARE, ABSOLUTE], 8, 0)
        return partial_training(task, SQUARE, 8, 0)

    task = regression_task(schedule=half)
    assert rates_of(lambda: fitness(task)) == [0.1] * 4 + [0.0] * 4
    assert rates_of(lambda: compare(task, SQUARE, [0], steps=4)) == [0.1, 0.1, 0.0, 0.0] * 2
    late = regression_task(schedule=Milestones([0.5]))
    assert rates_of(lambda: fitness(late)) == [0.1] * 8
    tested = rates_of(lambda: compare(late, SQUARE, [0], steps=4))
    assert tested == pytest.approx([0.1, 0.1, 0.01, 0.01] * 2)


def test_a_schedule_that_fails_later_is_told() -> None:
    task = regression_task(schedule=lambda progress: 1.0 if progress != 0.875 else -1.0)
    with pytest.raises(InputError, match=r"factor at progress 0\.875 must be at least 0, got -1"):
        partial_training(task, SQUARE, 8, 0)


# Stacked trainings


@pytest.mark.parametrize(
    ("kind", "name", "steps"),
    [
        *(("regression", name, steps) for name in OPTIMISERS for steps in ("plain", "both")),
        ("SharedGradients", "SGD", "both"),
        ("TiedFrozenUnused", "AdamW with amsgrad", "both"),
        ("batch normalisation and dropout", "AdamW", "both"),
    ],
)
def test_stacked_trainings_are_ordinary_ones(kind: str, name: str, steps: str) -> None:
    metric = nn.functional.cross_entropy if "batch" in kind else nn.functional.mse_loss
    recipe = {"optimizer": OPTIMISERS[name][0], "metric": metric, **RECIPES[steps]}
    task = VARIED_TASKS[kind](**recipe)
    forms = "square(sub(y, f))", "mul(square(sub(y, f)), add(1, 1))", "abs(sub(y, f))"
    losses = [SymbolicLoss(form, link=task.link) for form in forms]
    worst = [halved_training(task, loss, 9, 5, (math.inf, math.inf))[0] for loss in losses]
    bars = sum(sorted(worst)[1:]) / 2, math.inf  # so that one leaves the stack
    ordinary = [halved_training(task, loss, 9, 5, bars) for loss in losses]
    stacked = stacked_training(task, losses, 9, 5, bars)
    assert [len(curve) for curve in stacked] == [len(curve) for curve in ordinary]
    assert min(map(len, stacked)) == 1
    for ours, theirs in zip(stacked, ordinary, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-8)


def test_a_diverged_learner_leaves_the_clipped_others_alone() -> None:
    task = regression_task(torch.float64, clip_norm=0.1)
    exploding = SymbolicLoss("square(" * 12 + "sub(add(y, add(1, 1)), f)" + ")" * 12)
    bad, good = stacked_training(task, [exploding, SQUARE], 8, 0)
    assert bad == (math.inf,)
    assert good == pytest.approx((partial_training(task, SQUARE, 8, 0),), rel=1e-9)


# Functions in searches


def rmsprop(parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(parameters, lr=0.01)


def test_a_function_in_a_search_without_weights(tmp_path: Path) -> None:
    task = regression_task(optimizer=rmsprop, schedule=half)
    settings = GPLFLSettings(population_size=3, generations=2, testing_steps=5)
    run = evomal.search(task, method="gp-lfl", settings=settings, run_dir=tmp_path / "run")
    fitness = run.best.fitness
    assert fitness == pytest.approx(partial_training(task, run.best.loss, 5, run.facts.seed))
    described = run.facts.tasks[0].description["optimizer"]
    assert (described["class"], described["learning_rate"]) == ("RMSprop", 0.01)
    result = compare(task, SQUARE, [0], steps=5, tune=["learning-rate"])
    assert result.tuned is not None
    (recipe,) = result.tuned.task_loss.recipes
    assert recipe is not None
    factor = recipe.learning_rate / 0.01
    learner = train(task, task.task_loss, 5, stream=(0, "meta-testing", task.name), rate=factor)
    assert task.test is not None
    assert result.tuned.task_loss.values == pytest.approx([performance(task, learner, task.test)])


def test_a_function_is_refused_where_weights_are_learned(tmp_path: Path) -> None:
    message = "'test/identity' is a function, but the weights of losses .* such as gp-lfl"
    with pytest.raises(InputError, match=message):
        evomal.search(regression_task(optimizer=rmsprop), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("engine", ["stacked", "batched"])
def test_a_function_is_not_for_groups(engine: Any) -> None:
    task = regression_task(optimizer=rmsprop)
    with pytest.raises(InputError, match=r"engine \w+ \(its optimizer is a function\); use the"):
        with_engine(TrainingSettings(engine=engine), [task], tunes=False)
    assert with_engine(EvaluationSettings(), [task], tunes=False).settings.engine == "loop"


# Identity


def test_recipes_are_told_apart() -> None:
    recipes: list[dict[str, Any]] = [
        {},
        {"optimizer": Adam(0.01)},
        {"optimizer": AdamW(0.01)},
        {"optimizer": AdamW(0.01, betas=(0.8, 0.9))},
        {"optimizer": rmsprop},
        {"optimizer": lambda p: torch.optim.RMSprop(p, lr=0.01)},
        {"optimizer": lambda p: torch.optim.RMSprop(p, lr=0.02)},
        {"schedule": Cosine()},
        {"schedule": Cosine(0.1)},
        {"schedule": Milestones([0.5])},
        {"schedule": half},
        {"schedule": lambda progress: 1 - progress},
        {"schedule": lambda progress: 1 - progress / 2},
        {"clip_norm": 1.0},
    ]
    described = [regression_task(**recipe).description() for recipe in recipes]
    assert [json.loads(json.dumps(one, allow_nan=False)) for one in described] == described
    assert len({json.dumps(one) for one in described}) == len(recipes)


def test_published_recipes_have_a_class() -> None:
    described = image_task(optimizer=PLAIN).description()
    assert described["optimizer"] == {
        "class": "SGD",
        "learning_rate": 0.1,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "dampening": 0.0,
    }
    assert described["schedule"] is described["clip norm"] is None
