"""Arguments of the wrong kind: one sentence each, that says what was seen and what to pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evomal
from evomal import SGD, Adam, AdamW, Cosine, InputError, Milestones, SymbolicLoss, Task
from evomal.tasks.metrics import mean_squared_error
from tasks_for_tests import Perceptron, regression_task

X = torch.arange(18.0).reshape(6, 3) / 10
Y = torch.tensor([[0.5], [-1.0], [2.0], [0.0], [1.0], [-0.5]])
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])
SOFTMAX: dict[str, Any] = {
    "model": partial(Perceptron, 3),
    "train": (X, CLASSES),
    "validation": (X, CLASSES),
    "link": "softmax",
}
NAN, INF = float("nan"), float("inf")
SHARED = nn.Linear(3, 1)
SQUARE = SymbolicLoss("square(sub(y, f))")
LONG = "x" * 5000


def make(**changes: Any) -> Task:
    arguments = {"model": Perceptron, "train": (X, Y), "validation": (X, Y), "link": "identity"}
    return Task(**(arguments | changes))  # type: ignore[arg-type]


def message(call: Callable[[], object]) -> str:
    """What the `InputError` of a call says, which is one line and not a long one."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


# Wrong values, kind by kind: every argument against each of them

NO_NUMBERS: list[Any] = ["1", b"1", None, [1], {"a": 1}, 1j, torch.ones(2), object(), int, LONG]
NO_WHOLE_NUMBERS = [*NO_NUMBERS, True, np.True_, 12.5, 1.0, np.float32(2), NAN, INF, 2**63]
NO_FINITE_NUMBERS = [*NO_NUMBERS, True, NAN, INF, -INF, 10**400, 10**5000]
NO_FUNCTIONS: list[Any] = [0.5, "accuracy", {"a": 1}, [print], torch.ones(2), nn.MSELoss, True]
NO_TEXT: list[Any] = [None, 3, "", "  ", "two\nlines", "\x1b[2J", b"a", ["a"], object()]
NO_LISTS: list[Any] = [0.5, 3, np.array(3), "0.5", None, {0.5}, {"a": 1}, object()]

ARGUMENTS: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
    "batch_size": (lambda v: make(batch_size=v), [*NO_WHOLE_NUMBERS, 0, -3]),
    "rejection_steps": (lambda v: make(rejection_steps=v), [*NO_WHOLE_NUMBERS, 0]),
    "testing_steps": (lambda v: make(testing_steps=v), [*NO_WHOLE_NUMBERS, 0]),
    "ignore_index": (lambda v: make(ignore_index=v), NO_WHOLE_NUMBERS),
    "learning_rate": (lambda v: SGD(learning_rate=v), [*NO_FINITE_NUMBERS, 0, -0.1]),
    "momentum": (lambda v: SGD(momentum=v), [*NO_FINITE_NUMBERS, -0.1]),
    "weight_decay": (lambda v: SGD(weight_decay=v), [*NO_FINITE_NUMBERS, -0.1]),
    "dampening": (lambda v: SGD(dampening=v, nesterov=False), NO_FINITE_NUMBERS),
    "nesterov": (lambda v: SGD(nesterov=v), [*NO_NUMBERS, 0, 1, "False"]),
    "metric": (lambda v: make(metric=v), NO_FUNCTIONS),
    "maximize": (lambda v: make(metric=single, maximize=v), [*NO_NUMBERS, 0, 1, "False"]),
    "report": (lambda v: make(report=v), [*NO_LISTS, "mae", [None], ["mea"], ["mae", "mae"]]),
    "task_loss": (lambda v: make(task_loss=v), NO_FUNCTIONS),
    "preprocess": (lambda v: make(preprocess=v), NO_FUNCTIONS),
    "augment": (lambda v: make(augment=v), NO_FUNCTIONS),
    "output": (lambda v: make(output=v), [*NO_FUNCTIONS, 0, b"logits", "logits", "T", nn.Flatten]),
    "model": (lambda v: make(model=v), [*NO_FUNCTIONS, None, SHARED]),
    "link": (lambda v: make(link=v), [*NO_TEXT, "softmx", 1.5, ["softmax"]]),
    "name": (lambda v: make(name=v), NO_TEXT),
    "split": (lambda v: make(split=v), NO_TEXT),
    "device": (lambda v: make(device=v), [None, 0, 1.5, "", "gpu", "mps", "hpu", "meta", LONG]),
    "milestones": (
        lambda v: Milestones(v),
        [*NO_LISTS, [0.5, 0.3], [0.5, 0.5], [0.0], [50, 75], ["a"], [NAN], [True], [None]],
    ),
    "loss_inputs": (
        lambda v: make(loss_inputs=v),
        ["w", ["w"], 1.0, {"w": None}, {"w": "later"}, {"w": 1.0}, {1: Y}, {"f": Y}],
    ),
    "weight": (
        lambda v: make(**SOFTMAX, weight=v),
        [
            *({0: 1.0, 1: 2.0, 2: 1.0}, "balanced", ["a", "b", "c"], 2.0, [1, 2], [1, 1, -1]),
            *([1, 1, NAN], [1, 1, INF], [0, 0, 0], [[1, 1, 1]], [1, 1, None], [1j, 1, 1]),
        ],
    ),
    "classes": (
        lambda v: make(**SOFTMAX, classes=v),
        [
            *(v for v in NO_LISTS if v is not None),
            [],
            [0.5],
            ["a", "a"],
            ["a", 1],
            [True, 1],
            [None],
            [["a"]],
            [0, 2],
        ],
    ),
    "validation_rows": (
        lambda v: make(validation_rows=v),
        [*(v for v in NO_WHOLE_NUMBERS if v is not None), 0, -3],
    ),
    "in_memory": (lambda v: make(in_memory=v), [*NO_NUMBERS, 0, 1, "False"]),
    "loader_workers": (
        lambda v: make(in_memory=False, loader_workers=v),
        [*NO_WHOLE_NUMBERS, -1],
    ),
    "optimizer": (
        lambda v: make(optimizer=v),
        [
            torch.optim.SGD(SHARED.parameters()),
            "adam",
            {"lr": 0.1},
            SGD,
            AdamW,
            0.1,
            lambda _: None,
        ],
    ),
    "schedule": (
        lambda v: make(schedule=v),
        [0.5, "cosine", Cosine, lambda p: None, lambda p: -p, lambda p: 0.0, lambda p: 1 / p],
    ),
    "clip_norm": (
        lambda v: make(clip_norm=v),
        [*(v for v in NO_FINITE_NUMBERS if v is not None), 0, -1],
    ),
    "warmup": (lambda v: Cosine(warmup=v), [*NO_FINITE_NUMBERS, -0.1, 1, 100]),
    "final": (lambda v: Cosine(final=v), [*NO_FINITE_NUMBERS, -0.1, 1]),
    "factor": (lambda v: Milestones([0.5], factor=v), [*NO_FINITE_NUMBERS, -0.1, 0]),
    "betas": (lambda v: AdamW(betas=v), [*NO_LISTS, [0.9], [0.9, 1.0], [0.9, -0.1], ["a", "b"]]),
    "eps": (lambda v: Adam(eps=v), [*NO_FINITE_NUMBERS, 0, -0.1]),
    "amsgrad": (lambda v: AdamW(amsgrad=v), [*NO_NUMBERS, 0, 1, "False"]),
    "seed": (lambda v: evomal.search(make(), seed=v), [*NO_WHOLE_NUMBERS, "a", 1.5, -1]),
    "seeds": (
        lambda v: evomal.compare(make(test=(X, Y)), SQUARE, v),
        [*NO_LISTS, [], [0.5], ["a"], [True], [-1], [0, None]],
    ),
    "steps": (
        lambda v: evomal.compare(make(test=(X, Y)), SQUARE, [0], steps=v),
        [*(v for v in NO_WHOLE_NUMBERS if v is not None), -1],
    ),
    "loss": (
        lambda v: evomal.compare(make(test=(X, Y)), v, [0]),
        [nn.MSELoss(), nn.MSELoss, "loss.json", None, torch.nn.functional.mse_loss],
    ),
    "task": (
        lambda v: evomal.search(v),
        ["diabetes/mlp", ["diabetes/mlp"], None, [], 3, SHARED, nn.Sequential(SHARED), X, Task],
    ),
    "task to compare": (
        lambda v: evomal.compare(v, SQUARE, [0]),
        ["diabetes/mlp", None, SHARED, [], [make()]],
    ),
    "callbacks": (
        lambda v: evomal.search(make(), callbacks=v),
        [evomal.Callback(), evomal.Callback, [evomal.Callback], [print], None, "plain"],
    ),
    "settings": (lambda v: evomal.search(make(), settings=v), [{}, {"generations": 3}, "quick"]),
    "execution": (lambda v: evomal.search(make(), execution=v), [2, {"workers": 2}, "local"]),
    "preset": (lambda v: evomal.search(make(), preset=v), [*NO_TEXT, "quik"]),
    "method": (lambda v: evomal.search(make(), method=v), [*NO_TEXT, "evomol"]),
}


@pytest.mark.parametrize(("call", "values"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_wrong_value_is_one_sentence(
    call: Callable[[Any], object], values: list[Any], tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in values:
        message(partial(call, value))
    assert not list(tmp_path.iterdir())


def test_every_argument_of_a_task_and_of_sgd_is_in_the_table() -> None:
    known = {*inspect.signature(Task).parameters, *inspect.signature(SGD).parameters}
    assert known - set(ARGUMENTS) == {"train", "validation", "test", "origin"}


# What the sentences say


class Layered(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()


class WithUnused(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.LazyLinear(2)


def fails() -> nn.Module:
    raise KeyError("width")


class Rounding(Perceptron):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).long()


def scores(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).abs()


def single(pred: Tensor, target: Tensor) -> float:
    return mean_squared_error(pred, target)


SENTENCES: dict[str, tuple[Callable[[], object], str]] = {
    "an initialised model": (
        lambda: make(model=Perceptron()),
        "The model is a network, Perceptron, but every training needs a new one: pass its "
        "class, functools.partial(Net, ...) or `lambda: Net(...)`.",
    ),
    "a class with required arguments": (
        lambda: make(model=Layered),
        "The model is called without arguments, but Layered needs width, depth; pass "
        "them with `lambda: Net(...)` or functools.partial(Net, ...).",
    ),
    "a class of torch": (lambda: make(model=nn.Linear), "Linear needs in_features, out_features;"),
    "a partial with one missing": (lambda: make(model=partial(Layered, 3)), "needs depth;"),
    "a factory that fails": (lambda: make(model=fails), "factory fails: KeyError: 'width'"),
    "one module twice": (
        lambda: make(model=lambda: SHARED),
        "use copy.deepcopy for reused",
    ),
    "a shared layer": (
        lambda: make(model=lambda: nn.Sequential(nn.Linear(3, 3), SHARED)),
        "two calls share parameters or buffers",
    ),
    "DataParallel": (
        lambda: make(model=lambda: nn.DataParallel(Perceptron())),
        "The model is wrapped in DataParallel; return the network itself",
    ),
    "DataParallel inside": (
        lambda: make(model=lambda: nn.Sequential(nn.DataParallel(Perceptron()))),
        "wrapped in DataParallel",
    ),
    "a lazy layer that rows do not fit": (
        lambda: make(model=lambda: nn.LazyConv2d(1, 1)),
        "The lazy layers of the model cannot take their shapes from two training rows of shape "
        "(2, 3): RuntimeError",
    ),
    "a lazy layer that is not used": (
        lambda: make(model=WithUnused),
        "The model has lazy layers that a batch does not reach in eval mode",
    ),
    "another device": (
        lambda: make(model=lambda: nn.Linear(3, 1, device="meta")),
        "The model is on the meta device",
    ),
    "whole outputs": (lambda: make(model=Rounding), "raw outputs as floats, not torch.int64"),
    "whole inputs": (
        lambda: make(train=(X.long(), Y)),
        "(of type torch.int64; features must be floats)",
    ),
    "a column of classes": (
        lambda: make(**{**SOFTMAX, "train": (X, CLASSES[:, None])}),
        "of shape (2, 1) it returns shape (2, 3); flatten the targets, as with .ravel().",
    ),
    "classes as floats": (
        lambda: make(**{**SOFTMAX, "train": (X, CLASSES.float())}),
        "and an integer type, but have shape (6,) and type torch.float32.",
    ),
    "AdamW": (
        lambda: make(optimizer=AdamW),
        "The optimizer must be settings, got the class AdamW; pass an instance, evomal.AdamW(...).",
    ),
    "a closure": (
        lambda: make(optimizer=torch.optim.LBFGS),
        "A step of the optimizer LBFGS fails (",
    ),
    "another's parameters": (
        lambda: make(optimizer=lambda _: torch.optim.Adam(SHARED.parameters())),
        "must return a new optimizer of the parameters that it is given.",
    ),
    "no optimizer": (
        lambda: make(optimizer=lambda _: None),
        "The optimizer function must return a torch.optim.Optimizer, but returned a NoneType.",
    ),
    "an optimizer of names": (
        lambda: make(optimizer=lambda parameters: torch.optim.SGD(parameters.values(), lr=0.1)),
        "The optimizer function fails with the model's parameters: AttributeError: ",
    ),
    "a schedule of torch's": (
        lambda: make(schedule=torch.optim.lr_scheduler.CosineAnnealingLR),
        "The schedule is torch's CosineAnnealingLR, which belongs to one optimizer; pass "
        "evomal.Cosine(...), evomal.Milestones(...) or a function of the progress from 0 to 1.",
    ),
    "a schedule in steps": (
        lambda: make(schedule=lambda step: [1.0, 0.1][step]),
        "The schedule fails at progress 0 (TypeError: ",
    ),
    "a schedule that ends": (
        lambda: make(schedule=lambda progress: 0.5 - progress),
        "The schedule's factor at progress 0.55 must be at least 0, got -0.05",
    ),
    "no rate": (
        lambda: make(schedule=lambda progress: 0),
        "The schedule is 0 during the whole training, so nothing would train.",
    ),
    "an Adam": (
        lambda: make(optimizer=torch.optim.Adam(SHARED.parameters())),
        "got an object of type Adam.",
    ),
    "lr": (
        lambda: SGD(lr=0.1),  # type: ignore[call-arg]
        "SGD has no argument 'lr'; it takes learning_rate, momentum,",
    ),
    "as in torch": (
        lambda: SGD(SHARED.parameters(), lr=0.1),  # type: ignore[arg-type, call-arg]
        "SGD has no argument 'lr'; it takes learning_rate",
    ),
    "parameters": (
        lambda: SGD(SHARED.parameters()),  # type: ignore[arg-type]
        "The learning rate must be a number, got <generator object",
    ),
    "too many": (
        lambda: SGD(0.1, 0.9, True, 0.0, 0.0, 0.0),  # type: ignore[call-arg]
        "SGD: too many positional arguments; it takes learning_rate,",
    ),
    "a misspelt argument": (
        lambda: make(optimiser=SGD()),
        "Task has no argument 'optimiser'; did you mean optimizer?",
    ),
    "no link": (
        lambda: Task(Perceptron, (X, Y), (X, Y)),  # type: ignore[call-arg]
        "Task: missing a required argument: 'link'",
    ),
    "batch size": (
        lambda: make(batch_size=12.5),
        "The batch size must be a whole number, got 12.5.",
    ),
    "class weights by class": (
        lambda: make(**SOFTMAX, weight={0: 1.0}),
        "must be a list of numbers, one per class in the order of the class indices, got {0:",
    ),
    "class weights by name": (lambda: make(**SOFTMAX, weight="balanced"), "got 'balanced'"),
    "no class counts": (lambda: make(**SOFTMAX, weight=[0, 0, 0]), "class weights are all 0"),
    "a misspelt link": (
        lambda: make(link="softmx"),
        "Unknown link 'softmx'; did you mean softmax?",
    ),
    "a class as a task loss": (
        lambda: make(task_loss=nn.MSELoss),
        "is called as (pred, target), got the class MSELoss; pass an instance, MSELoss().",
    ),
    "no reduction": (
        lambda: make(task_loss=nn.MSELoss(reduction="none")),
        "The task loss must return one number, but returns shape (2, 1); reduce it, as with "
        "reduction='mean' or .mean().",
    ),
    "a number of Python's": (
        lambda: make(task_loss=single),
        "The task loss must return a tensor, but returns ",
    ),
    "nothing": (
        lambda: make(task_loss=lambda p, t: None),
        "must return a tensor, but returns None",
    ),
    "detached": (
        lambda: make(task_loss=lambda p, t: scores(p.detach(), t).mean()),
        "The task loss has no gradient for the prediction",
    ),
    "a task loss of one argument": (
        lambda: make(task_loss=lambda p: p.mean()),
        "The task loss fails (TypeError: ",
    ),
    "a task loss of another link": (
        lambda: make(task_loss=SymbolicLoss("square(sub(y, f))", link="softmax")),
        "The loss has link 'softmax', but the task 'custom' needs 'identity'",
    ),
    "a vector": (
        lambda: make(metric=scores),
        "The metric must return one number, but returns an array of shape (2, 1).",
    ),
    "an array": (lambda: make(metric=lambda p, t: scores(p, t).numpy()), "of shape (2, 1)"),
    "no metric": (lambda: make(metric=lambda p, t: None), "one number, but returns None"),
    "metric as text": (lambda: make(metric=lambda p, t: "0.3"), "one number, but returns '0.3'"),
    "metrics by name": (lambda: make(metric=lambda p, t: {"mse": 0.1}), "returns {'mse': 0.1}"),
    "a complex metric": (lambda: make(metric=lambda p, t: 1j), "one number, but returns 1j"),
    "a metric that fails": (
        lambda: make(metric=lambda p, t: p.nothing),
        "The metric fails (AttributeError: 'Tensor' object has no attribute 'nothing'); it is "
        "called with the raw outputs of the model, here of shape (6, 1), and targets of shape (6,",
    ),
    "preprocess drops rows": (
        lambda: make(preprocess=lambda x: x[:1]),
        "The function preprocess must return as many rows as it gets, but returns shape (1, 3) for "
        "2 training rows.",
    ),
    "preprocess to numpy": (
        lambda: make(preprocess=lambda x: x.numpy()),
        "The function preprocess must return a tensor, or a tuple or dict of tensors, not an "
        "object of type ndarray.",
    ),
    "preprocess to one": (lambda: make(preprocess=lambda x: x.mean()), "but returns shape () for"),
    "preprocess fails": (
        lambda: make(preprocess=lambda x: x.nothing),
        "The function preprocess fails on the training inputs, 2 rows of shape (2, 3): Attribute",
    ),
    "augment doubles": (
        lambda: make(augment=lambda x: torch.cat([x, x])),
        "The function augment must return as many rows as it gets, but returns shape (4, 3)",
    ),
    "augment in place": (lambda: make(augment=lambda x: None), "dict of tensors, not None."),
    "loss inputs": (
        lambda: make(loss_inputs=["w"]),
        "The argument loss_inputs must be a dict, got",
    ),
    "one milestone": (
        lambda: Milestones(0.5),  # type: ignore[arg-type]
        "The milestones must be a list, got 0.5.",
    ),
    "milestones in steps": (
        lambda: Milestones([50, 75]),
        "The milestones must be increasing fractions between 0 and 1, got [50, 75].",
    ),
    "device": (lambda: make(device="mps"), "'mps' cannot be used; only cpu and cuda can."),
    "a task by name": (
        lambda: evomal.search("diabetes/mlp"),  # type: ignore[arg-type]
        "made with evomal.load_task('diabetes/mlp') or evomal.Task(...), got 'diabetes/mlp'.",
    ),
    "a model": (
        lambda: evomal.search(SHARED),  # type: ignore[arg-type]
        "The task must be made with evomal.load_task(name) or evomal.Task(...), got Linear(",
    ),
    "seed": (lambda: evomal.search(make(), seed=-1), "The seed must be at least 0, got -1."),
    "a callback that is no list": (
        lambda: evomal.search(make(), callbacks=evomal.Callback()),  # type: ignore[arg-type]
        "The argument callbacks must be a list, got <evomal.runs.callbacks.Callback",
    ),
    "a class of callbacks": (
        lambda: evomal.search(make(), callbacks=[evomal.Callback]),  # type: ignore[list-item]
        "The callback must be an instance of evomal.Callback, got the class Callback.",
    ),
    "a loss of torch": (
        lambda: evomal.compare(make(test=(X, Y)), nn.MSELoss(), [0]),  # type: ignore[arg-type]
        "The loss must be an evomal loss, such as run.best.loss,",
    ),
    "a number of seeds": (
        lambda: evomal.compare(make(test=(X, Y)), SQUARE, 3),  # type: ignore[arg-type]
        "The seeds must be a list, got 3.",
    ),
}


@pytest.mark.parametrize(("call", "fragment"), SENTENCES.values(), ids=SENTENCES)
def test_what_is_wrong_and_what_to_pass(call: Callable[[], object], fragment: str) -> None:
    assert fragment in message(call)


# What is right


class WithState(Perceptron):
    """A module whose state holds more than tensors."""

    def get_extra_state(self) -> Any:
        return {"version": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


def filled() -> nn.Module:
    network = nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(1))
    network(torch.zeros(1, 3))
    return network


RIGHT: dict[str, dict[str, Any]] = {
    "numpy's numbers": {
        "batch_size": np.int64(3),
        "testing_steps": np.uint8(5),
        "ignore_index": np.int32(-1),
        "schedule": Milestones(np.array([0.25, 0.5])),  # type: ignore[arg-type]
        "clip_norm": np.float32(1),
    },
    "a batch larger than the data": {"batch_size": 1000},
    "a lazy model after one batch": {"model": filled},
    "a state that is no tensor": {"model": WithState},
    "a metric of one element": {"metric": lambda p, t: scores(p, t).mean().reshape(1)},
    "a metric of numpy's": {"metric": lambda p, t: np.float32(scores(p, t).mean())},
    "a module as a function": {"task_loss": nn.HuberLoss(), "preprocess": nn.Hardtanh()},
    "a learned loss as the task loss": {
        "task_loss": SymbolicLoss("mul(w, square(sub(y, f)))", inputs=("w",)),
        "loss_inputs": {"w": Y},
    },
}


@pytest.mark.parametrize("arguments", RIGHT.values(), ids=RIGHT)
def test_what_is_right_is_taken(arguments: dict[str, Any]) -> None:
    make(**arguments).description()


def test_class_weights_of_any_array() -> None:
    for weight in ([1, 2, 0.5], np.array([1, 2, 0.5]), torch.tensor([1, 2, 0.5])):
        assert make(**SOFTMAX, weight=weight).form.weight == (1.0, 2.0, 0.5)


def test_a_metric_that_needs_all_classes_is_tried_on_all_rows() -> None:
    def two_classes(pred: Tensor, target: Tensor) -> float:
        if len(set(target.tolist())) < 2:
            raise ValueError("only one class")
        return float(len(pred))

    seen = make(**{**SOFTMAX, "validation": (X, CLASSES.sort().values)}, metric=two_classes)
    assert seen.metric is two_classes


def test_a_task_loss_and_a_metric_that_work_in_place_leave_the_data() -> None:
    def loss(pred: Tensor, target: Tensor) -> Tensor:
        return pred.sub_(target).square().mean() + 0 * target.zero_().sum()

    def metric(pred: Tensor, target: Tensor) -> float:
        return float(pred.zero_().sum() + target.zero_().sum())

    task = make(task_loss=loss, metric=metric)
    assert torch.equal(task.train.targets, Y)
    assert torch.equal(task.validation.targets, Y)


def test_sgd_keeps_numbers_of_pythons() -> None:
    given = SGD(np.float64(0.5), np.float32(0.5), np.True_, 0, np.int64(0))  # type: ignore[arg-type]
    assert asdict(given) == {
        "learning_rate": 0.5,
        "momentum": 0.5,
        "nesterov": True,
        "weight_decay": 0.0,
        "dampening": 0.0,
    }
    assert {type(value) for value in asdict(given).values()} == {float, bool}
    assert replace(given, learning_rate=2).learning_rate == 2.0
    assert given == SGD(0.5, 0.5, True, 0.0)


def test_signatures_are_those_of_the_constructors() -> None:
    assert list(inspect.signature(SGD).parameters)[:2] == ["learning_rate", "momentum"]
    assert inspect.signature(Task).parameters["batch_size"].default == 128


def test_numbers_of_numpys_are_stored(tmp_path: Any) -> None:
    settings = evomal.GPLFLSettings(population_size=2, generations=1, testing_steps=2)
    task = regression_task(batch_size=np.int64(4), optimizer=SGD(np.float32(0.1), 0.0, False))  # type: ignore[arg-type]
    seed: Any = np.int64(3)
    run = evomal.search(
        task, settings=settings, seed=seed, run_dir=tmp_path / "run", method="gp-lfl"
    )
    assert run.facts.seed == 3
