"""The rejection protocol and gradient equivalence against plain computations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from torch import Tensor

from evomal.expressions.expression import Expression
from evomal.losses.base import Loss
from evomal.losses.form import Link
from evomal.losses.symbolic import SymbolicLoss
from evomal.seeding import derive_seed, isolated_rng
from evomal.tasks.data import Data
from evomal.tasks.task import Task
from evomal.training.filters import correlation, gradient_key, gradient_norms
from evomal.training.numerics import DivergedError
from evomal.training.raw_outputs import raw_outputs
from evomal.training.settings import EvaluationSettings
from evomal.training.workbench import Workbench
from strategies import fast, weighted_losses
from tasks_for_tests import (
    PLAIN,
    TASK_BY_LINK,
    binary_task,
    classification_task,
    image_task,
    regression_task,
)

F64 = torch.float64
SETTINGS = EvaluationSettings(rejection_batch=30, rejection_steps=25)
SQUARED_ERROR = "square(sub(y, f))"
CROSS_ENTROPY = "mul(-1, mul(y, log(f)))"
BINARY_CROSS_ENTROPY = "mul(-1, add(mul(y, log(f)), mul(sub(1, y), log(sub(1, f)))))"
GOOD: dict[str, tuple[Callable[..., Task], str, Link]] = {
    "squared error": (regression_task, SQUARED_ERROR, "identity"),
    "cross-entropy": (classification_task, CROSS_ENTROPY, "softmax"),
    "cross-entropy of a conv net": (image_task, CROSS_ENTROPY, "softmax"),
    "binary cross-entropy": (binary_task, BINARY_CROSS_ENTROPY, "sigmoid"),
    "squared error of classes": (classification_task, SQUARED_ERROR, "softmax"),
}


def optimised_by_hand(loss: Loss, outputs: Data, learning_rate: float, steps: int) -> Tensor:
    """ŷ* by Adam as in its paper."""
    pred: Tensor = outputs.inputs.clone()
    m, v = torch.zeros_like(pred), torch.zeros_like(pred)
    for t in range(1, steps + 1):
        leaf = pred.clone().requires_grad_()
        (g,) = torch.autograd.grad(loss(leaf, outputs.targets), leaf)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        pred = pred - learning_rate * m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return pred


# The rejection protocol


@pytest.mark.parametrize(("make", "expression", "link"), GOOD.values(), ids=GOOD)
def test_good_losses_are_kept_and_their_negatives_are_not(
    make: Callable[..., Task], expression: str, link: Link
) -> None:
    task = make(optimizer=replace(PLAIN, learning_rate=0.1))
    good = SymbolicLoss(expression, link=link)
    bad = SymbolicLoss(f"mul(-1, {expression})", link=link)
    assert correlation(Workbench([task], SETTINGS, 0), good) > 0
    assert correlation(Workbench([task], SETTINGS, 0), bad) <= 0


@pytest.mark.parametrize("link", TASK_BY_LINK)
@pytest.mark.parametrize("expression", ["sign(sub(y, f))", "mul(y, sign(f))"])
def test_a_flat_loss_has_no_correlation(expression: str, link: Link) -> None:
    loss = SymbolicLoss(expression, link=link)
    assert correlation(Workbench([TASK_BY_LINK[link]()], SETTINGS, 0), loss) == 0


@pytest.mark.parametrize("own_steps", [True, False])
@pytest.mark.parametrize(("make", "expression", "link"), GOOD.values(), ids=GOOD)
def test_correlation_is_that_of_adam_on_the_outputs(
    make: Callable[..., Task], expression: str, link: Link, own_steps: bool
) -> None:
    task_loss = make().task_loss

    def metric(pred: Tensor, target: Tensor) -> Tensor:
        return task_loss(pred, target).exp()

    task = make(F64, metric=metric, rejection_steps=13)
    settings = replace(SETTINGS, rejection_steps=None if own_steps else 7)
    loss = SymbolicLoss(expression, link=link)
    outputs = raw_outputs(task, settings.rejection_batch, seed=2)
    best = optimised_by_hand(loss, outputs, 0.1, 13 if own_steps else 7)
    g = metric(outputs.inputs, outputs.targets) - metric(best, outputs.targets)
    assert correlation(Workbench([task], settings, 2), loss) == pytest.approx(float(g), rel=1e-6)


def test_correlation_is_the_mean_over_tasks() -> None:
    tasks = [regression_task(), regression_task(name="other", rejection_steps=3)]
    loss = SymbolicLoss(SQUARED_ERROR)
    settings = replace(SETTINGS, rejection_steps=None)
    single = [correlation(Workbench([task], settings, 0), loss) for task in tasks]
    assert single[0] > 2 * single[1] > 0
    assert correlation(Workbench(tasks, settings, 0), loss) == pytest.approx(sum(single) / 2)


def test_non_finite_outputs_are_a_divergence_though_the_metric_hides_them() -> None:
    task = classification_task(F64)
    exploding = SymbolicLoss(
        "square(" * 11 + "add(f, add(y, 1))" + ")" * 11, torch.full((15,), 2.0), link="softmax"
    )
    outputs = raw_outputs(task, 30, 0)
    best = optimised_by_hand(exploding, outputs, 0.1, 2)
    assert best.isnan().any()
    assert 0 <= float(task.metric(best, outputs.targets)) <= 1
    with pytest.raises(DivergedError):
        correlation(Workbench([task], SETTINGS, 0), exploding)
    with pytest.raises(DivergedError):
        gradient_key(Workbench([task], SETTINGS, 0), exploding)


# The untrained outputs


@pytest.mark.parametrize("make", [*TASK_BY_LINK.values(), image_task], ids=lambda f: f.__name__)
def test_untrained_outputs_are_fixed_for_a_run(make: Callable[..., Task]) -> None:
    state = torch.random.get_rng_state()
    task = make()
    first, again = raw_outputs(task, 30, 1), raw_outputs(make(), 30, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert len(first) == 30
    assert not first.inputs.requires_grad
    other = raw_outputs(task, 30, 2)
    assert not torch.isclose(first.inputs, other.inputs).any()
    assert len(raw_outputs(task, 100, 1)) == len(task.train)


def test_untrained_outputs_are_those_of_train_mode() -> None:
    drawn: list[Tensor] = []

    def preprocess(images: Tensor) -> Tensor:
        drawn.append(images)
        return 3 * images

    task = image_task(preprocess=preprocess)
    stream = (1, "raw-outputs", task.name)
    outputs = raw_outputs(task, 30, 1)
    rows = {image.numpy().tobytes() for image in drawn[-1]}
    assert len(rows) == 30
    assert rows <= {image.numpy().tobytes() for image in task.train.inputs}
    learner = task.new_model(derive_seed(*stream, "theta"))
    with torch.no_grad(), isolated_rng(task.device, derive_seed(*stream, "layers")):
        trained, evaluated = learner(3 * drawn[-1]), learner.eval()(3 * drawn[-1])
    assert torch.equal(outputs.inputs, trained)
    assert not torch.isclose(outputs.inputs, evaluated).all(dim=1).any()


# Gradient equivalence


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3)], ids=str)
def test_norms_of_squared_error(shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, *shape, generator=rng, dtype=F64)
    found = gradient_norms(SymbolicLoss(SQUARED_ERROR), Data(pred, target))
    rows = (2 * (pred - target) / pred.numel()).reshape(7, -1)
    torch.testing.assert_close(found, rows.square().sum(dim=1).sqrt())


def test_norms_of_cross_entropy() -> None:
    pred = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    target = torch.arange(7) % 3
    found = gradient_norms(SymbolicLoss(CROSS_ENTROPY, link="softmax"), Data(pred, target))
    rows = torch.softmax(pred, dim=1) - torch.eye(3, dtype=F64)[target]
    torch.testing.assert_close(found, rows.norm(dim=1) / 7, rtol=1e-5, atol=0)


def key(expression: str, *tasks: Task, weights: list[float] | None = None) -> str:
    loss = SymbolicLoss(expression, weights, link=tasks[0].link)
    return gradient_key(Workbench(tasks, SETTINGS, 0), loss)


SAME = {
    "y² + f² − 2yf": (SQUARED_ERROR, "sub(add(square(y), square(f)), mul(y, add(f, f)))"),
    "(f − y)²": (SQUARED_ERROR, "square(sub(f, y))"),
    "(y − f)(y − f)": (SQUARED_ERROR, "mul(sub(y, f), sub(y, f))"),
    "a constant more": (SQUARED_ERROR, "add(1, square(sub(y, f)))"),
    "y² more": (SQUARED_ERROR, "add(square(y), square(sub(y, f)))"),
    "opposite sign": (SQUARED_ERROR, "mul(-1, square(sub(y, f)))"),
    "f + f": ("add(mul(y, f), mul(y, f))", "mul(add(f, f), y)"),
}


@pytest.mark.parametrize("link", TASK_BY_LINK)
@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_losses_of_equal_gradient_norms_have_one_key(one: str, other: str, link: Link) -> None:
    task = TASK_BY_LINK[link](F64)
    assert key(one, task) == key(other, task)


def test_different_gradients_have_different_keys() -> None:
    task = regression_task()
    different = [
        SQUARED_ERROR,
        f"square({SQUARED_ERROR})",
        "abs(sub(y, f))",
        "mul(y, f)",
        "add(f, square(sub(y, f)))",
        "sign(f)",
    ]
    assert len({key(expression, task) for expression in different}) == len(different)


def test_a_key_has_two_significant_digits() -> None:
    task = regression_task(F64)

    def scaled(norm: float) -> str:
        """The key of a loss whose 30 norms are all equal."""
        return key("mul(1, f)", task, weights=[30 * norm, 1.0])

    assert scaled(0.1500) == scaled(0.1513) == scaled(0.1546) == scaled(0.1454)
    assert len({scaled(norm) for norm in (0.15, 0.1557, 0.1443, 1.5, 0.015)}) == 5
    assert scaled(3.20e-9) == scaled(3.23e-9) != scaled(3.3e-9)


def test_a_key_counts_every_task() -> None:
    near = regression_task()
    parts = [Data(data.inputs, data.targets - 100) for data in (near.train, near.validation)]
    far = Task(near.model, *parts, link="identity", name="far")
    # Far below every output, the larger of y and f is f.
    assert key("max(y, f)", far) == key("mul(1, f)", far)
    assert key("max(y, f)", near) != key("mul(1, f)", near)
    assert key("max(y, f)", far, near) != key("mul(1, f)", far, near)
    assert key("max(y, f)", near, far) != key("mul(1, f)", near, far)
    assert key("mul(y, f)", far, near) != key("mul(y, f)", near, far) != key("mul(y, f)", near)


@pytest.mark.parametrize("link", TASK_BY_LINK)
@given(loss=weighted_losses())
@fast
def test_norms_are_those_of_every_row_alone(link: Link, loss: tuple[Expression, Tensor]) -> None:
    expression, phi = loss
    pred, target = OUTPUTS[link].inputs, OUTPUTS[link].targets
    one = SymbolicLoss(expression, phi, link=link)
    rows = []
    for i in range(len(pred)):
        row = pred[i : i + 1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(one(row, target[i : i + 1]), row)
        rows.append(gradient.norm() / len(pred))
    found = gradient_norms(one, OUTPUTS[link])
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-9, atol=1e-12)


OUTPUTS = {link: raw_outputs(make(F64), 6, 0) for link, make in TASK_BY_LINK.items()}
