"""What a task that can be searched warns of, or refuses, before a search."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import evomal
from evomal.errors import InputError, TaskWarning
from evomal.losses.form import Form, Link
from evomal.tasks.data import Data
from evomal.tasks.sanity.metric import perfect_predictions
from evomal.tasks.sanity.shared_rows import shared_rows
from evomal.tasks.task import Task


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """(B, inputs) to (B, outputs), with something before and after."""

    def __init__(self, inputs: int, outputs: int, first: Any = None, last: Any = None) -> None:
        super().__init__()
        layers = [nn.Linear(inputs, 4), nn.ReLU(), nn.Linear(4, outputs)]
        self.layers = nn.Sequential(
            *([first()] if first else []), *layers, *([last] if last else [])
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def make(link: Link = "identity", **changes: Any) -> Task:
    """120 rows of three inputs; targets (n, 1), or of three classes (n,)."""
    inputs = changes.pop("inputs", draw(120, 3))
    targets = {
        "identity": inputs[:, :1] + inputs[:, 1:2],
        "sigmoid": (inputs[:, :1] > 0).float(),
        "softmax": inputs[:, :3].argmax(dim=1),
    }[link]
    targets = changes.pop("targets", targets)
    rows = changes.pop("rows", (slice(0, 80), slice(80, 100), slice(100, 120)))
    parts = [(inputs[part], targets[part]) for part in rows]
    model = changes.pop("model", partial(Net, inputs.shape[1], 3 if link == "softmax" else 1))
    return Task(model, *parts, link=link, **changes)


def messages(make_task: Callable[[], Any]) -> list[str]:
    """The task warnings of making a task; any other warning is an error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.simplefilter("always", TaskWarning)
        make_task()
    return [str(warning.message) for warning in caught]


def only(fragments: list[str], make_task: Callable[[], Any]) -> None:
    """Exactly one warning, in which all fragments are."""
    (message,) = messages(make_task)
    for fragment in fragments:
        assert fragment in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("link", ["identity", "sigmoid", "softmax"])
def test_sound_tasks_are_quiet(link: Link) -> None:
    assert messages(partial(make, link)) == []


@pytest.mark.parametrize("name", ["diabetes/mlp", "california/mlp", "mnist/logistic"])
def test_built_in_tasks_are_quiet(name: str, request: pytest.FixtureRequest) -> None:
    if name != "diabetes/mlp":
        request.getfixturevalue("data_dir")
    assert messages(partial(evomal.load_task, name)) == []


def test_the_published_split_is_not_blamed_for_what_it_is() -> None:
    assert messages(partial(evomal.load_task, "diabetes/mlp", split="published")) == []


def test_a_warning_points_to_the_line_that_makes_the_task() -> None:
    x = draw(40, 3)
    with pytest.warns(TaskWarning) as caught:
        Task(partial(Net, 3, 1), (x, x[:, :1]), (x, x[:, :1]), link="identity")
    assert {warning.filename for warning in caught} == {__file__}


# Classes


def test_classes_that_the_training_rows_lack() -> None:
    first, second = torch.zeros(80).long(), torch.arange(40) % 3
    only(
        ["No training row has class 2, but the validation rows do", "shuffle"],
        lambda: make("softmax", targets=torch.cat([torch.arange(80) % 2, second[:20], first[:20]])),
    )
    only(
        ["No training row has class 1, class 2, but the test rows do"],
        lambda: make(
            "softmax",
            targets=torch.cat([first - 0, first[:20], second[:20]]).where(
                torch.arange(120) != 0, 3
            ),
            model=partial(Net, 3, 4),
        ),
    )
    only(
        ["All training rows have class 0, so there is nothing to learn"],
        lambda: make("softmax", targets=torch.cat([first, second])),
    )


def test_targets_that_the_default_metric_does_not_take() -> None:
    soft = draw(120, 1).sigmoid()
    only(
        ["100.0% of the training targets lie between 0 and 1"],
        lambda: make("sigmoid", targets=soft),
    )
    metric = nn.functional.binary_cross_entropy_with_logits
    assert messages(lambda: make("sigmoid", targets=soft, metric=metric)) == []


def test_outputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="returns NaN or infinity for training inputs; check its"):
        make(preprocess=lambda x: x / 0 * 0)


# Metrics


def error(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).square().mean()


def correlation(pred: Tensor, target: Tensor) -> float:
    return float(np.corrcoef(pred.flatten().numpy(), target.flatten().numpy())[0, 1])


def auc(pred: Tensor, target: Tensor) -> float:
    return float(roc_auc_score(target.numpy(), pred.numpy()))


def recall(pred: Tensor, target: Tensor) -> Tensor:
    return ((pred > 0) & (target > 0)).sum() / target.sum()


def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.argmax(dim=1) == target).float().mean()


def negated(metric: Callable[..., Any], pred: Tensor, target: Tensor) -> Any:
    return -metric(pred, target)


HIGHER_IS_BETTER: list[tuple[Link, Callable[..., Any]]] = [
    ("identity", correlation),
    ("identity", partial(negated, error)),
    ("sigmoid", auc),
    ("sigmoid", recall),
    ("softmax", accuracy),
]


@pytest.mark.parametrize(("link", "metric"), HIGHER_IS_BETTER)
def test_the_direction_of_a_metric(link: Link, metric: Callable[..., Any]) -> None:
    other = partial(negated, metric)
    only(["but searches minimise it", "pass maximize=True"], partial(make, link, metric=metric))
    wrong = partial(make, link, metric=other, maximize=True)
    only(["but searches maximise it", "omit maximize=True"], wrong)
    assert messages(partial(make, link, metric=metric, maximize=True)) == []
    assert messages(partial(make, link, metric=other)) == []


LEGAL: dict[str, tuple[Link, Callable[..., Any]]] = {
    "logarithm of an error": ("identity", lambda p, t: error(p, t).log()),
    "logarithm by math": ("identity", lambda p, t: math.log(error(p, t))),
    "logarithm of an error rate": ("softmax", lambda p, t: (1 - accuracy(p, t)).log()),
    "pinball": ("identity", lambda p, t: torch.maximum(0.9 * (t - p), 0.1 * (p - t)).mean()),
    "misses only": ("sigmoid", lambda p, t: ((p <= 0) & (t > 0)).float().mean()),
    "constant": ("identity", lambda p, t: 0.5),
    "warns for bad predictions": (
        "identity",
        lambda p, t: (warnings.warn("w", stacklevel=1), error(p, t))[1],
    ),
}


@pytest.mark.parametrize(("link", "metric"), LEGAL.values(), ids=LEGAL)
def test_metrics_that_are_strange_but_fine(link: Link, metric: Callable[..., Any]) -> None:
    assert messages(partial(make, link, metric=metric)) == []


def test_perfect_predictions_by_hand() -> None:
    pred = torch.zeros(2, 3, dtype=torch.float16)
    found = perfect_predictions(torch.tensor([2, -100]), Form("softmax"), pred)
    assert found.tolist() == [[-10, -10, 10], [10, -10, -10]]
    assert found.dtype == torch.float16
    found = perfect_predictions(torch.tensor([[0, 1]]), Form("softmax"), pred[:, :2, None])
    assert found.tolist() == [[[10, -10], [-10, 10]]]
    found = perfect_predictions(torch.tensor([[1.0], [0.0], [0.5]]), Form("sigmoid"), pred[:, :1])
    assert found.tolist() == [[10], [-10], [0]]


def balanced_error(pred: Tensor, target: Tensor) -> Tensor:
    wrong = pred.argmax(dim=1) != target if pred.shape != target.shape else (pred > 0) != target
    return torch.stack([wrong[target == label].float().mean() for label in range(2)]).mean()


def without(index: int, link: Link, part: int) -> dict[str, Any]:
    """Rows of which every fourth is of class 1, and a part that does not hold one class."""
    rows = torch.arange(120)
    labels = (rows % 4 == 0).long()
    parts = [rows[:80], rows[80:100], rows[100:]]
    parts[part] = parts[part][labels[parts[part]] != index]
    targets = labels if link == "softmax" else labels[:, None].float()
    return {"inputs": draw(120, 3), "targets": targets, "rows": parts}


@pytest.mark.parametrize(
    ("link", "name"),
    [("softmax", "has class 1 (20 of 80"), ("sigmoid", "has target 1 (20 of 80")],
)
def test_a_class_that_validation_lacks_is_named(link: Any, name: str) -> None:
    data = without(1, link, part=1)
    model = partial(Net, 3, 2 if link == "softmax" else 1)
    with pytest.raises(InputError) as caught:
        make(link, model=model, metric=balanced_error, **data)
    assert "The metric is nan on the validation data even for perfect" in str(caught.value)
    assert f"no row there {name} training rows)" in str(caught.value)
    assert messages(partial(make, link, model=model, **data)) == []


def test_a_class_that_only_the_test_rows_lack_is_a_warning() -> None:
    data = without(0, "sigmoid", part=2)
    fragments = ["is nan on the test data", "no row there has target 0 (60 of 80 training rows)"]
    only(fragments, partial(make, "sigmoid", metric=balanced_error, **data))


def test_labels_and_pixels_that_are_missing_are_named() -> None:
    def every_label(pred: Tensor, target: Tensor) -> Tensor:
        return torch.stack([balanced_error(p, t) for p, t in zip(pred.T, target.T, strict=True)])[1]

    labels = (draw(120, 3, seed=1) > 0).float()
    labels[80:100, 1] = 1
    with pytest.raises(InputError, match=r"has target 0 of label 1 \(\d+ of 80 training rows\)"):
        make("sigmoid", model=partial(Net, 3, 3), targets=labels, metric=every_label)

    def last_class(pred: Tensor, target: Tensor) -> Tensor:
        return (pred.argmax(dim=1) != target)[target == 9].float().mean()

    pixels = torch.zeros(120, 2, dtype=torch.long)
    pixels[:80:40] = 9
    with pytest.raises(
        InputError, match=r"class 1 \(0 of 80 training rows\), .*, class 5 .*, 4 more;"
    ):
        make(
            "softmax",
            model=lambda: nn.Sequential(Net(3, 20), nn.Unflatten(1, (10, 2))),
            targets=pixels,
            metric=last_class,
        )


FAILING: dict[str, tuple[Callable[..., Any], str]] = {
    "nan": (lambda p, t: math.nan, "The metric is nan on the validation data"),
    "infinite": (lambda p, t: torch.tensor(math.inf), "The metric is inf on the validation data"),
    "takes probabilities": (
        lambda p, t: nn.functional.binary_cross_entropy(p, t),
        "raw outputs of the model, here of shape (20, 1), and targets of shape (20, 1).",
    ),
    "division by zero": (lambda p, t: 1 / 0, "fails (ZeroDivisionError: division by zero)"),
    "a vector": (lambda p, t: (p - t).abs(), "must return one number"),
}


@pytest.mark.parametrize(("metric", "fragment"), FAILING.values(), ids=FAILING)
def test_a_metric_that_no_prediction_can_save(metric: Callable[..., Any], fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        make(metric=metric)
    assert fragment in str(caught.value)


def test_a_metric_that_uses_the_task_is_left_alone() -> None:
    task: Task = make(metric=lambda p, t: task.task_loss(p, t))
    assert float(task.metric(torch.ones(2, 1), torch.zeros(2, 1))) == 1


# Scale


@pytest.mark.parametrize(
    ("scale", "shift", "fragment"),
    [
        ([1.0, 1.0, 3e4], [0.0, 0.0, 0.0], "column 2 has mean"),
        ([1.0, 5.0, 1.0], [0.0, 2010.0, 0.0], "column 1 has mean 2.01e+03 and standard"),
        ([1e-4, 1e-4, 1e-4], [0.0, 0.0, 0.0], "e-05 and standard deviation 0.0001"),
    ],
)
def test_inputs_far_from_unit_scale(scale: list[float], shift: list[float], fragment: str) -> None:
    inputs = draw(120, 3) * torch.tensor(scale) + torch.tensor(shift)
    targets = draw(120, 1)
    only(["training inputs", fragment], partial(make, inputs=inputs, targets=targets))
    quiet: list[dict[str, Any]] = [
        {"preprocess": lambda x: (x - torch.tensor(shift)) / torch.tensor(scale)},
        {"model": partial(Net, 3, 1, partial(nn.BatchNorm1d, 3))},
        {"model": partial(Net, 3, 1, partial(nn.BatchNorm1d, 3, affine=False))},
        {"model": partial(Net, 3, 1, partial(nn.LayerNorm, 3))},
    ]
    for settings in quiet:
        assert messages(partial(make, inputs=inputs, targets=targets, **settings)) == []


def test_pixels_up_to_255_as_floats() -> None:
    pixels = torch.randint(256, (120, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    model = lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 1))  # noqa: E731
    settings: dict[str, Any] = {"model": model, "targets": draw(120, 1)}
    only(["they have mean 1"], partial(make, inputs=pixels.float(), **settings))
    bytes_ = pixels.byte()
    assert messages(partial(make, inputs=bytes_, preprocess=lambda x: x / 255, **settings)) == []


def test_numbers_of_tokens_have_no_scale() -> None:
    tokens = torch.randint(5000, (120, 4), generator=torch.Generator().manual_seed(0))
    model = lambda: nn.Sequential(nn.Embedding(5000, 2), nn.Flatten(), nn.Linear(8, 1))  # noqa: E731
    assert messages(partial(make, inputs=tokens, targets=draw(120, 1), model=model)) == []


class WithParameter(Net):
    """A network whose layers are not all that has parameters."""

    def __init__(self) -> None:
        super().__init__(3, 1, partial(nn.BatchNorm1d, 3))
        self.scale = nn.Parameter(torch.ones(()))


def test_the_first_layer_decides_and_not_what_is_around_it() -> None:
    inputs = 1e4 * draw(120, 3)
    settings: dict[str, Any] = {"inputs": inputs, "targets": draw(120, 1)}
    assert messages(partial(make, model=WithParameter, **settings)) == []


class Scaled(Net):
    """A network whose outputs are on the scale of its targets."""

    def forward(self, x: Tensor) -> Tensor:
        return 3e5 * super().forward(x)


def test_targets_far_from_unit_scale() -> None:
    targets = 1e5 * draw(120, 1, seed=1) + 3e5
    only(["training targets", "they have mean 2.", "e+05"], partial(make, targets=targets))
    assert messages(partial(make, targets=targets, model=partial(Scaled, 3, 1))) == []
    assert messages(partial(make, targets=50 + 50 * draw(120, 1))) == []


# Rows in two parts


def test_shared_rows_are_counted_and_exact() -> None:
    train = Data(draw(50, 20), draw(50, 1, seed=1))
    same = Data(train.inputs[[3, 4, 5]].clone(), train.targets[[3, 4, 5]].clone())
    other_input = Data(same.inputs.clone(), same.targets)
    other_input.inputs[0, 1] += 1e-6  # one of those that the digest leaves out
    assert shared_rows(train, same, other_input, Data(same.inputs, same.targets + 1)) == [3, 2, 0]
    assert shared_rows(train, Data(draw(5, 7), draw(5, 1))) == [0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64, torch.bfloat16])
def test_shared_rows_of_any_dtype(dtype: torch.dtype) -> None:
    inputs = (100 * draw(60, 1, 3, 3).abs()).to(dtype)
    inputs[10] = inputs[50] = 0  # blank images do not count
    targets = torch.arange(60) % 2
    train, part = Data(inputs[:40], targets[:40]), Data(inputs[30:], targets[30:].clone())
    part.targets[0] += 5
    assert shared_rows(train, part) == [9]


def test_rows_in_two_parts_are_told_with_their_number() -> None:
    rows = [slice(0, 80), slice(75, 100), slice(60, 90)]
    found = messages(partial(make, rows=rows))
    assert ["5 of 25 validation rows (20.0%)" in m for m in found] == [True, False]
    assert "20 of 30 test rows (66.7%)" in found[1]


def test_rows_that_are_equal_by_nature_are_not_told() -> None:
    inputs = torch.randint(2, (120, 3), generator=torch.Generator().manual_seed(0)).float()
    assert shared_rows(Data(inputs[:80], inputs[:80]), Data(inputs[80:], inputs[80:])) == [40]
    assert messages(partial(make, inputs=inputs)) == []


# Models


def seeding() -> nn.Module:
    torch.manual_seed(0)
    return Net(3, 1)


def seeding_in_a_fork() -> nn.Module:
    with torch.random.fork_rng():
        return seeding()


PRETRAINED = Net(3, 1)


def zeros() -> nn.Module:
    layer = nn.Linear(3, 1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def test_a_factory_that_gives_every_seed_one_network() -> None:
    only(["seeds torch,", "remove the seeding"], partial(make, model=seeding))
    for model in (seeding_in_a_fork, lambda: copy.deepcopy(PRETRAINED)):
        only(["the same parameters for two seeds", "pretrained"], partial(make, model=model))
    assert messages(partial(make, model=zeros)) == []


NOT_RAW: list[tuple[Link, nn.Module, str]] = [
    ("softmax", nn.Softmax(1), "a softmax"),
    ("softmax", nn.Sigmoid(), "a sigmoid"),
    ("softmax", nn.ReLU(), "a ReLU"),
    ("sigmoid", nn.Sigmoid(), "a sigmoid"),
    ("sigmoid", nn.Sequential(nn.Sigmoid(), nn.Flatten(0), nn.Unflatten(0, (-1, 1))), "a sigmoid"),
    ("sigmoid", nn.ReLU(), "a ReLU"),
]


@pytest.mark.parametrize(("link", "last", "name"), NOT_RAW, ids=str)
def test_outputs_that_are_not_raw(link: Link, last: nn.Module, name: str) -> None:
    model = partial(Net, 3, 3 if link == "softmax" else 1, None, last)
    only([f"The model seems to end in {name}, but", "logits"], partial(make, link, model=model))


class Share(Net):
    """Shares of one, by hand."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x).exp()
        return out / out.sum(dim=1, keepdim=True)


def test_a_softmax_by_hand_is_one_too() -> None:
    only(["end in a softmax"], partial(make, "softmax", model=partial(Share, 3, 3)))


@pytest.mark.parametrize("seed", range(5))
def test_logits_that_happen_to_be_shares_are_raw(seed: int) -> None:
    def model() -> nn.Module:
        net = Net(3, 1)
        nn.init.constant_(net.get_parameter("layers.2.bias"), 0.5)
        nn.init.uniform_(net.get_parameter("layers.2.weight"), -0.01, 0.01)
        return net

    assert messages(partial(make, "sigmoid", model=model)) == []
    assert (
        messages(partial(make, "softmax", model=partial(Net, 3, 3, None, nn.LogSoftmax(1)))) == []
    )


def test_a_regression_model_that_cannot_reach_its_targets() -> None:
    model = partial(Net, 3, 1, None, nn.ReLU())
    targets = torch.ones(120, 1)
    targets[:20] = -0.5
    only(
        ["end in a ReLU", "25.0% of the training targets"],
        partial(make, model=model, targets=targets),
    )
    assert messages(partial(make, model=model, targets=targets.abs())) == []
    model = partial(Net, 3, 1, None, nn.Sigmoid())
    only(["between 0 and 1, but 75.0%"], partial(make, model=model, targets=targets.abs() * 1.5))
