"""Algorithm 2: training against a plain loop, metrics, divergence, batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evomal.errors import InputError
from evomal.losses.symbolic import SymbolicLoss
from evomal.seeding import derive_generator, derive_seed, isolated_rng
from evomal.tasks.data import Data
from evomal.tasks.optimizers import SGD
from evomal.tasks.task import Task
from evomal.training.engines.choice import engine_on
from evomal.training.filters import _optimize_outputs, correlation, correlations
from evomal.training.loop import partial_training, performance, train
from evomal.training.numerics import (
    DeadlineError,
    DivergedError,
    deadline,
    draw_batches,
    require_finite,
)
from evomal.training.optimizing import new_optimizer
from evomal.training.raw_outputs import raw_outputs
from evomal.training.settings import EvaluationSettings
from evomal.training.workbench import Workbench
from run_helpers import optimize_weights
from tasks_for_tests import (
    PLAIN,
    TASK_BY_LINK,
    ConvNet,
    Perceptron,
    classification_task,
    image_task,
    regression_task,
)

CPU = torch.device("cpu")
STREAM = (3, "test")
SQUARED_ERROR = SymbolicLoss("square(sub(y, f))")
TWO_STEPS = EvaluationSettings(meta_steps=2, rejection_steps=2)


def vector(learner: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(learner.parameters()).detach()


def plain_loop(task: Task, steps: int, settings: SGD) -> nn.Module:
    """Training as one would write it, on the stream's batches."""
    learner = task.new_model(derive_seed(*STREAM, "theta"))
    sgd = torch.optim.SGD(
        learner.parameters(),
        settings.learning_rate,
        settings.momentum,
        settings.dampening,
        settings.weight_decay,
        settings.nesterov,
        fused=False,
    )
    rng = derive_generator(*STREAM, "batches")
    with isolated_rng(CPU, derive_seed(*STREAM, "layers")):
        for rows in draw_batches(rng, len(task.train), task.batch_size, steps, CPU):
            sgd.zero_grad()
            pred = learner(task.train.inputs[rows])
            value = task.task_loss(pred, task.train.targets[rows])
            value.backward()  # type: ignore[no-untyped-call]
            sgd.step()
    return learner


@pytest.mark.parametrize(
    "settings",
    [PLAIN, SGD(0.05), SGD(0.05, 0.9, False, 0.1), SGD(0.05, 0.8, False, 0.01, 0.3)],
    ids=["plain", "nesterov decay", "momentum decay", "dampening"],
)
@pytest.mark.parametrize("make", [*TASK_BY_LINK.values(), image_task], ids=lambda f: f.__name__)
def test_training_is_a_plain_loop(make: Callable[..., Task], settings: SGD) -> None:
    task = make(torch.float64, optimizer=settings)
    learner = train(task, task.task_loss, 30, stream=STREAM)
    expected = plain_loop(task, 30, settings)
    torch.testing.assert_close(vector(learner), vector(expected), rtol=1e-6, atol=1e-9)
    assert all(module.training for module in learner.modules())
    other = replace(settings, learning_rate=0.01)
    learner = train(task, task.task_loss, 5, stream=STREAM, rate=0.01 / settings.learning_rate)
    torch.testing.assert_close(vector(learner), vector(plain_loop(task, 5, other)))


def test_equal_streams_train_alike_and_leave_the_global_generator() -> None:
    task = image_task()
    state = torch.random.get_rng_state()
    first, again, other_seed, other_name = (
        vector(train(task, task.task_loss, 10, stream=stream))
        for stream in [(0, "a"), (0, "a"), (1, "a"), (0, "b")]
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.isclose(first, other_seed).all()
    assert not torch.isclose(first, other_name).all()


def test_fewer_steps_are_the_beginning_of_more() -> None:
    task, seen = regression_task(), list[Tensor]()

    def loss(pred: Tensor, target: Tensor) -> Tensor:
        seen.append(pred.detach())
        return task.task_loss(pred, target)

    for steps in (7, 3):
        train(task, loss, steps, stream=STREAM)
    assert len(seen) == 10
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], seen[7:], strict=True))


@pytest.mark.parametrize("make", TASK_BY_LINK.values(), ids=TASK_BY_LINK)
def test_training_lowers_the_metric(make: Callable[..., Task]) -> None:
    task = make(optimizer=SGD())
    before, after = (
        performance(task, train(task, task.task_loss, steps, stream=STREAM), task.validation)
        for steps in (0, 200)
    )
    assert after < 0.7 * before


# Divergence


def at_step(wrong: int, value: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Squared error with `value` of the prediction added in one step."""
    count = iter(range(1000))

    def loss(pred: Tensor, target: Tensor) -> Tensor:
        plain = (pred - target).square().mean()
        return plain + value(pred) if next(count) == wrong else plain

    return loss


@pytest.mark.parametrize(
    "loss",
    [
        lambda pred, target: -1e30 * (pred - target).square().mean(),
        SymbolicLoss("square(square(square(square(square(sub(add(y, add(1, 1)), f))))))"),
        at_step(3, lambda pred: torch.full((), float("nan"))),
        at_step(0, lambda pred: torch.full((), float("inf"))),
        at_step(27, lambda pred: (0 * pred).sqrt().sum()),
    ],
    ids=["explodes", "expression", "NaN loss", "infinite loss", "NaN gradient at the end"],
)
def test_a_non_finite_training_is_a_divergence(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(DivergedError):
        train(regression_task(), loss, 28, stream=STREAM)


@pytest.mark.parametrize(
    "loss",
    [
        lambda pred, target: target.sum(),
        lambda pred, target: (pred.detach() - target).square().mean(),
        SymbolicLoss("square(y)"),
    ],
    ids=["target only", "detached", "expression"],
)
def test_a_loss_that_ignores_the_prediction_is_an_input_error(loss: Any) -> None:
    with pytest.raises(InputError, match="does not depend on the prediction"):
        train(regression_task(), loss, 2, stream=STREAM)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_require_finite_finds_any_bad_element(bad: float) -> None:
    with pytest.raises(DivergedError):
        require_finite([torch.ones(3), torch.tensor([[1.0, bad], [2.0, 3.0]]), torch.zeros(())])
    with pytest.raises(DivergedError):
        require_finite([torch.tensor([float("inf"), bad, -float("inf")], dtype=torch.float64)])
    with pytest.raises(DivergedError):
        require_finite([torch.full((10,), 3e38), torch.tensor(bad)])


def test_require_finite_takes_huge_values_whose_sum_overflows() -> None:
    huge = torch.full((10,), 3e38, requires_grad=True)
    assert huge.sum().isinf()
    require_finite([huge, -huge, torch.tensor(2.0, dtype=torch.float64)])
    require_finite(tensor for tensor in [huge, torch.zeros(0)])


# Metrics


def test_performance_is_of_the_whole_split_in_eval_mode() -> None:
    task = image_task()
    rng = torch.Generator().manual_seed(0)
    data = Data(torch.randn(1500, 1, 4, 4, generator=rng), torch.arange(1500) % 3)
    learner = train(task, task.task_loss, 5, stream=STREAM)
    noisy = learner(data.inputs)
    sizes: list[int] = []
    hook = learner.register_forward_hook(lambda _, x, __: sizes.append(len(x[0])))
    found = performance(task, learner, data)
    hook.remove()
    with torch.no_grad():
        pred = learner.eval()(data.inputs)
    assert len(sizes) > 1
    assert sum(sizes) == 1500
    assert not torch.isclose(noisy, pred).all()
    assert found == pytest.approx(float((pred.argmax(1) != data.targets).float().mean()), abs=1e-7)


def test_a_metric_may_be_any_function_of_the_whole_split() -> None:
    def median(pred: Tensor, target: Tensor) -> float:
        assert not pred.requires_grad
        return float(np.median(np.abs(pred.numpy() - target.numpy())))

    task = regression_task(metric=median)
    learner = task.new_model(0)
    with torch.no_grad():
        pred = learner(task.validation.inputs)
    expected = (pred - task.validation.targets).abs().flatten().sort().values[11:13].mean()
    assert performance(task, learner, task.validation) == pytest.approx(float(expected))


@pytest.mark.parametrize("value", [float("nan"), torch.tensor(float("inf"))], ids=str)
def test_a_non_finite_metric_is_a_divergence(value: Any) -> None:
    task = regression_task()
    task.metric = lambda pred, target: value
    with pytest.raises(DivergedError):
        performance(task, task.new_model(0), task.validation)


def test_a_non_finite_prediction_is_a_divergence_though_the_metric_is_finite() -> None:
    task = classification_task()
    learner = task.new_model(0)
    with torch.no_grad():
        learner.get_parameter("layers.2.bias")[1] = float("nan")
        pred = learner(task.validation.inputs)
    assert np.isfinite(float(task.metric(pred, task.validation.targets)))
    with pytest.raises(DivergedError):
        performance(task, learner, task.validation)


def test_partial_training_is_the_metric_after_training_from_the_runs_start() -> None:
    tasks = [regression_task(), regression_task(name="other", batch_size=5, optimizer=SGD(0.02))]
    for task in tasks:
        value = partial_training(task, SQUARED_ERROR, 10, seed=4)
        learner = train(task, SQUARED_ERROR, 10, stream=(4, "fitness", task.name))
        assert value == performance(task, learner, task.validation)
        assert value != partial_training(task, SQUARED_ERROR, 10, seed=5)
        assert value != partial_training(task, SymbolicLoss("abs(sub(y, f))"), 10, seed=4)


STAGES: dict[str, Callable[[Task], object]] = {
    "training": lambda task: train(task, SQUARED_ERROR, 3, stream=STREAM),
    "local search": lambda task: optimize_weights(Workbench([task], TWO_STEPS, 0), SQUARED_ERROR),
    "rejection": lambda task: correlation(Workbench([task], TWO_STEPS, 0), SQUARED_ERROR),
    "metric": lambda task: performance(task, task.new_model(0), task.validation),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_ends_at_its_deadline(stage: str) -> None:
    task = regression_task()
    with pytest.raises(DeadlineError), deadline(0):
        STAGES[stage](task)
    with deadline(1e6):
        STAGES[stage](task)
    with deadline(0), deadline(None):  # the innermost counts
        STAGES[stage](task)
    STAGES[stage](task)


def test_dropout_and_statistics_work_while_training() -> None:
    task = image_task()
    learner = train(task, task.task_loss, 5, stream=STREAM)
    fresh = ConvNet().get_buffer("layers.1.running_mean")
    assert not torch.isclose(learner.get_buffer("layers.1.running_mean"), fresh).any()


# Batches


@pytest.mark.parametrize(("rows", "size"), [(50, 8), (8, 8), (5, 8), (1, 1)])
def test_batches_are_distinct_rows_and_do_not_depend_on_how_many_follow(
    rows: int, size: int
) -> None:
    short, long = (draw_batches(np.random.default_rng(0), rows, size, n, CPU) for n in (3, 90))
    assert long.shape == (90, min(rows, size))
    assert long.dtype == torch.int64
    assert torch.equal(short, long[:3])
    assert all(len(set(batch.tolist())) == min(rows, size) for batch in long)
    assert set(long.flatten().tolist()) == set(range(rows))


def test_batches_cover_the_rows_evenly() -> None:
    batches = draw_batches(np.random.default_rng(1), 40, 8, 2000, CPU)
    counts = batches.flatten().bincount(minlength=40).double()
    # Each count has mean 400 and standard deviation √(2000 · 0.2 · 0.8) ≈ 18.
    assert (counts - 400).abs().max() < 5 * 18
    assert counts.std() > 4
    pairs = (batches == 0).any(1) & (batches == 1).any(1)
    assert abs(float(pairs.double().mean()) - 8 * 7 / (40 * 39)) < 0.02


class InPlace(nn.Module):
    """Works in the memory of its inputs, as with ReLU(inplace=True) as the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.sub_(0.5))
        return out


def test_a_model_that_works_in_place_does_not_change_the_data() -> None:
    inputs, targets = torch.randn(20, 3), torch.randn(20, 1)
    before = inputs.clone()
    task = Task(InPlace, (inputs, targets), (inputs, targets), link="identity")
    learner = train(task, SQUARED_ERROR, 3, stream=STREAM)
    values = {performance(task, learner, task.validation) for _ in range(3)}
    optimize_weights(Workbench([task], TWO_STEPS, 0), SQUARED_ERROR)
    assert len(values) == 1
    assert torch.equal(inputs, before)
    assert torch.equal(task.train.inputs, before)


# Every parameter moves, in every type (torch's fused SGD skips 16-bit numbers on CPUs)

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", [PLAIN, SGD(), SGD(0.01, 0.9, False, 0.0, 0.5)])
def test_every_element_moves_as_in_torchs_plain_sgd(dtype: torch.dtype, settings: SGD) -> None:
    values = torch.linspace(1, 2, 150).to(dtype)
    ours, theirs = (values.clone().requires_grad_() for _ in range(2))
    plain = torch.optim.SGD(
        [theirs],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        dampening=settings.dampening,
        foreach=False,
        fused=False,
    )
    sgd = new_optimizer(regression_task(optimizer=settings), [ours])
    for _ in range(3):
        for parameter in (ours, theirs):
            parameter.grad = 2 * torch.ones_like(parameter)
        sgd.step()
        plain.step()
    assert bool((ours.detach() < values).all())
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_training_changes_every_parameter_in_every_type(dtype: torch.dtype) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 1)).to(dtype)

    task = regression_task(model=model, optimizer=SGD(0.05))
    before = task.new_model(derive_seed(*STREAM, "theta"))
    after = train(task, task.task_loss, 10, stream=STREAM)
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        assert (old != new).double().mean() > 0.6  # in 16 bits, small steps are rounded off
    assert performance(task, after, task.validation) < 0.5 * performance(
        task, before, task.validation
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_outputs_are_optimised_in_every_type(dtype: torch.dtype) -> None:
    task = regression_task(dtype, model=partial(Perceptron, 1, dtype))
    outputs = raw_outputs(task, 32, 0)
    (found,) = _optimize_outputs([SymbolicLoss("square(sub(y, f))")], task, outputs, 3)
    assert found.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert bool((found - outputs.inputs).isfinite().all())
    assert bool((found != outputs.inputs).all())


def test_a_metric_that_works_in_place_changes_nothing() -> None:
    def spoiling(pred: Tensor, target: Tensor) -> float:
        error = float((pred - target).square().mean())
        pred.zero_()
        target.fill_(7.0)
        return error

    plain, task = regression_task(), regression_task(metric=spoiling)
    learner = task.new_model(0)
    assert [performance(task, learner, task.validation) for _ in range(2)] == [
        pytest.approx(performance(plain, learner, plain.validation))
    ] * 2
    assert torch.equal(task.validation.targets, plain.validation.targets)
    losses = [SQUARED_ERROR, SymbolicLoss("abs(sub(y, f))")]
    settings = EvaluationSettings(rejection_steps=5)
    ours, theirs = (correlations(Workbench([one], settings, 0), losses) for one in (task, plain))
    assert [one.g for one in ours] == [pytest.approx(one.g) for one in theirs]


def test_a_task_loss_that_works_in_place_judges_all_losses_of_a_group_alike() -> None:
    def spoiling(pred: Tensor, target: Tensor) -> Tensor:
        error = (pred - target).square().mean()
        target.fill_(7.0)
        return error

    losses = [SQUARED_ERROR, SymbolicLoss("abs(sub(y, f))")]
    settings = EvaluationSettings(meta_steps=3, engine="batched")
    tasks = regression_task(task_loss=spoiling), regression_task()
    ours, theirs = (engine_on(Workbench([task], settings, 0)).tune(losses) for task in tasks)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
