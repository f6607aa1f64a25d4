"""The built-in base learners: sizes of the paper, shapes, and what the registry says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from evomal.losses.symbolic import SymbolicLoss
from evomal.seeding import isolated_rng
from evomal.tasks.models.alexnet import AlexNet
from evomal.tasks.models.allcnnc import AllCNNC
from evomal.tasks.models.lenet5 import LeNet5
from evomal.tasks.models.logistic import LogisticRegression
from evomal.tasks.models.mlp import MLP
from evomal.tasks.models.preresnet101 import PreResNet101
from evomal.tasks.models.pyramidnet import PyramidNet
from evomal.tasks.models.resnet18 import ResNet18
from evomal.tasks.models.squeezenet import SqueezeNet
from evomal.tasks.models.vgg16 import VGG16
from evomal.tasks.models.wideresnet import WideResNet
from evomal.tasks.optimizers import SGD
from evomal.tasks.registry import TASKS, load_task
from evomal.tasks.task import Task
from evomal.training import meta_schedule
from evomal.training.engines.choice import engine_on
from evomal.training.loop import partial_training, train
from evomal.training.settings import EvaluationSettings
from evomal.training.stack import stacked_training
from evomal.training.support import forward_mode_problem, group_problem
from evomal.training.workbench import Workbench
from run_helpers import optimize_weights

IMAGES = (1, 28, 28)
COLOUR = (3, 32, 32)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    # factory, input shape, outputs, parameters as published or by hand
    "logistic": (lambda: LogisticRegression(784, 10), IMAGES, 10, 7_850),
    "mlp": (lambda: MLP(784, 10), IMAGES, 10, 1_796_010),
    "lenet5": (LeNet5, IMAGES, 10, 44_426),
    "lenet5 of 7 classes": (lambda: LeNet5(7), IMAGES, 7, 44_426 - 3 * 85),
    "table": (lambda: MLP(10, 1), (10,), 1, 11 * 1000 + 1001 * 1000 + 1001),
    "small": (lambda: MLP(3, 2, (4,)), (3,), 2, 16 + 10),
    "alexnet": (lambda: AlexNet(10), COLOUR, 10, 23_272_266),
    "vgg16": (lambda: VGG16(10), COLOUR, 10, 14_728_266),
    "allcnnc": (lambda: AllCNNC(10), COLOUR, 10, 1_372_254),
    "resnet18": (lambda: ResNet18(10), COLOUR, 10, 11_173_962),
    "preresnet101": (lambda: PreResNet101(10), COLOUR, 10, 41_350_730),
    "wideresnet28-10": (lambda: WideResNet(10), COLOUR, 10, 36_479_194),
    "squeezenet": (lambda: SqueezeNet(10), COLOUR, 10, 734_986),
    "pyramidnet": (lambda: PyramidNet(10), COLOUR, 10, 1_772_706),
    "allcnnc of 100 classes": (
        lambda: AllCNNC(100),
        COLOUR,
        100,
        1_372_254 + 90 * (192 + 1 + 2),
    ),
    "resnet18 of 100 classes": (lambda: ResNet18(100), COLOUR, 100, 11_173_962 + 90 * 513),
}

SMALL: dict[str, Callable[[], nn.Module]] = {
    "alexnet": lambda: AlexNet(10, width=4, hidden=32),
    "vgg16": lambda: VGG16(10, width=4),
    "allcnnc": lambda: AllCNNC(10, width=4),
    "resnet18": lambda: ResNet18(10, width=4),
    "preresnet101": lambda: PreResNet101(10, width=4, blocks=(1, 1, 2, 1)),
    "wideresnet": lambda: WideResNet(10, depth=10, width=1, dropout=0.2),
    "squeezenet": lambda: SqueezeNet(10, width=4),
    "pyramidnet": lambda: PyramidNet(10, depth=14, alpha=12),
}
"""Every architecture for colour images, of a size for tests; depth and width are arguments."""


@pytest.mark.parametrize(("factory", "shape", "outputs", "parameters"), MODELS.values(), ids=MODELS)
def test_parameters_and_outputs(
    factory: Callable[[], nn.Module], shape: tuple[int, ...], outputs: int, parameters: int
) -> None:
    model = factory()
    assert sum(p.numel() for p in model.parameters()) == parameters
    with torch.no_grad():
        pred = model.eval()(torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)))
    assert pred.shape == (5, outputs)
    assert pred.isfinite().all()
    assert outputs == 1 or pred.std(dim=1).min() > 0


@pytest.mark.parametrize("factory", [LeNet5, lambda: MLP(784, 10)], ids=["lenet5", "mlp"])
def test_outputs_are_raw_and_not_linear(factory: Callable[[], nn.Module]) -> None:
    model = factory()
    x = torch.randn(4, *IMAGES, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        zero, once, twice = (model(scale * x) for scale in (0.0, 1.0, 2.0))
    assert (twice - 2 * once + zero).abs().max() > 1e-3
    assert (once < 0).any()
    assert (once > 0).any()


@pytest.mark.parametrize("name", TASKS)
def test_the_registry_counts_the_parameters_of_the_model(name: str) -> None:
    with torch.device("meta"):
        model = TASKS[name].model()
    assert TASKS[name].parameters == sum(p.numel() for p in model.parameters())


def test_small_tables_have_two_layers_of_64_units() -> None:
    outputs = {"digits": (64, 10), "breast-cancer": (30, 1), "eights": (64, 1)}
    for name, (inputs, units) in outputs.items():
        by_hand = (inputs + 1) * 64 + 65 * 64 + 65 * units
        assert TASKS[f"{name}/mlp"].parameters == by_hand


@pytest.mark.parametrize("name", ["digits/mlp", "breast-cancer/mlp", "eights/mlp"])
def test_the_task_loss_learns_small_tables_in_a_partial_training(name: str) -> None:
    task = load_task(name, metric="log_loss")
    shares = task.validation.targets.flatten().long().bincount().double() / len(task.validation)
    constant = -float((shares * shares.log()).sum())
    assert partial_training(task, task.task_loss, 500, 0) < constant / 2


@pytest.fixture(scope="module")
def colours() -> tuple[Tensor, Tensor]:
    """Images of ten classes, each of a brightness of its own."""
    rng = torch.Generator().manual_seed(0)
    targets = torch.arange(40) % 10
    noise = torch.randn(40, *COLOUR, generator=rng)
    return noise + targets[:, None, None, None] / 3, targets


def small_task(
    model: Callable[[], nn.Module], colours: tuple[Tensor, Tensor], batch_size: int = 20
) -> Task:
    optimizer = SGD(learning_rate=0.05)
    return Task(model, colours, colours, link="softmax", optimizer=optimizer, batch_size=batch_size)


@pytest.mark.parametrize("name", SMALL)
def test_training_and_evaluation_modes_differ_where_they_should(
    name: str, colours: tuple[Tensor, Tensor]
) -> None:
    with isolated_rng(torch.device("cpu"), 0):
        model = SMALL[name]()
        stochastic = any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())
        normalised = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
        with torch.no_grad():
            first, second = model.train()(colours[0]), model(colours[0])
            assert torch.equal(first, second) is not stochastic
            model.eval()
            assert torch.equal(model(colours[0]), model(colours[0]))
            alone, together = model(colours[0][:1]), model(colours[0])[:1]
            torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
            assert stochastic or normalised
            assert not torch.allclose(first, model(colours[0]), rtol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_every_architecture_learns_under_a_learned_loss(
    name: str, colours: tuple[Tensor, Tensor]
) -> None:
    task = small_task(SMALL[name], colours)
    loss = SymbolicLoss("mul(-1, mul(y, log(f)))", [1.1, 0.9, 1.0, 1.0, 1.0], link="softmax")
    before = [p.detach().clone() for p in task.new_model(seed=1).parameters()]
    assert all(
        torch.equal(a, b) for a, b in zip(before, task.new_model(1).parameters(), strict=True)
    )
    assert not all(
        torch.equal(a, b) for a, b in zip(before, task.new_model(2).parameters(), strict=True)
    )
    values = {}
    for steps in (1, 60):
        learner = train(task, loss, steps, stream=(0, "test"))
        with torch.no_grad(), isolated_rng(task.device, 0):
            values[steps] = float(loss(learner(colours[0]), colours[1]))
    assert values[60] < values[1] - 0.01


@pytest.mark.parametrize("name", SMALL)
def test_every_architecture_has_the_fast_hypergradient(
    name: str, colours: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def double() -> nn.Module:
        return SMALL[name]().double()

    task = small_task(double, colours, batch_size=6)
    assert forward_mode_problem(task) is None
    weights = torch.ones(4, dtype=torch.float64)
    loss = SymbolicLoss("mul(y, abs(log(f)))", weights, link="softmax")
    settings = EvaluationSettings(meta_steps=2, meta_learning_rate=0.01)
    fast = optimize_weights(Workbench([task], settings, 0), loss)
    monkeypatch.setattr(meta_schedule, "forward_mode_problem", lambda _: "not tried")
    plain = optimize_weights(Workbench([task], settings, 0), loss)
    torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-9)


DEEP = {"pyramidnet", "wideresnet"}  # half of the time of all


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in DEEP)) for n in SMALL]
)
def test_every_architecture_is_worked_on_in_groups(
    name: str, colours: tuple[Tensor, Tensor]
) -> None:
    def double() -> nn.Module:
        return SMALL[name]().double()

    task = small_task(double, colours, batch_size=6)
    losses = [
        SymbolicLoss(text, torch.ones(edges, dtype=torch.float64), "softmax")
        for text, edges in [("mul(y, abs(log(f)))", 4), ("square(sub(y, f))", 3)]
    ]
    plain = EvaluationSettings(meta_steps=2, meta_learning_rate=0.01)
    expected = [optimize_weights(Workbench([task], plain, 0), loss) for loss in losses]
    engines: list[Literal["batched", "stacked"]] = ["batched", "stacked"]
    for engine in engines:
        assert group_problem(task, stacked=engine == "stacked") is None
        settings = replace(plain, engine=engine)
        found = engine_on(Workbench([task], settings, 0)).tune(losses)
        for ours, reference in zip(found, expected, strict=True):
            assert isinstance(ours, Tensor)
            torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-9)
    trained = stacked_training(task, losses, 3, 0)
    for curve, loss in zip(trained, losses, strict=True):
        assert list(curve) == [pytest.approx(partial_training(task, loss, 3, 0))]


def test_a_depth_that_makes_no_network_is_refused() -> None:
    for make in (lambda: WideResNet(10, depth=27), lambda: PyramidNet(10, depth=100)):
        with pytest.raises(ValueError, match="depth"):
            make()


def test_lenet5_pools_before_the_activation_as_it_would_after() -> None:
    with isolated_rng(torch.device("cpu"), 0):
        learner, images = LeNet5().double(), torch.randn(8, 1, 28, 28, dtype=torch.float64)
    first, pool, relu, second, *_ = learner.features
    usual = nn.Sequential(first, relu, pool, second, relu, pool, nn.Flatten(), learner.classifier)
    parameters = list(learner.parameters())
    outputs = [network(images) for network in (learner, usual)]
    assert torch.equal(*outputs)
    ours, theirs = (torch.autograd.grad(out.square().sum(), parameters) for out in outputs)
    for gradient, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
