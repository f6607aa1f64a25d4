"""Tasks: what data they take, what they refuse and in which words, their models and digests."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from evomal.errors import InputError
from evomal.losses.form import Link
from evomal.seeding import isolated_rng
from evomal.tasks.checks import images_channels_last
from evomal.tasks.data import Data
from evomal.tasks.metrics import error_rate, mean_squared_error
from evomal.tasks.optimizers import SGD
from evomal.tasks.parts import Source
from evomal.tasks.task import Task
from tasks_for_tests import TASK_BY_LINK, ConvNet, Perceptron, image_task, regression_task

X = torch.arange(12.0).reshape(4, 3) / 10
Y = torch.tensor([[0.5], [-1.0], [2.0], [0.0]])
CLASSES = torch.tensor([2, 0, 1, 1])
THREE: dict[str, Any] = {"model": partial(Perceptron, 3), "link": "softmax"}


class Pairs(Dataset[Any]):
    """A map-style data set over a list."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset[Any]):
    """A data set without length or index."""

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(X, Y, strict=True))


def make(**changes: Any) -> Task:
    """A regression task of four rows with some arguments exchanged."""
    arguments: dict[str, Any] = {"model": Perceptron, "train": (X, Y), "validation": (X, Y)}
    arguments |= {"link": "identity", **changes}
    return Task(arguments.pop("model"), arguments.pop("train"), **arguments)


def changed(tensor: Tensor, value: float) -> Tensor:
    """A copy with another last element."""
    copy = tensor.clone()
    copy.view(-1)[-1] = value
    return copy


# Data


@pytest.mark.parametrize(
    "source",
    [
        (X, Y),
        [X.numpy(), Y.numpy()],
        (X.double(), Y.double().numpy()),
        (X.tolist(), Y.tolist()),
        (np.asfortranarray(X.numpy()), Y),
        Data(X, Y),
        TensorDataset(X, Y),
        Subset(TensorDataset(torch.cat([X + 9, X]), torch.cat([Y + 9, Y])), range(4, 8)),
        Pairs(list(zip(X, Y, strict=True))),
        Pairs(list(zip(X.numpy(), Y.numpy(), strict=True))),
    ],
    ids=lambda source: type(source).__name__,
)
def test_every_kind_of_source_gives_the_same_rows(source: Source) -> None:
    task = make(train=source, test=source)
    assert task.test is not None
    for data in (task.train, task.test):
        torch.testing.assert_close((data.inputs, data.targets), (X, Y), rtol=0, atol=0)


@pytest.mark.parametrize("labels", [CLASSES, CLASSES.to(torch.uint8), CLASSES.int().numpy()])
def test_class_indices_of_any_integer_type_are_read_as_long(labels: Any) -> None:
    task = make(**THREE, train=(X, labels), validation=(X, labels))
    torch.testing.assert_close(task.train.targets, CLASSES, rtol=0, atol=0)


def test_pairs_of_tensor_and_int_are_classes() -> None:
    pairs = Pairs(list(zip(X, CLASSES.tolist(), strict=True)))
    task = make(**THREE, train=pairs, validation=pairs)
    torch.testing.assert_close(task.validation.targets, CLASSES, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("link", ["identity", "sigmoid"])
def test_floating_values_take_the_dtype_of_the_model(link: Link, dtype: torch.dtype) -> None:
    source = (X.double().numpy(), (Y > 0).numpy())
    task = make(model=partial(Perceptron, 1, dtype), train=source, validation=source, link=link)
    assert task.train.inputs.dtype == task.train.targets.dtype == dtype


def test_arrays_that_cannot_be_written_are_read_without_a_warning() -> None:
    array = X.numpy().copy()
    array.setflags(write=False)
    torch.set_warn_always(True)
    try:
        task = make(train=(array, Y))
    finally:
        torch.set_warn_always(False)
    torch.testing.assert_close(task.train.inputs, X)


def test_small_integers_stay_small_until_they_are_preprocessed() -> None:
    pixels = (X * 100).to(torch.uint8)
    task = make(train=(pixels, Y), validation=(pixels, Y), preprocess=lambda x: x / 255)
    assert task.train.inputs.dtype == torch.uint8
    batch = task.batch(task.train, torch.tensor([2, 0]))
    torch.testing.assert_close((batch.inputs, batch.targets), (pixels[[2, 0]] / 255, Y[[2, 0]]))


# Defaults


@pytest.mark.parametrize("link", TASK_BY_LINK)
def test_defaults_follow_the_link(link: Link) -> None:
    task = TASK_BY_LINK[link]()
    pred = torch.randn(len(task.train), 3 if link == "softmax" else 1)
    target = task.train.targets
    if link == "identity":
        expected = (pred - target).square().mean()
        metric = float(expected)
    elif link == "sigmoid":
        p = torch.sigmoid(pred)
        expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
        metric = float(((p > 0.5) != (target > 0.5)).float().mean())
    else:
        expected = -torch.log_softmax(pred, 1)[torch.arange(len(pred)), target].mean()
        metric = float((pred.argmax(1) != target).float().mean())
    torch.testing.assert_close(task.task_loss(pred, target), expected)
    assert task.metric(pred, target) == pytest.approx(metric)


def test_own_factory_task_loss_and_metric_are_kept() -> None:
    def loss(pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).abs().mean()

    def metric(pred: Tensor, target: Tensor) -> float:
        return float(np.median(pred.numpy() - target.numpy()))

    task = make(model=lambda: nn.Linear(3, 1), task_loss=loss, metric=metric)
    assert (task.task_loss, task.metric, task.test) == (loss, metric, None)
    assert task.optimizer == SGD(0.01, 0.9, True, 5e-4, 0.0)
    assert isinstance(task.new_model(0), nn.Linear)


def test_metrics_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0], [3.0, 1.0], [0.0, 1.0], [0.5, 0.0]])
    assert error_rate(logits, torch.tensor([1, 1, 0, 0])) == 0.5
    assert error_rate(torch.tensor([-1.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, 0.0])) == 1 / 3
    assert error_rate(torch.tensor([[-1.0], [2.0]]), torch.tensor([[1.0], [1.0]])) == 0.5
    assert mean_squared_error(torch.tensor([1.0, 4.0]), torch.tensor([0.0, 2.0])) == 2.5


def test_a_task_survives_pickling() -> None:
    task = image_task()
    twin = pickle.loads(pickle.dumps(task))  # noqa: S301
    assert twin.fingerprint() == task.fingerprint()
    torch.testing.assert_close(twin.new_model(1).state_dict(), task.new_model(1).state_dict())


# Bad input


class Fails(Perceptron):
    """A model that refuses its input."""

    error: type[Exception] = RuntimeError

    def forward(self, x: Tensor) -> Tensor:
        raise self.error("wrong\nsize")


NAN, INF = float("nan"), float("inf")
BINARY: dict[str, Any] = {"link": "sigmoid", "validation": (X, (Y > 0).float())}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "NaN input": ({"train": (changed(X, NAN), Y)}, "training inputs"),
    "infinite input": ({"validation": (changed(X, INF), Y)}, "validation inputs"),
    "NaN target": ({"train": (X, changed(Y, NAN))}, "training targets"),
    "infinite target": ({"test": (X, changed(Y, -INF))}, "test targets"),
    "input beyond float32": ({"train": (changed(X.double(), 1e300), Y)}, "training inputs"),
    "target beyond float32": ({"train": (X, changed(Y.double(), 1e300))}, "training targets"),
    "NaN in an array": ({"train": (changed(X, NAN).numpy(), Y)}, "training inputs"),
    "unequal lengths": ({"train": (X, Y[:3])}, "training data has 4 inputs and 3 targets"),
    "empty": ({"validation": (X[:0], Y[:0])}, "validation data has 0 inputs and 0 targets"),
    "column vector expected": ({"train": (X, Y[:, 0])}, "training targets of shape (2,)"),
    "two columns": ({"validation": (X, Y.expand(4, 2))}, "validation targets of shape (2, 2)"),
    "test column vector": ({"test": (X, Y[:, 0])}, "test targets of shape (2,)"),
    "regression with logits": ({"link": "softmax"}, "training targets must be class indices"),
    "class too high": (
        THREE | {"train": (X, CLASSES + 1), "validation": (X, CLASSES)},
        "training targets hold classes 1 to 3; they must lie between 0 and 2",
    ),
    "class negative": (
        THREE | {"train": (X, CLASSES), "validation": (X, CLASSES - 1)},
        "validation targets hold classes -1 to 1",
    ),
    "test class too high": (
        THREE | {"train": (X, CLASSES), "validation": (X, CLASSES), "test": (X, CLASSES + 5)},
        "test targets hold classes 5 to 7",
    ),
    "float classes": (THREE | {"train": (X, CLASSES.float())}, "class indices of shape (n,)"),
    "one-hot classes": (
        THREE | {"train": (X, torch.eye(3).long()[CLASSES]), "validation": (X, CLASSES)},
        "for targets of shape (2, 3) it returns shape (2, 3)",
    ),
    "no parameters": ({"model": nn.Flatten}, "no trainable parameters"),
    "binary above 1": (BINARY | {"train": (X, Y)}, "training targets must lie in [0, 1]"),
    "binary -1 and 1": (BINARY | {"train": (X, Y.sign())}, "training targets must lie in [0, 1]"),
    "no module": ({"model": lambda: lambda x: x}, "model factory must return a new"),
    "a class, not a module": ({"model": lambda: Perceptron}, "but returned a type"),
    "frozen": ({"model": lambda: Perceptron().requires_grad_(False)}, "no trainable parameters"),
    "unknown link": ({"link": "probit"}, "Unknown link 'probit'"),
    "batch size 0": ({"batch_size": 0}, "batch size must be at least 1, got 0"),
    "several outputs": (
        {"model": lambda: nn.LSTM(3, 1)},
        "one tensor, not a tuple of length 2; pass",
    ),
}


@pytest.mark.parametrize(("arguments", "fragment"), BAD.values(), ids=BAD)
def test_bad_input_is_named_in_one_sentence(arguments: dict[str, Any], fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        make(**arguments)
    message = str(caught.value)
    assert fragment in message
    assert message.endswith(".")
    assert ". " not in message
    assert "\n" not in message


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "not a pair": ({"train": X}, "The training data must be a pair"),
    "None": ({"train": None}, "The training data must be a pair"),
    "words": ({"train": (np.array(["a"] * 4), Y)}, "The training inputs hold text"),
    "stream": ({"train": Stream()}, "The training data is an IterableDataset"),
    "ragged rows": (
        {"train": Pairs([(torch.ones(3), 1.0), (torch.ones(4), 1.0)])},
        "The training inputs are ragged",
    ),
    "rows of objects": (
        {"validation": Pairs([(object(), 1.0)] * 3)},
        "The validation inputs are of type object",
    ),
    "rows without target": (
        {"train": Pairs([torch.ones(3)] * 4)},
        "The rows of the training data set must be pairs",
    ),
    "empty data set": ({"train": Pairs([])}, "The training data"),
    "too few features": ({"train": (X[:, :2], Y)}, "The model fails on the training inputs"),
    "too few test features": ({"test": (X[:, :2], Y)}, "The model fails on the test inputs"),
    "bytes without preprocess": ({"train": (X.byte(), Y)}, "The model fails on the training"),
    "unknown device": ({"device": "nonsense"}, "The device 'nonsense' cannot be used"),
    "absent device": ({"device": "xpu:7"}, "The device 'xpu:7' cannot be used"),
}


@pytest.mark.parametrize(("arguments", "start"), FOREIGN.values(), ids=FOREIGN)
def test_a_message_with_torchs_reason_names_the_input_first(
    arguments: dict[str, Any], start: str
) -> None:
    with pytest.raises(InputError) as caught:
        make(**arguments)
    assert str(caught.value).startswith(start)


@pytest.mark.parametrize("error", [RuntimeError, ValueError, TypeError, AssertionError])
def test_a_model_that_crashes_on_the_input_is_an_input_error(error: type[Exception]) -> None:
    model = type("Model", (Fails,), {"error": error})
    with pytest.raises(InputError, match="The model fails on the training inputs, two rows of"):
        make(model=model)


@pytest.mark.parametrize("settings", [{"momentum": 0.0}, {"dampening": 0.1}], ids=str)
def test_nesterov_needs_momentum_without_dampening(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="Nesterov momentum needs a momentum above 0"):
        SGD(**settings)
    assert not SGD(**settings, nesterov=False).nesterov


# Fingerprint


def test_fingerprint_is_equal_for_equal_values() -> None:
    digest = make(test=(X, Y)).fingerprint()
    assert digest == make(test=(X, Y), name="other", batch_size=2).fingerprint()
    assert digest == make(train=(X.double().numpy(), Y.numpy()), test=(X, Y)).fingerprint()
    assert digest == make(train=(X.T.contiguous().T, Y), test=(X, Y)).fingerprint()
    assert digest != make().fingerprint()


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("kind", ["inputs", "targets", "order"])
def test_fingerprint_tells_any_other_value(part: str, kind: str) -> None:
    order = [1, 0, 2, 3]
    other = {
        "inputs": (changed(X, float(np.nextafter(np.float32(X[-1, -1]), np.float32(9)))), Y),
        "targets": (X, changed(Y, 1e-30)),
        "order": (X[order], Y[order]),
    }[kind]
    base = make(test=(X, Y)).fingerprint()
    assert make(**({"test": (X, Y)} | {part: other})).fingerprint() != base


def test_fingerprint_tells_types_and_shapes() -> None:
    pixels, flat = X.to(torch.uint8), X.reshape(4, 3, 1)
    makers: list[Callable[[], Task]] = [
        make,
        partial(make, model=partial(Perceptron, 1, torch.float64)),
        partial(make, train=(pixels, Y), preprocess=lambda x: x.float()),
        partial(make, train=(flat, Y), preprocess=lambda x: x.flatten(1)),
    ]
    assert len({maker().fingerprint() for maker in makers}) == len(makers)


# Models


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator() -> None:
    state = torch.random.get_rng_state()
    task = regression_task()
    first, again, other = (
        nn.utils.parameters_to_vector(task.new_model(seed).parameters()) for seed in (7, 7, 8)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()


def test_new_models_are_separate_and_in_train_mode() -> None:
    task = image_task(model=lambda: ConvNet().eval())
    first, second = task.new_model(0), task.new_model(0)
    assert first is not second
    assert all(module.training for module in first.modules())


def scaled(x: Tensor, by: tuple[float, ...], rest: object = None) -> Tensor:
    return x * by[0]


def test_a_description_knows_the_values_of_partial_functions() -> None:
    found = [
        regression_task(preprocess=partial(scaled, by=(value,), rest=object())).description()
        for value in (1.0, 1.0, 2.0)
    ]
    assert found[0] == found[1] == json.loads(json.dumps(found[0]))
    assert found[0]["preprocess"] == ["scaled", "by", 1.0, "rest", None]
    assert found[2] == {**found[0], "preprocess": ["scaled", "by", 2.0, "rest", None]}


def test_a_task_moves_with_its_data_and_nothing_else_changes() -> None:
    task = regression_task()
    twin = task.to("cpu")
    assert twin is not task
    assert twin.description() == task.description()
    assert twin.batch(twin.train, slice(0, 2)).inputs.device.type == "cpu"


# Memory format


class Viewing(nn.Module):
    """Flattens by `view`, which only rows that are contiguous allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2)
        self.output = nn.Linear(27, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(self.conv(x).view(len(x), -1))
        return out


class Flattening(Viewing):
    """The same by `flatten`."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(self.conv(x).flatten(1))
        return out


IMAGES = torch.randn(4, 2, 4, 4)


@pytest.mark.parametrize(("model", "last"), [(Flattening, True), (Viewing, False)])
def test_images_go_channels_last_where_the_network_can(model: type[Viewing], last: bool) -> None:
    task = make(model=model, link="softmax", train=(IMAGES, CLASSES), validation=(IMAGES, CLASSES))
    learner, batch = task.new_model(0), task.batch(task.train, slice(0, 3))
    for tensor in (batch.inputs, learner.state_dict()["conv.weight"]):
        assert tensor.is_contiguous(memory_format=torch.channels_last) is last
        assert tensor.is_contiguous() is not last
    with isolated_rng(torch.device("cpu"), 0):
        plain = model()
    torch.testing.assert_close(learner(batch.inputs), plain(IMAGES[:3]))
    assert torch.equal(batch.inputs, IMAGES[:3])
    twin = pickle.loads(pickle.dumps(task))  # noqa: S301
    assert twin.description() == task.description()


def test_images_of_one_channel_make_what_follows_channels_last() -> None:
    """Where both orders are the same memory, strides decide what a convolution returns."""
    images = torch.randn(4, 1, 5, 3)
    moved = images_channels_last(images)
    assert torch.equal(moved, images)
    assert moved.data_ptr() == images.data_ptr()
    convolve = nn.Conv2d(1, 3, 2)
    for inputs, last in ((images, False), (moved, True)):
        outputs = convolve(inputs)
        assert outputs.is_contiguous(memory_format=torch.channels_last) is last
        torch.testing.assert_close(outputs, convolve(images))
